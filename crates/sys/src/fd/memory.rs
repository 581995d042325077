use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{done, owned};

/// A memory file with this content that nobody can change any more (memfd_create(2), F_ADD_SEALS in fcntl(2)).
///
/// It may be executed through /proc/self/fd; `name` shows up in /proc only.
pub fn sealed_memfd(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` ends with NUL; the call touches no other memory of ours.
    let made = owned(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags | libc::MFD_EXEC) });
    let fd = match made {
        // MFD_EXEC came with Linux 6.3; before, every memfd is executable.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: as above.
            owned(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })?
        }
        made => made?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an int and touches no memory of ours.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into())?;
    Ok(file.into())
}
