//! Descriptors: over packet sockets, in sealed memory, through pipes, and kept out of a program about to be executed.

mod memory;
mod packet;
mod pipe;
mod writeback;

pub use memory::sealed_memfd;
pub use packet::{
    MAX_FDS, PeerCredentials, accept_packet, connect_seqpacket, listen_seqpacket, peer_credentials,
    recv_packet, send_packet, seqpacket_pair,
};
pub use pipe::{close_from, close_range_cloexec, duplicate, pipe, read, read_at, set_nonblocking, write};
pub use writeback::start_writeback;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// The result of a system call that gives a new descriptor, or -1 and errno.
pub(crate) fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = checked(result)?;
    // A descriptor is an int; the kernel gives no larger number.
    let number = i32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The result of a system call, or errno where it is -1.
pub(crate) fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`checked`] for calls whose only news is that they worked.
pub(crate) fn done(result: libc::c_long) -> io::Result<()> {
    checked(result).map(drop)
}

#[cfg(test)]
mod tests;
