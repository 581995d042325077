//! Pseudo terminals of a devpts that is not the caller's own (ioctl_tty(2)): everything by descriptor, no name is
//! resolved.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::fd::{done, owned};

/// The other side of a master: unlocks it and opens the terminal (TIOCSPTLCK, TIOCGPTPEER; Linux 4.13).
pub fn open_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int through the pointer, which is alive.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as an integer and returns a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Makes the terminal the controlling one of the session we lead (TIOCSCTTY).
pub fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an integer only.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
}
