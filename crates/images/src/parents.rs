//! Directories that a layer has only because something of it lies in them. Nobody said what they are like, so a layer below
//! that names them is asked; overlayfs shows the topmost layer's, and `/tmp` with a file from such a layer would lose its 1777.
//!
//! Layers are shared between images, and below each there may be others. So what a layer lacks is not written into it: an image
//! that needs it gets one thin layer more on top, of directories alone, made when it is first mounted. It is kept beside the
//! topmost layer and goes with it; the layers alone decide what is in it, so it never changes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_ids::Digest;
use berth_sys::path::{get_xattr, open_without_links, set_xattr, xattrs_at};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use sha2::{Digest as _, Sha256};

use crate::layers::remove_now;
use crate::{Image, ImageError, Shared};

/// Beside a layer's `fs`: paths of directories that it does not name, each ended by a NUL. Most layers have none.
const IMPLIED: &str = "implied";
/// The thin layer while it is made.
const NEW: &str = "parents.new";
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Writes down which directories a layer does not name.
pub(crate) fn note(layer: &Path, implied: &[Vec<u8>]) -> Result<(), ImageError> {
    if implied.is_empty() {
        return Ok(());
    }
    let path = layer.join(IMPLIED);
    let text: Vec<u8> = implied.iter().flat_map(|path| path.iter().copied().chain([0])).collect();
    std::fs::write(&path, text).map_err(ImageError::file("write", &path))
}

/// What [`note`] wrote. Layers of older releases have none.
fn noted(layer: &Path) -> Result<BTreeSet<Vec<u8>>, ImageError> {
    let path = layer.join(IMPLIED);
    match std::fs::read(&path) {
        Ok(text) => {
            let paths = text.split(|&byte| byte == 0).filter(|path| !path.is_empty());
            Ok(paths.map(<[u8]>::to_vec).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(ImageError::file("read", &path)(error)),
    }
}

impl Shared {
    /// The thin layer to be mounted over an image's layers, where it needs one. Blocks.
    pub(crate) fn parents(self: &std::sync::Arc<Self>, image: &Image) -> Result<Option<PathBuf>, ImageError> {
        let Some((top, [_, ..])) = image.layers.split_last() else { return Ok(None) };
        let home = |id: &Digest| self.root.join("layers").join(id.hex());
        let implied: Vec<_> = image.layers.iter().map(|id| noted(&home(id))).collect::<Result<_, _>>()?;
        if implied.iter().skip(1).all(BTreeSet::is_empty) {
            return Ok(None);
        }
        let mut chain = Sha256::new();
        image.layers.iter().for_each(|id| chain.update(id.as_str()));
        let path =
            home(top).join(format!("parents-{}", &Digest::from_sha256(chain.finalize().into()).hex()[..16]));
        if !path.is_dir() {
            let _turn = self.blocking_turn(top);
            if !path.is_dir() {
                let layers: Vec<_> = image.layers.iter().map(|id| self.layer_path(id)).zip(implied).collect();
                make(&home(top).join(NEW), layers, &path).map_err(ImageError::file("make", &path))?;
            }
        }
        // There is one also where nothing is lacking, so that nobody looks again.
        let mut entries = std::fs::read_dir(&path).map_err(ImageError::file("read", &path))?;
        Ok(entries.next().map(|_| path))
    }
}

/// A layer, and the directories that it does not name.
struct Layer {
    fs: OwnedFd,
    implied: BTreeSet<Vec<u8>>,
}

/// What a layer has at a path.
enum Found {
    Absent,
    /// Nothing, and nothing of the layers below shows there; or no directory.
    Other,
    /// `ends`: nothing of the layers below shows there, since it lies in one that shows nothing of theirs.
    Directory {
        fd: OwnedFd,
        ends: bool,
    },
}

impl Layer {
    fn look(&self, path: &[u8]) -> io::Result<Found> {
        let (mut here, mut ends) = (None, false);
        for name in path.split(|&byte| byte == b'/') {
            if let Some(above) = &here {
                ends |= get_xattr(above, c"trusted.overlay.opaque")?.is_some_and(|value| value == b"y");
            }
            let next = openat(here.as_ref().unwrap_or(&self.fs), name, DIRECTORY, Mode::empty());
            here = match next {
                Ok(next) => Some(next),
                Err(Errno::ENOENT) if !ends => return Ok(Found::Absent),
                // A whiteout is one of these.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Found::Other),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(here.map_or(Found::Absent, |fd| Found::Directory { fd, ends }))
    }
}

/// A directory as all layers over each other should show it.
struct Seen {
    /// The topmost that a layer names, else the topmost.
    like: OwnedFd,
    /// Overlayfs would show another.
    is_lost: bool,
}

/// `None`: there is no directory at the path. The topmost layer comes first.
fn seen(layers: &[Layer], path: &[u8]) -> io::Result<Option<Seen>> {
    let mut topmost = None;
    for layer in layers {
        let (fd, ends) = match layer.look(path)? {
            Found::Absent => continue,
            Found::Other => break,
            Found::Directory { fd, ends } => (fd, ends),
        };
        if !layer.implied.contains(path) {
            return Ok(Some(Seen { like: fd, is_lost: topmost.is_some() }));
        }
        topmost.get_or_insert(fd);
        if ends {
            break;
        }
    }
    Ok(topmost.map(|like| Seen { like, is_lost: false }))
}

/// Every directory that it lies in, from the top on, and itself.
fn way(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).map(|end| &path[..end])
}

/// Makes the thin layer at `new` and then gives it its place. Directories are all it has, and a filesystem's journal keeps their
/// order: after a power failure it is whole or not there. The lowest layer comes first.
fn make(new: &Path, layers: Vec<(PathBuf, BTreeSet<Vec<u8>>)>, place: &Path) -> io::Result<()> {
    let open = |(path, implied): (PathBuf, _)| Ok(Layer { fs: File::open(path)?.into(), implied });
    let layers: Vec<Layer> = layers.into_iter().rev().map(open).collect::<io::Result<_>>()?;
    let mut wanted = BTreeSet::new();
    for path in layers.iter().flat_map(|layer| &layer.implied) {
        if seen(&layers, path)?.is_some_and(|seen| seen.is_lost) {
            wanted.extend(way(path).map(<[u8]>::to_vec));
        }
    }
    remove_now(new)?;
    std::fs::create_dir(new)?;
    let root: OwnedFd = File::open(new)?.into();
    for path in &wanted {
        mkdirat(&root, &path[..], Mode::S_IRWXU)?;
    }
    // Times last, and of what lies in a directory before its own.
    for path in wanted.iter().rev() {
        let Some(seen) = seen(&layers, path)? else { return Err(io::ErrorKind::NotFound.into()) };
        dress(&open_without_links(&root, &path[..], DIRECTORY, Mode::empty())?, &seen.like)?;
    }
    if let Some(top) = layers.first() {
        dress(&root, &top.fs)?;
    }
    std::fs::rename(new, place)
}

/// Gives a directory another's owner, mode, attributes and times; not what that one says to overlayfs.
fn dress(directory: &OwnedFd, like: &OwnedFd) -> io::Result<()> {
    let found = fstat(like)?;
    fchown(directory, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    fchmod(directory, Mode::from_bits_truncate(found.st_mode & 0o7777))?;
    for (name, value) in xattrs_at(like.as_fd(), c".")? {
        // Security labels are the host's own to give.
        if ![&b"trusted.overlay."[..], b"security."].iter().any(|not| name.to_bytes().starts_with(not)) {
            set_xattr(directory, &name, &value)?;
        }
    }
    let accessed = TimeSpec::new(found.st_atime, found.st_atime_nsec);
    Ok(futimens(directory, &accessed, &TimeSpec::new(found.st_mtime, found.st_mtime_nsec))?)
}

#[cfg(test)]
mod tests;
