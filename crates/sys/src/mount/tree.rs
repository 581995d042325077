use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::fd::{done, owned};

/// A detached copy of the mount that `source` (a file or directory in our mount namespace) lies in, seen from there;
/// `recursive`: with all mounts below (open_tree(2), OPEN_TREE_CLONE).
pub fn clone_tree(source: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(source.as_raw_fd(), c"", recursive)
}

/// [`clone_tree`] of a path. A link at its end is followed.
pub fn clone_path(path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, path, recursive)
}

/// A detached clone of what is at `path` below the root of a detached mount; links lead nowhere else.
pub fn clone_below(mount: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::O_PATH;
    let found = crate::path::open_in_root(mount, path, flags, nix::sys::stat::Mode::empty())?;
    match clone_tree(std::os::fd::AsFd::as_fd(&found), false) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => super::legacy::clone_below(mount, path),
        cloned => cloned,
    }
}

fn open_tree(directory: i32, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE.cast_unsigned() } else { 0 };
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned() | recursive;
    // SAFETY: the path ends with NUL and is alive during the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// Puts a detached mount onto `target`, an O_PATH descriptor in our mount namespace (move_mount(2)): no path is
/// resolved, so nothing can be swapped in between. The descriptor of the mount stays valid.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    move_mount(mount, target.as_raw_fd(), c"")
}

/// [`attach`] at a name below `directory`, for directories nobody else writes to.
pub fn attach_at(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    move_mount(mount, directory.as_raw_fd(), name)
}

fn move_mount(mount: BorrowedFd<'_>, directory: i32, name: &CStr) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths end with NUL and are alive during the call.
    done(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), directory, name.as_ptr(), flags)
    })
}

/// Unmounts what lies at `path`, at once for new lookups (umount2(2), MNT_DETACH); a link is not followed.
pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with NUL.
    done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into())
}

/// Makes `root`, the root of a mount in our namespace, the root of the namespace and drops the old one with all that
/// was mounted in it. The working directory is the new root afterwards.
///
/// The old root is stacked on the new one and taken off again, so no directory for it is needed (pivot_root(2),
/// "pivot_root(".", ".")").
pub fn pivot_to(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor only.
    done(unsafe { libc::fchdir(root.as_raw_fd()) }.into())?;
    // SAFETY: constant C strings.
    done(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: a constant C string. "." is the new root with the old one on top: the topmost goes.
    done(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    // SAFETY: a constant C string.
    done(unsafe { libc::chdir(c"/".as_ptr()) }.into())
}
