//! Where an entry is made: its parent, open, found or made below the root by whichever links lead there.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use berth_sys::path::{open_in_root, open_without_links};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, futimens};
use nix::sys::time::TimeSpec;

use super::{CACHED, DIRECTORY, Extractor, Problem, Step, c_string};

/// The first directory that did not take its times back, and why.
pub(super) type Untimed = Option<(Vec<u8>, Errno)>;

/// An open directory, and its path below the root when every link is followed. There is one of each directory at a time, but
/// for moments in which it makes nothing.
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    pub(super) path: Vec<u8>,
    /// Given back when it is closed: each entry made in a directory changes its time. `None` as long as no entry named it.
    pub(super) times: Cell<Option<(TimeSpec, TimeSpec)>>,
    pub(super) failed: Rc<RefCell<Untimed>>,
}

impl Drop for Parent {
    fn drop(&mut self) {
        let Some((atime, mtime)) = self.times.get() else { return };
        if let Err(error) = futimens(&self.fd, &atime, &mtime) {
            self.failed.borrow_mut().get_or_insert((self.path.clone(), error));
        }
    }
}

impl Parent {
    pub(super) fn join(&self, name: &CStr) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.to_bytes().to_vec(),
            false => [&self.path, &b"/"[..], name.to_bytes()].concat(),
        }
    }
}

/// A place to make an entry at: the open parent and one component.
pub(super) struct Place {
    pub(super) parent: Rc<Parent>,
    pub(super) name: CString,
}

impl Place {
    /// As the tree's record names it.
    pub(super) fn path(&self) -> Vec<u8> {
        self.parent.join(&self.name)
    }
}

impl<W: Write> Extractor<'_, W> {
    pub(super) fn clean<'n>(&self, name: &'n [u8]) -> Step<Vec<&'n [u8]>> {
        if name.len() > self.limits.path {
            return Err(Problem::Refused("a path that is too long"));
        }
        let path: Vec<_> = name.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        if path.contains(&&b".."[..]) {
            return Err(Problem::Refused("a path with `..`"));
        }
        if path.len() > self.limits.depth {
            return Err(Problem::Refused("a path that is too deep"));
        }
        if name.contains(&0) || path.iter().any(|part| part.len() > 255) {
            return Err(Problem::Refused("a name that no file can have"));
        }
        Ok(path)
    }

    /// The open directory at `path`; what is missing of it is made.
    pub(super) fn directory(&mut self, path: &[&[u8]]) -> Step<Rc<Parent>> {
        let key = path.join(&b'/');
        if let Some(open) = self.directories.get(&key) {
            return Ok(open.clone());
        }
        let open = match self.open(&key) {
            Ok(open) => open,
            Err(error) => match (error.raw_os_error().map(Errno::from_raw), path.split_last()) {
                (Some(Errno::ENOENT | Errno::ENOTDIR), Some((&last, above))) => {
                    let parent = self.directory(above)?;
                    let place = self.place(parent, last)?;
                    let fd = self.fresh_directory(&place)?;
                    Parent { fd, path: place.path(), times: Cell::new(None), failed: self.untimed.clone() }
                }
                (Some(Errno::ELOOP), _) => {
                    return Err(Problem::Refused("a path through a link that leads in a circle"));
                }
                _ => return Err(error.into()),
            },
        };
        if self.directories.len() >= CACHED {
            self.directories.clear();
        }
        // By whichever way it is reached, it is one.
        let open = match self.directories.get(&open.path) {
            Some(known) => known.clone(),
            None => Rc::new(open),
        };
        self.directories.insert(open.path.clone(), open.clone());
        self.directories.insert(key, open.clone());
        Ok(open)
    }

    /// Links inside the root lead to places that no entry could name; they are bounded as names are.
    pub(super) fn place(&self, parent: Rc<Parent>, name: &[u8]) -> Step<Place> {
        let place = Place { parent, name: c_string(name)? };
        let above = &place.parent.path;
        if above.len() + name.len() >= self.limits.path {
            return Err(Problem::Refused("a path that is too long"));
        }
        let depth = 1 + usize::from(!above.is_empty()) + above.iter().filter(|&&byte| byte == b'/').count();
        if depth > self.limits.depth {
            return Err(Problem::Refused("a path that is too deep"));
        }
        Ok(place)
    }

    /// A directory that is there, links followed inside the root.
    pub(super) fn open(&self, path: &[u8]) -> io::Result<Parent> {
        if path.is_empty() {
            let fd = openat(self.root, c".", DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            return self.parent(fd, Vec::new());
        }
        match open_without_links(self.root, path, DIRECTORY, Mode::empty()) {
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                let fd = open_in_root(self.root, path, DIRECTORY, Mode::empty())?;
                let path = below(self.root, &fd)?;
                self.parent(fd, path)
            }
            opened => self.parent(opened?, path.to_vec()),
        }
    }

    /// A directory that was there before: what its times are, they are to be.
    pub(super) fn parent(&self, fd: OwnedFd, path: Vec<u8>) -> io::Result<Parent> {
        let found = nix::sys::stat::fstat(&fd)?;
        let times = (
            TimeSpec::new(found.st_atime, found.st_atime_nsec),
            TimeSpec::new(found.st_mtime, found.st_mtime_nsec),
        );
        Ok(Parent { fd, path, times: Cell::new(Some(times)), failed: self.untimed.clone() })
    }
}

/// What is at a place.
#[derive(PartialEq, Eq)]
pub(super) enum Standing {
    Nothing,
    Whiteout,
    Link,
    Other,
}

pub(super) fn kind_at(parent: &OwnedFd, name: &CStr) -> Step<Standing> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout(&stat) => Ok(Standing::Whiteout),
        Ok(stat) if format(&stat) == SFlag::S_IFLNK => Ok(Standing::Link),
        Ok(_) => Ok(Standing::Other),
        Err(Errno::ENOENT) => Ok(Standing::Nothing),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn format(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    format(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// Where below the root a directory is.
pub(super) fn below(root: BorrowedFd<'_>, directory: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::ffi::OsStringExt as _;
    let place = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}"));
    let (root, directory) = (place(root.as_raw_fd())?, place(directory.as_raw_fd())?);
    let path = directory.strip_prefix(&root).map_err(io::Error::other)?;
    Ok(path.as_os_str().to_owned().into_vec())
}
