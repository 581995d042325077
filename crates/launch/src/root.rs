//! Places inside the container's root, as descriptors.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_sys::path::open_in_root_across_mounts;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// The container's root directory, mounted in our namespace.
pub(crate) struct Root(pub(crate) OwnedFd);

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// A path without its leading slashes; the root itself is ".".
fn relative(path: &CStr) -> CString {
    let bytes = path.to_bytes();
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
    let rest = if start == bytes.len() { b"." } else { &bytes[start..] };
    CString::new(rest).unwrap_or_default()
}

impl Root {
    /// What is at `path`, links followed inside the root; no magic link, never outside.
    pub(crate) fn open(&self, path: &CStr) -> io::Result<OwnedFd> {
        self.open_as(path, OFlag::O_PATH)
    }

    pub(crate) fn open_as(&self, path: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
        open_in_root_across_mounts(&self.0, relative(path).as_c_str(), flags, Mode::empty())
    }

    /// The directory at `path`, made with its parents where it is missing (mode 0755, root's).
    pub(crate) fn directory(&self, path: &CStr) -> io::Result<OwnedFd> {
        match self.open_as(path, DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(path),
            opened => opened,
        }
    }

    /// Component by component, each made in the directory that the path so far leads to inside the root. A link to
    /// something missing is followed by hand, and what it names is made: images link to files of a running system.
    fn make(&self, path: &CStr) -> io::Result<OwnedFd> {
        let mut path = path.to_bytes().to_vec();
        for _ in 0..LINKS_MAX {
            match self.make_until_link(&path)? {
                Made::Directory(made) => return Ok(made),
                Made::Link(onward) => path = onward,
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    fn make_until_link(&self, path: &[u8]) -> io::Result<Made> {
        let mut current = self.0.as_fd().try_clone_to_owned()?;
        let mut so_far = Vec::new();
        let mut parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty());
        while let Some(part) = parts.next() {
            let parent = so_far.len();
            so_far.extend_from_slice(part);
            let prefix = CString::new(so_far.clone())?;
            so_far.push(b'/');
            current = match self.open_as(&prefix, DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = CString::new(part)?;
                    match nix::sys::stat::mkdirat(&current, name.as_c_str(), Mode::from_bits_truncate(0o755))
                    {
                        // Nothing opens and yet it is there: a link to nothing.
                        Err(nix::Error::EEXIST) => {
                            let mut onward = follow(&current, &name, &so_far[..parent])?;
                            for part in parts {
                                onward.push(b'/');
                                onward.extend_from_slice(part);
                            }
                            return Ok(Made::Link(onward));
                        }
                        made => made?,
                    }
                    self.open_as(&prefix, DIRECTORY)?
                }
                opened => opened?,
            };
        }
        Ok(Made::Directory(current))
    }

    /// The directory that holds `path`, made where missing, and the last name.
    pub(crate) fn parent(&self, path: &CStr) -> io::Result<(OwnedFd, CString)> {
        let bytes = path.to_bytes();
        let trimmed = &bytes[..bytes.iter().rposition(|b| *b != b'/').map_or(0, |n| n + 1)];
        let slash = trimmed.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        let (directory, name) = trimmed.split_at(slash);
        if name.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((self.directory(&CString::new(directory)?)?, CString::new(name)?))
    }

    /// A place to mount on: of the same sort (directory or not) as what will be mounted, made where missing.
    pub(crate) fn place(&self, path: &CStr, directory: bool) -> io::Result<OwnedFd> {
        if directory {
            return self.directory(path);
        }
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            match self.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            let (parent, name) = self.parent(&path)?;
            let flags =
                OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
            match nix::fcntl::openat(&parent, name.as_c_str(), flags, Mode::from_bits_truncate(0o644)) {
                Ok(_made) => {}
                // A link to nothing, such as /etc/resolv.conf in many images: what it names is the place.
                Err(nix::Error::EEXIST) => {
                    let bytes = path.to_bytes();
                    let last = bytes.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
                    path = CString::new(follow(&parent, &name, &bytes[..last])?)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }
}

/// As many links as the kernel follows in one path (path_resolution(7)).
const LINKS_MAX: usize = 40;

enum Made {
    Directory(OwnedFd),
    /// The path to go on with.
    Link(Vec<u8>),
}

/// The path that the link `name` in `parent` leads to, seen from the root; `before` leads to `parent`, with a slash.
fn follow(parent: &OwnedFd, name: &CStr, before: &[u8]) -> io::Result<Vec<u8>> {
    let target = nix::fcntl::readlinkat(parent, name)?.into_encoded_bytes();
    if target.starts_with(b"/") { Ok(target) } else { Ok([before, &target].concat()) }
}

pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<FileStat> {
    Ok(fstat(fd)?)
}

pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mode = SFlag::from_bits_truncate(stat(fd)?.st_mode);
    Ok(mode & SFlag::S_IFMT == SFlag::S_IFDIR)
}
