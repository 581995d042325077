//! Paths inside an untrusted root: openat2 (`openat2(2)`) and extended attributes by descriptor (`xattr(7)`).
//!
//! Whoever wrote the tree below a root (an image author, a running container) may have put symbolic links
//! anywhere. With [`open_in_root`] no link, `..` or magic link leads out of the root; the last component is only
//! followed when the caller leaves `O_NOFOLLOW` out.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::NixPath;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// Opens `path` with `root` as the root directory of the whole resolution (`RESOLVE_IN_ROOT`), without magic links
/// and without crossing a mount. `O_CLOEXEC` is always set; `mode` counts only with `O_CREAT`.
pub fn open_in_root<P: ?Sized + NixPath>(
    root: impl AsFd,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    resolve(root, path, flags, mode, ResolveFlag::RESOLVE_NO_XDEV)
}

/// As [`open_in_root`], but a symbolic link anywhere in the path is `ELOOP`.
pub fn open_without_links<P: ?Sized + NixPath>(
    root: impl AsFd,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    resolve(root, path, flags, mode, ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// As [`open_in_root`], but mounts below the root may be entered (a container's own tree with its volumes).
pub fn open_in_root_across_mounts<P: ?Sized + NixPath>(
    root: impl AsFd,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    resolve(root, path, flags, mode, ResolveFlag::empty())
}

fn resolve<P: ?Sized + NixPath>(
    root: impl AsFd,
    path: &P,
    flags: OFlag,
    mode: Mode,
    more: ResolveFlag,
) -> io::Result<OwnedFd> {
    // openat2 refuses a mode where nothing is created, unlike open.
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more);
    loop {
        match openat2(root.as_fd(), path, how) {
            // EAGAIN: a rename elsewhere raced a `..`, the kernel asks to try again (openat2(2)).
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

/// Sets an extended attribute of an open file or directory (`fsetxattr(2)`; not for `O_PATH`).
pub fn set_xattr(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, the name is NUL-terminated, and the kernel only reads
    // `value.len()` bytes from a slice of that length.
    let rc = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an extended attribute of `name` in `dir` itself, also of a symbolic link, fifo or device.
///
/// `name` must be one component: it is the last one of the path, so no link is followed.
pub fn set_xattr_at(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr, value: &[u8]) -> io::Result<()> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    if name.to_bytes().contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path)?;
    // SAFETY: both strings are NUL-terminated and live through the call, the kernel only reads `value.len()` bytes.
    let rc =
        unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Every extended attribute of `name` in `dir` itself, also of a symbolic link, fifo or device; none where the filesystem
/// has none. `name` must be one component, as for [`set_xattr_at`].
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<(CString, Vec<u8>)>> {
    /// The kernel's bound of a list and of a value (xattr(7)).
    const MOST: usize = 65536;
    if name.to_bytes().contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path)?;
    let size = |got: isize| usize::try_from(got).map_err(|_| io::Error::last_os_error());
    // SAFETY: the path is NUL-terminated; with no buffer the kernel only tells the size.
    let length = size(unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) });
    match length {
        Ok(0) => return Ok(Vec::new()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut list = vec![0_u8; MOST];
    // SAFETY: the path is NUL-terminated and the buffer writable for the length given.
    let length = size(unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) })?;
    list.truncate(length);
    let mut value = vec![0_u8; MOST];
    let mut all = Vec::new();
    for attribute in list.split_inclusive(|&byte| byte == 0) {
        let attribute = CStr::from_bytes_with_nul(attribute).map_err(io::Error::other)?.to_owned();
        // SAFETY: both strings are NUL-terminated and the buffer is writable for the length given.
        let got = size(unsafe {
            libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), value.as_mut_ptr().cast(), value.len())
        })?;
        all.push((attribute, value[..got].to_vec()));
    }
    Ok(all)
}

/// Names of the extended attributes of an open file or directory; none where the filesystem has none.
pub fn xattr_names(file: impl AsFd) -> io::Result<Vec<CString>> {
    let fd = file.as_fd().as_raw_fd();
    // Most have none: the kernel only tells the size.
    // SAFETY: the descriptor is borrowed for the call, and with no buffer nothing is written.
    let length = unsafe { libc::flistxattr(fd, std::ptr::null_mut(), 0) };
    let length = match usize::try_from(length) {
        Ok(0) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(_) => {
            let error = io::Error::last_os_error();
            let none = error.raw_os_error() == Some(libc::EOPNOTSUPP);
            return if none { Ok(Vec::new()) } else { Err(error) };
        }
    };
    let mut list = vec![0_u8; length];
    // SAFETY: the buffer is writable for the length given, and the kernel writes no more than that.
    let got = unsafe { libc::flistxattr(fd, list.as_mut_ptr().cast(), list.len()) };
    list.truncate(usize::try_from(got).map_err(|_| io::Error::last_os_error())?);
    let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| CString::new(name).map_err(io::Error::from)).collect()
}

/// Takes an extended attribute away from an open file or directory (`fremovexattr(2)`).
pub fn remove_xattr(file: impl AsFd, name: &CStr) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and the name is NUL-terminated.
    let rc = unsafe { libc::fremovexattr(file.as_fd().as_raw_fd(), name.as_ptr()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an extended attribute of at most 4096 bytes; `None` where it is not set or not supported.
pub fn get_xattr(file: impl AsFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; 4096];
    // SAFETY: the buffer is writable for the length given, and the kernel writes no more than that.
    let got = unsafe {
        libc::fgetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    if let Ok(length) = usize::try_from(got) {
        value.truncate(length);
        return Ok(Some(value));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("berth-sys-path-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("root/etc")).unwrap();
        fs::write(dir.join("secret"), "outside").unwrap();
        fs::write(dir.join("root/etc/file"), "inside").unwrap();
        dir
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let dir = scratch("escape");
        symlink("../secret", dir.join("root/up")).unwrap();
        symlink("/etc", dir.join("root/abs")).unwrap();
        let root = File::open(dir.join("root")).unwrap();
        let open = |path: &str| open_in_root(&root, path, OFlag::O_RDONLY, Mode::empty());
        for path in ["up", "../secret", "../../secret", "/secret"] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
        assert!(open("abs/file").is_ok(), "an absolute link stays inside");
        let nofollow = open_in_root(&root, "abs", OFlag::O_RDONLY | OFlag::O_NOFOLLOW, Mode::empty());
        assert_eq!(nofollow.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn attributes_are_read_back() {
        let dir = scratch("xattr");
        let file = File::open(dir.join("root/etc/file")).unwrap();
        assert_eq!(get_xattr(&file, c"trusted.berth").unwrap(), None);
        set_xattr(&file, c"trusted.berth", b"y").unwrap();
        assert_eq!(get_xattr(&file, c"trusted.berth").unwrap().as_deref(), Some(&b"y"[..]));
        let parent = File::open(dir.join("root")).unwrap();
        symlink("etc/file", dir.join("root/link")).unwrap();
        set_xattr_at(parent.as_fd(), c"link", c"trusted.own", b"z").unwrap();
        assert_eq!(get_xattr(&file, c"trusted.own").unwrap(), None, "the link was not followed");
        let all = xattrs_at(parent.as_fd(), c"link").unwrap();
        assert!(all.contains(&(c"trusted.own".to_owned(), b"z".to_vec())), "{all:?}");
        assert!(open_without_links(&parent, "link", OFlag::O_RDONLY, Mode::empty()).is_err());
        assert!(set_xattr_at(parent.as_fd(), c"etc/file", c"trusted.own", b"z").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
