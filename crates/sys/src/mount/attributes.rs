use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::fd::done;

/// Per-mount flags (MOUNT_ATTR_* of mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
}

impl Attributes {
    /// No set-uid, no devices, no programs: what kernel filesystems get.
    pub const KERNEL: Self = Self { readonly: false, nosuid: true, nodev: true, noexec: true };

    pub(super) fn bits(self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(self.readonly, libc::MOUNT_ATTR_RDONLY)
            | bit(self.nosuid, libc::MOUNT_ATTR_NOSUID)
            | bit(self.nodev, libc::MOUNT_ATTR_NODEV)
            | bit(self.noexec, libc::MOUNT_ATTR_NOEXEC)
    }
}

/// Whether mounts made on one side show up on the other (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
        }
    }
}

/// Adds flags to a mount, detached or in our namespace; `recursive`: also to all below it.
pub fn set_attributes(mount: BorrowedFd<'_>, add: Attributes, recursive: bool) -> io::Result<()> {
    if add == Attributes::default() {
        return Ok(());
    }
    setattr(mount, add.bits(), 0, recursive)
}

/// Sets the propagation of a mount, detached or in our namespace; `recursive`: also of all below it.
pub fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation, recursive: bool) -> io::Result<()> {
    setattr(mount, 0, propagation.bits(), recursive)
}

/// Shows the files of a detached mount with the ids that `userns` maps theirs to (MOUNT_ATTR_IDMAP): what root owns on
/// disk is root's inside the namespace. Once in a mount's life.
///
/// # Errors
/// EINVAL when the filesystem cannot (mount_setattr(2) has the list).
pub fn set_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns = u64::from(userns.as_raw_fd().cast_unsigned());
    set(mount, libc::MOUNT_ATTR_IDMAP, 0, userns, recursive)
}

fn setattr(mount: BorrowedFd<'_>, attr_set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    set(mount, attr_set, propagation, 0, recursive)
}

fn set(
    mount: BorrowedFd<'_>,
    attr_set: u64,
    propagation: u64,
    userns_fd: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the structure is alive and its true size is passed.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
}
