//! User namespaces as seen from outside.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::fd::owned;

/// The user namespace that owns a namespace of another kind (ioctl_ns(2), NS_GET_USERNS).
///
/// # Errors
/// EPERM when the owner is neither ours nor below ours.
pub fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `_IO(0xb7, 1)` of linux/nsfs.h.
    const GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: this request takes no argument; it gives a new descriptor.
    owned(unsafe { libc::ioctl(namespace.as_raw_fd(), GET_USERNS) }.into())
}
