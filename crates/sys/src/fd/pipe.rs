use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{checked, done};

/// A pipe (reading end, writing end), close-on-exec, blocking, with room for `size` bytes where the kernel allows it
/// (F_SETPIPE_SZ in fcntl(2); refused beyond /proc/sys/fs/pipe-max-size, then it keeps the default of 64 KiB).
pub fn pipe(size: Option<usize>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(size) = size.and_then(|size| i32::try_from(size).ok()) {
        // A smaller pipe works too.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size));
    }
    Ok((reader, writer))
}

/// O_NONBLOCK on the open file description: everyone who shares it sees it.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// read(2); 0 is the end.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(fd, buffer)?)
}

/// pread(2): leaves the file's position alone.
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: i64) -> io::Result<usize> {
    let number = fd.as_fd().as_raw_fd();
    // SAFETY: pointer and length are those of one live buffer; `fd` stays open during the call.
    let read = unsafe { libc::pread(number, buffer.as_mut_ptr().cast(), buffer.len(), offset) };
    let read = checked(libc::c_long::try_from(read).unwrap_or(-1))?;
    Ok(usize::try_from(read).unwrap_or(0))
}

/// write(2); may write less than asked.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(fd, bytes)?)
}

/// A second descriptor for the same open file, close-on-exec, with a number of at least 3: never one of the standard
/// streams.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    super::owned(number.into())
}

/// Every descriptor from `first` on is closed at the next execve (close_range(2), CLOSE_RANGE_CLOEXEC, Linux 5.11).
pub fn close_range_cloexec(first: u32) -> io::Result<()> {
    // SAFETY: takes three integers; marking descriptors close-on-exec invalidates none of ours.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Closes every descriptor from `first` on (close_range(2)). For a cloned child that goes on to own nothing: no
/// [`OwnedFd`] of the process may be used, or dropped, afterwards.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: integers only; what that means for descriptors somebody owns is the caller's promise above.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}
