//! Entries to files below one directory.

mod attributes;
mod implied;
mod places;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use berth_sys::path::{open_in_root, remove_xattr, set_xattr, set_xattr_at, xattr_names};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use attributes::{kept_xattrs, mode, node, owner, spec};
use implied::Implied;
use places::{Parent, Place, Standing, Untimed, is_whiteout, kind_at};

pub(crate) use attributes::kept;

use crate::sum::Zeros;
use crate::tape::Tape;
use crate::tar::{Archive, Entry, Kind};
use crate::tree::{Node, Notes, crc};
use crate::{Limits, TarError, UnpackError, remove_tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Open directories kept; a layer's neighbours in the archive are mostly neighbours in the tree.
const CACHED: usize = 200;
/// Files of so many bytes are given to the disk at once: inflating goes on meanwhile.
const EARLY: u64 = 128 << 10;
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

pub(crate) struct Extracted {
    /// Something that an entry made was replaced by a later one.
    pub(crate) replaced: bool,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Directories that no entry named, in order.
    pub(crate) implied: Vec<Vec<u8>>,
}

pub(crate) struct Extractor<'a, W: Write> {
    root: BorrowedFd<'a>,
    limits: &'a Limits,
    notes: Notes<W>,
    tape: Rc<RefCell<Tape<W>>>,
    /// By cleaned path; emptied whenever something is replaced, since a path may then mean another directory.
    directories: HashMap<Vec<u8>, Rc<Parent>>,
    untimed: Rc<RefCell<Untimed>>,
    zeros: Option<Zeros>,
    implied: Implied,
    done: Extracted,
}

type Step<T> = Result<T, Problem>;

enum Problem {
    Refused(&'static str),
    Truncated,
    Attribute(Vec<u8>, io::Error),
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl<'a, W: Write> Extractor<'a, W> {
    pub(crate) fn new(
        root: BorrowedFd<'a>,
        limits: &'a Limits,
        notes: W,
        tape: Rc<RefCell<Tape<W>>>,
    ) -> Self {
        Self {
            root,
            limits,
            notes: Notes::new(notes),
            tape,
            directories: HashMap::new(),
            untimed: Rc::default(),
            zeros: None,
            implied: Implied::new(limits.implied),
            done: Extracted { replaced: false, size: 0, entries: 0, implied: Vec::new() },
        }
    }

    pub(crate) fn add<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), UnpackError> {
        self.make(entry, archive).map_err(|problem| {
            let name = shown(&entry.name);
            match problem {
                Problem::Refused(why) => UnpackError::Refused { name, why },
                Problem::Truncated => TarError::Truncated.into(),
                Problem::Attribute(attribute, source) => {
                    UnpackError::Attribute { name, attribute: shown(&attribute), source }
                }
                Problem::Io(source) => UnpackError::Create { name, source },
            }
        })
    }

    /// Closes the directories, which gives them their times.
    pub(crate) fn finish(mut self) -> Result<(Extracted, W), UnpackError> {
        self.directories.clear();
        match self.untimed.take() {
            Some((path, error)) => Err(UnpackError::Create { name: shown(&path), source: error.into() }),
            None => {
                let done = Extracted { implied: self.implied.into_paths(), ..self.done };
                Ok((done, self.notes.into_inner()))
            }
        }
    }

    fn make<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Step<()> {
        let path = self.clean(&entry.name)?;
        let Some((&last, above)) = path.split_last() else {
            return if entry.kind == Kind::Directory {
                let root = openat(self.root, c".", DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
                self.undress_directory(&root, b"")?;
                self.dress_directory(&root, entry, Vec::new())
            } else {
                Err(Problem::Refused("the root must be a directory"))
            };
        };
        if above.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(Problem::Refused("a path through a whiteout"));
        }
        let parent = self.directory(above)?;
        if last == OPAQUE {
            return self.make_opaque(&parent.fd, &parent.path);
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            // `.wh..wh.*` are notes of a filesystem that layers no longer come from.
            return if hidden.starts_with(WHITEOUT) { Ok(()) } else { self.whiteout(parent, hidden) };
        }
        let place = self.place(parent, last)?;
        self.done.entries += 1;
        let mut node = node(entry)?;
        match entry.kind {
            Kind::Directory => return self.make_directory(&place, entry),
            Kind::File => return self.make_file(&place, entry, archive),
            Kind::HardLink => return self.make_link(&place, entry),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > self.limits.path {
                    return Err(Problem::Refused("a symbolic link target that is empty or too long"));
                }
                let target = c_string(&entry.link)?;
                self.replace(&place, || {
                    symlinkat(target.as_c_str(), &place.parent.fd, place.name.as_c_str())
                })?;
                node.sum = crc(&entry.link);
            }
            Kind::Fifo | Kind::Char | Kind::Block => {
                let (kind, device) = match entry.kind {
                    Kind::Fifo => (SFlag::S_IFIFO, 0),
                    Kind::Char => (SFlag::S_IFCHR, makedev(entry.device.0.into(), entry.device.1.into())),
                    _ => (SFlag::S_IFBLK, makedev(entry.device.0.into(), entry.device.1.into())),
                };
                let none = Mode::empty();
                self.replace(&place, || {
                    mknodat(&place.parent.fd, place.name.as_c_str(), kind, none, device)
                })?;
                node.size = device;
            }
        }
        self.dress_at(&place, entry, node)
    }

    fn make_opaque(&mut self, directory: &OwnedFd, path: &[u8]) -> Step<()> {
        set_xattr(directory, c"trusted.overlay.opaque", b"y")?;
        Ok(self.notes.opaque(path)?)
    }

    /// Makes a directory where there is none; over a whiteout it must hide what is below, so it becomes opaque.
    fn fresh_directory(&mut self, place: &Place) -> Step<OwnedFd> {
        let (parent, name) = (&place.parent.fd, place.name.as_c_str());
        let hides = match kind_at(parent, name)? {
            Standing::Nothing => false,
            Standing::Whiteout => true,
            Standing::Link => {
                return Err(Problem::Refused("a path through a link that leads nowhere in this layer"));
            }
            Standing::Other => return Err(Problem::Refused("a path through what is no directory")),
        };
        if hides {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        }
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
        let open = open_in_root(parent, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?;
        fchmod(&open, Mode::from_bits_truncate(0o755))?;
        let path = place.path();
        // A parent with the setgid bit gives it on.
        fchown(&open, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))?;
        self.notes.made(&path, &Node { kind: b'd', mode: 0o755, ..Node::default() })?;
        if hides {
            // It is a new one, whatever was below.
            self.make_opaque(&open, &path)?;
        } else {
            self.implied.insert(path)?;
        }
        self.done.size += 4096;
        Ok(open)
    }

    fn whiteout(&mut self, parent: Rc<Parent>, hidden: &[u8]) -> Step<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Problem::Refused("a whiteout of nothing"));
        }
        let name = c_string(hidden)?;
        match mknodat(&parent.fd, name.as_c_str(), SFlag::S_IFCHR, Mode::empty(), 0) {
            // A whiteout is about the layers below, so what this layer brings itself stays; a directory only has to
            // stop showing what is below (OCI image layer spec, "Whiteouts").
            Err(Errno::EEXIST) => {
                let flags = DIRECTORY | OFlag::O_NOFOLLOW;
                match open_in_root(&parent.fd, name.as_c_str(), flags, Mode::empty()) {
                    Ok(directory) => {
                        let path = parent.join(&name);
                        self.implied.named(&path);
                        self.make_opaque(&directory, &path)
                    }
                    Err(_) => Ok(()),
                }
            }
            done => {
                done?;
                self.done.entries += 1;
                // A parent with the setgid bit gives its group on.
                fchownat(
                    &parent.fd,
                    name.as_c_str(),
                    Some(Uid::from_raw(0)),
                    Some(Gid::from_raw(0)),
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )?;
                Ok(self.notes.made(&parent.join(&name), &Node { kind: b'c', ..Node::default() })?)
            }
        }
    }

    fn make_directory(&mut self, place: &Place, entry: &Entry) -> Step<()> {
        let (parent, name) = (&place.parent.fd, place.name.as_c_str());
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        let open = match open_in_root(parent, name, flags, Mode::empty()) {
            Ok(open) => {
                self.undress_directory(&open, &place.path())?;
                open
            }
            Err(error) => {
                match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENOENT) => {}
                    Some(Errno::ENOTDIR | Errno::ELOOP) if kind_at(parent, name)? == Standing::Whiteout => {}
                    Some(Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => self.clear(place)?,
                    _ => return Err(error.into()),
                }
                self.fresh_directory(place)?
            }
        };
        self.dress_directory(&open, entry, place.path())
    }

    /// A directory that is named again has the attributes that are said now and no others, as for tar and umoci. That it shows
    /// nothing of the layers below is not the entry's to say.
    fn undress_directory(&mut self, open: &OwnedFd, path: &[u8]) -> Step<()> {
        let mut has_any = false;
        for name in xattr_names(open)?.iter().filter(|name| kept(name.to_bytes())) {
            remove_xattr(open, name)?;
            has_any = true;
        }
        if has_any {
            self.notes.bare(path)?;
        }
        Ok(())
    }

    fn dress_directory(&mut self, open: &OwnedFd, entry: &Entry, path: Vec<u8>) -> Step<()> {
        self.implied.named(&path);
        give(open, entry)?;
        let mut node = node(entry)?;
        for (name, value) in kept_xattrs(entry)? {
            node.attribute(&name, value, set_xattr(open, &name, value))?;
        }
        let times = (spec(entry.atime.unwrap_or(entry.mtime)), spec(entry.mtime));
        futimens(open, &times.0, &times.1)?;
        node.settle(entry, || nix::sys::stat::fstat(open))?;
        if let Some(parent) = self.directories.get(&path) {
            parent.times.set(Some(times));
        }
        Ok(self.notes.made(&path, &node)?)
    }

    fn make_file<R: BufRead>(&mut self, place: &Place, entry: &Entry, archive: &mut Archive<R>) -> Step<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Nobody runs it as somebody else before all of it is there.
        let mode_now = mode(entry) & Mode::from_bits_truncate(0o777);
        let file =
            self.replace(place, || openat(&place.parent.fd, place.name.as_c_str(), flags, mode_now))?;
        let mut file = File::from(file);
        let (mut node, mut sum, path) = (node(entry)?, flate2::Crc::new(), place.path());
        match &entry.sparse {
            None => {
                node.size = entry.size;
                self.tape.borrow_mut().content(&path, 0, entry.size)?;
                copy(archive, entry.size, |data| {
                    sum.update(data);
                    file.write_all(data)
                })?;
            }
            Some(sparse) => {
                node.size = sparse.real_size;
                file.set_len(sparse.real_size)?;
                let zeros = self.zeros.get_or_insert_default();
                let mut at = 0;
                for &(offset, length) in &sparse.pieces {
                    zeros.add(&mut sum, offset - at);
                    at = offset;
                    self.tape.borrow_mut().content(&path, offset, length)?;
                    copy(archive, length, |data| {
                        sum.update(data);
                        file.write_all_at(data, at)?;
                        at += data.len() as u64;
                        Ok(())
                    })?;
                    self.tape.borrow_mut().content_ends();
                }
                zeros.add(&mut sum, sparse.real_size - at);
            }
        }
        self.tape.borrow_mut().content_ends();
        node.sum = sum.sum();
        self.done.size += entry.size.next_multiple_of(4096);
        if entry.size >= EARLY {
            // Only a head start for the sync at the end.
            let _ = berth_sys::fd::start_writeback(&file);
        }
        // Writing and chown clear setuid bits and capabilities, so those come last.
        give(&file, entry)?;
        for (name, value) in kept_xattrs(entry)? {
            node.attribute(&name, value, set_xattr(&file, &name, value))?;
        }
        futimens(&file, &spec(entry.atime.unwrap_or(entry.mtime)), &spec(entry.mtime))?;
        node.settle(entry, || nix::sys::stat::fstat(&file))?;
        Ok(self.notes.made(&path, &node)?)
    }

    fn make_link(&mut self, place: &Place, entry: &Entry) -> Step<()> {
        let target = self.clean(&entry.link)?;
        let Some((&last, above)) = target.split_last() else {
            return Err(Problem::Refused("a hard link to the root"));
        };
        const MISSING: Problem = Problem::Refused("a hard link to nothing in this layer");
        let from = match self.open(&above.join(&b'/')) {
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
                ) =>
            {
                return Err(MISSING);
            }
            opened => opened?,
        };
        let source = c_string(last)?;
        let found = match fstatat(&from.fd, source.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Err(MISSING),
            Err(error) => return Err(error.into()),
        };
        if is_whiteout(&found) {
            return Err(MISSING);
        }
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            return Err(Problem::Refused("a hard link to a directory"));
        }
        let there = fstatat(&place.parent.fd, place.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)) {
            return Ok(());
        }
        self.replace(place, || {
            linkat(&from.fd, source.as_c_str(), &place.parent.fd, place.name.as_c_str(), AtFlags::empty())
        })?;
        Ok(self.notes.linked(&place.path(), &from.join(&source))?)
    }

    /// Runs `make`; what stands in its way is removed first.
    fn replace<T>(&mut self, place: &Place, make: impl Fn() -> nix::Result<T>) -> Step<T> {
        match make() {
            Err(Errno::EEXIST) => {
                self.clear(place)?;
                Ok(make()?)
            }
            done => Ok(done?),
        }
    }

    fn clear(&mut self, place: &Place) -> Step<()> {
        self.directories.clear();
        self.done.replaced = true;
        self.implied.gone(&place.path());
        self.notes.gone(&place.path())?;
        Ok(remove_tree(place.parent.fd.as_fd(), &place.name, &mut || {})?)
    }

    /// Owner, mode, attributes and times of what cannot be opened.
    fn dress_at(&mut self, place: &Place, entry: &Entry, mut node: Node) -> Step<()> {
        let (parent, name) = (&place.parent.fd, place.name.as_c_str());
        let (uid, gid) = owner(entry)?;
        fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if entry.kind != Kind::Symlink {
            // Made a moment ago in a directory that only we can reach: it is no link.
            fchmodat(parent, name, mode(entry), FchmodatFlags::FollowSymlink)?;
        }
        for (attribute, value) in kept_xattrs(entry)? {
            let done = set_xattr_at(parent.as_fd(), name, &attribute, value);
            node.attribute(&attribute, value, done)?;
        }
        let times = (spec(entry.atime.unwrap_or(entry.mtime)), spec(entry.mtime));
        utimensat(parent, name, &times.0, &times.1, UtimensatFlags::NoFollowSymlink)?;
        node.settle(entry, || fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW))?;
        Ok(self.notes.made(&place.path(), &node)?)
    }
}

fn copy<R: BufRead>(
    archive: &mut Archive<R>,
    mut count: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Step<()> {
    while count > 0 {
        let data = archive.fill_buf()?;
        if data.is_empty() {
            return Err(Problem::Truncated);
        }
        let length = data.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        write(&data[..length])?;
        archive.consume(length);
        count -= length as u64;
    }
    Ok(())
}

/// Owner and mode. Most have them from their making, by the directory, its access lists and our own: to look costs a tenth
/// of writing the same once more.
fn give(open: &impl AsFd, entry: &Entry) -> Step<()> {
    let found = fstat(open)?;
    let (uid, gid) = owner(entry)?;
    let is_owned = (uid, gid) == (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)));
    if !is_owned {
        fchown(open, uid, gid)?;
    }
    if !is_owned || found.st_mode & 0o7777 != mode(entry).bits() {
        fchmod(open, mode(entry))?;
    }
    Ok(())
}

fn c_string(name: &[u8]) -> Step<CString> {
    CString::new(name).map_err(|_| Problem::Refused("a name that no file can have"))
}

/// A name for people: bounded, whatever the archive says.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}
