//! What an entry has beside its content: owner, mode, times, extended attributes; and what the record keeps of it.

use std::ffi::{CStr, CString};
use std::io;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::{Problem, Step, c_string};
use crate::tar::{Entry, Kind, Time};
use crate::tree::{Node, crc};

/// The last 32-bit id is chown's "leave as it is", so nobody can own anything by it.
pub(super) fn owner(entry: &Entry) -> Step<(Option<Uid>, Option<Gid>)> {
    let id = |id: u64| match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Problem::Refused("an owner that does not exist")),
    };
    Ok((Some(Uid::from_raw(id(entry.uid)?)), Some(Gid::from_raw(id(entry.gid)?))))
}

pub(super) fn mode(entry: &Entry) -> Mode {
    Mode::from_bits_truncate(entry.mode & 0o7777)
}

pub(super) fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanos.into())
}

/// Whether an attribute means something on another machine. `trusted.overlay.*` and `user.overlay.*` would let an image speak
/// to overlayfs itself, and security labels belong to the host that made them; both are left out.
pub(crate) fn kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
}

pub(super) fn kept_xattrs(entry: &Entry) -> Step<Vec<(CString, &[u8])>> {
    let mut found = Vec::new();
    for (name, value) in &entry.xattrs {
        // What is neither file nor directory has no attributes of users (xattr(7)), and nobody can have meant to set one.
        let can_have = matches!(entry.kind, Kind::File | Kind::Directory) || name.starts_with(b"trusted.");
        if kept(name) && can_have {
            found.push((c_string(name)?, value.as_slice()));
        }
    }
    Ok(found)
}

/// Seconds that every filesystem can keep.
const KEPT: std::ops::Range<i64> = 0..1 << 31;

impl Node {
    /// An access list changes the group's bits, and a filesystem keeps the times that it can: both are what they became.
    pub(super) fn settle(&mut self, entry: &Entry, look: impl FnOnce() -> nix::Result<FileStat>) -> Step<()> {
        let is_listed = entry.xattrs.iter().any(|(name, _)| name.starts_with(b"system."));
        if is_listed || !KEPT.contains(&entry.mtime.seconds) {
            let found = look()?;
            self.mode = if is_listed { found.st_mode & 0o7777 } else { self.mode };
            let nanos = u32::try_from(found.st_mtime_nsec).map_err(io::Error::other)?;
            self.mtime = Some(Time { seconds: found.st_mtime, nanos });
        }
        Ok(())
    }

    /// Writes down an attribute that was set. A filesystem without attributes still holds files; one that drops a
    /// capability does not hold this image.
    pub(super) fn attribute(&mut self, name: &CStr, value: &[u8], done: io::Result<()>) -> Step<()> {
        let name = name.to_bytes();
        match done {
            Err(e)
                if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) && name != b"security.capability" =>
            {
                Ok(())
            }
            done => {
                done.map_err(|error| Problem::Attribute(name.to_vec(), error))?;
                self.xattrs.insert(name.to_vec(), crc(value));
                Ok(())
            }
        }
    }
}

/// What the record of the tree has of an entry, apart from its content.
pub(super) fn node(entry: &Entry) -> Step<Node> {
    let (uid, gid) = owner(entry)?;
    let id = |id: Option<u32>| id.unwrap_or_default();
    Ok(Node {
        kind: match entry.kind {
            Kind::File | Kind::HardLink => b'f',
            Kind::Symlink => b'l',
            Kind::Char => b'c',
            Kind::Block => b'b',
            Kind::Directory => b'd',
            Kind::Fifo => b'p',
        },
        mode: entry.mode & 0o7777,
        uid: id(uid.map(Uid::as_raw)),
        gid: id(gid.map(Gid::as_raw)),
        mtime: Some(entry.mtime),
        ..Node::default()
    })
}
