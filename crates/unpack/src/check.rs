//! A layer on disk beside the record of what was made.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use berth_sys::path::{open_in_root, xattrs_at};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{Whence, lseek};

use crate::extract::{kept, shown};
use crate::sum::Zeros;
use crate::tree::{self, Node, Tree, crc};

/// Differences told; the rest is counted.
const TOLD: usize = 20;
const BUFFER: usize = 256 << 10;

/// Something that is not as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub path: String,
    pub what: &'static str,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// The first of them.
    pub differences: Vec<Difference>,
    /// All of them.
    pub count: u64,
    pub entries: u64,
    /// Of file contents.
    pub bytes: u64,
}

/// Compares what is in `layer` with the record that [`unpack`](crate::unpack) wrote: names, types, modes, owners, times,
/// attributes, links and contents. Reads every file once. An error is of the record; what cannot be read of the layer is
/// a difference.
pub fn check(layer: BorrowedFd<'_>, record: impl Read) -> io::Result<Checked> {
    let mut check = Check {
        expected: tree::read(record)?,
        found: Checked::default(),
        inodes: HashMap::new(),
        zeros: Zeros::default(),
        buffer: vec![0; BUFFER],
    };
    check.walk(layer)?;
    for path in std::mem::take(&mut check.expected).into_keys().filter(|path| !path.is_empty()) {
        check.differs(&path, "is missing");
    }
    Ok(check.found)
}

struct Check {
    expected: Tree,
    found: Checked,
    /// Which inode a recorded file turned out to be, and the other way round.
    inodes: HashMap<u64, u64>,
    zeros: Zeros,
    buffer: Vec<u8>,
}

/// A directory under way.
struct Level {
    fd: OwnedFd,
    path: Vec<u8>,
    names: Vec<CString>,
}

const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW);

impl Level {
    fn new(fd: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let mut list = Dir::from_fd(fd.try_clone()?)?;
        let names = list.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let names = names.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
        Ok(Self { fd, path, names })
    }
}

impl Check {
    fn differs(&mut self, path: &[u8], what: &'static str) {
        self.found.count += 1;
        if self.found.differences.len() < TOLD {
            self.found.differences.push(Difference { path: shown(path), what });
        }
    }

    fn walk(&mut self, layer: BorrowedFd<'_>) -> io::Result<()> {
        let top = open_in_root(layer, c".", FLAGS, Mode::empty())?;
        if let Some(node) = self.expected.remove(&b""[..]) {
            let stat = nix::sys::stat::fstat(&top)?;
            self.compare(&top, c".", b"", &stat, &node);
        }
        let mut levels = vec![Level::new(top, Vec::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let stat = match fstatat(&level.fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(_) => {
                    self.expected.remove(&path);
                    self.differs(&path, "cannot be looked at");
                    continue;
                }
            };
            self.found.entries += 1;
            let Some(node) = self.expected.remove(&path) else {
                self.differs(&path, "is too much");
                continue;
            };
            if !self.compare(&level.fd, &name, &path, &stat, &node) || node.kind != b'd' {
                continue;
            }
            let opened = open_in_root(&level.fd, name.as_c_str(), FLAGS, Mode::empty());
            match opened.and_then(|fd| Level::new(fd, path.clone())) {
                Ok(below) => levels.push(below),
                Err(_) => self.differs(&path, "cannot be read"),
            }
        }
        Ok(())
    }

    /// Whether it is of the kind it should be.
    fn compare(&mut self, dir: &OwnedFd, name: &CStr, path: &[u8], stat: &FileStat, node: &Node) -> bool {
        if kind(stat) != node.kind {
            self.differs(path, "is of another type");
            return false;
        }
        let is_link = node.kind == b'l';
        if !is_link && stat.st_mode & 0o7777 != node.mode {
            self.differs(path, "has another mode");
        }
        if (stat.st_uid, stat.st_gid) != (node.uid, node.gid) {
            self.differs(path, "has another owner");
        }
        let mtime = (stat.st_mtime, stat.st_mtime_nsec);
        if node.mtime.is_some_and(|time| (time.seconds, i64::from(time.nanos)) != mtime) {
            self.differs(path, "has another time");
        }
        if node.kind != b'd' && !self.same_file(stat.st_ino, node.file) {
            self.differs(path, "is linked with another file");
        }
        match xattrs_at(dir.as_fd(), name) {
            Ok(found) if attributes(&found) == node.xattrs => {}
            Ok(_) => self.differs(path, "has other extended attributes"),
            Err(_) => self.differs(path, "has extended attributes that cannot be read"),
        }
        match node.kind {
            b'f' if u64::try_from(stat.st_size) != Ok(node.size) => self.differs(path, "has another size"),
            b'f' => match self.sum(dir, name, node.size) {
                Ok(sum) if sum == node.sum => {}
                Ok(_) => self.differs(path, "has another content"),
                Err(_) => self.differs(path, "cannot be read"),
            },
            b'l' => match readlinkat(dir, name) {
                Ok(target) if crc(target.as_encoded_bytes()) == node.sum => {}
                _ => self.differs(path, "points elsewhere"),
            },
            b'c' | b'b' if stat.st_rdev != node.size => self.differs(path, "is another device"),
            _ => {}
        }
        true
    }

    /// Two paths are one file exactly where the record says so.
    fn same_file(&mut self, inode: u64, file: u64) -> bool {
        // Ids of files count from 1 and inodes are what they are: kept apart by the highest bit.
        const FILE: u64 = 1 << 63;
        *self.inodes.entry(file | FILE).or_insert(inode) == inode
            && *self.inodes.entry(inode & !FILE).or_insert(file) == file
    }

    fn sum(&mut self, dir: &OwnedFd, name: &CStr, size: u64) -> io::Result<u32> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(open_in_root(dir, name, flags, Mode::empty())?);
        let mut sum = flate2::Crc::new();
        let mut at = 0;
        while at < size {
            let offset = i64::try_from(at).map_err(io::Error::other)?;
            let data = match lseek(&file, offset, Whence::SeekData) {
                Ok(data) => u64::try_from(data).map_err(io::Error::other)?.min(size),
                // Nothing but a hole up to the end.
                Err(Errno::ENXIO) => size,
                Err(error) => return Err(error.into()),
            };
            self.zeros.add(&mut sum, data - at);
            at = data;
            if at == size {
                break;
            }
            let hole = lseek(&file, i64::try_from(at).map_err(io::Error::other)?, Whence::SeekHole)?;
            let end = u64::try_from(hole).map_err(io::Error::other)?.min(size);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
                let got = file.read_at(&mut self.buffer[..most], at)?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                sum.update(&self.buffer[..got]);
                at += got as u64;
            }
        }
        self.found.bytes += size;
        Ok(sum.sum())
    }
}

fn kind(stat: &FileStat) -> u8 {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => b'f',
        SFlag::S_IFDIR => b'd',
        SFlag::S_IFLNK => b'l',
        SFlag::S_IFIFO => b'p',
        SFlag::S_IFCHR => b'c',
        SFlag::S_IFBLK => b'b',
        _ => b'?',
    }
}

/// Those an image may bring, and the one that is ours. Access lists are not compared: the kernel writes them anew.
fn attributes(found: &[(CString, Vec<u8>)]) -> BTreeMap<Vec<u8>, u32> {
    let ours = |name: &[u8]| kept(name) || name == b"trusted.overlay.opaque";
    let compared = found.iter().filter(|(name, _)| {
        let name = name.to_bytes();
        ours(name) && !name.starts_with(b"system.")
    });
    compared.map(|(name, value)| (name.to_bytes().to_vec(), crc(value))).collect()
}
