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

    /// Component by component, each made in the directory that the path so far leads to inside the root.
    fn make(&self, path: &CStr) -> io::Result<OwnedFd> {
        let mut current = self.0.as_fd().try_clone_to_owned()?;
        let mut so_far = Vec::new();
        for part in path.to_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            so_far.extend_from_slice(part);
            let prefix = CString::new(so_far.clone())?;
            so_far.push(b'/');
            current = match self.open_as(&prefix, DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = CString::new(part)?;
                    nix::sys::stat::mkdirat(&current, name.as_c_str(), Mode::from_bits_truncate(0o755))?;
                    self.open_as(&prefix, DIRECTORY)?
                }
                opened => opened?,
            };
        }
        Ok(current)
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
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = self.parent(path)?;
                let flags =
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
                match nix::fcntl::openat(&parent, name.as_c_str(), flags, Mode::from_bits_truncate(0o644)) {
                    Ok(_made) => {}
                    Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                self.open(path)
            }
            opened => opened,
        }
    }
}

pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<FileStat> {
    Ok(fstat(fd)?)
}

pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mode = SFlag::from_bits_truncate(stat(fd)?.st_mode);
    Ok(mode & SFlag::S_IFMT == SFlag::S_IFDIR)
}
