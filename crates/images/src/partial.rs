//! What came of a layer before its transfer was cut, kept for the next attempt, also for one of the next daemon.
//!
//! A file below `partial`, named by the blob's digest and the first byte of it that the file has. Only what the network is
//! slow with is kept: from the moment on that the unpacker has waited [`PATIENCE`] for it altogether, or that it is plain
//! that it will. What came before costs as much once more; a pull that the processor or the disk holds up writes nothing
//! twice. Nothing is synced: whoever goes on takes the bytes through the digest again.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use berth_ids::Digest;
use bytes::Bytes;

use crate::ImageError;

const PATIENCE: Duration = Duration::from_secs(2);
/// Of waiting after the first bytes, to see from what the rest will take.
const SAMPLE: Duration = Duration::from_millis(200);
/// A rest of fewer bytes is soon fetched again.
const WORTH: u64 = 1 << 20;
/// Kept for the next attempt so long, so many, and so many bytes of all together.
const KEPT: Duration = Duration::from_hours(24);
const NUMBER: usize = 32;
const BYTES: u64 = 16 << 30;
/// One part of so many of the file system stays free: layers need the room more.
const FREE: u64 = 10;
/// Bytes between two looks at how much is free.
const LOOK: u64 = 16 << 20;
/// Bytes read back at a time.
const PIECE: usize = 256 << 10;

/// The directory of them.
#[derive(Debug)]
pub(crate) struct Partials {
    root: PathBuf,
    bytes: AtomicU64,
    /// [`FREE`].
    free: u64,
}

impl Partials {
    pub(crate) fn open(root: PathBuf) -> Result<Self, ImageError> {
        std::fs::create_dir_all(&root).map_err(ImageError::file("make", &root))?;
        let partials = Self { root, bytes: AtomicU64::new(0), free: FREE };
        let bytes = partials.files()?.iter().map(|file| file.size).sum();
        partials.bytes.store(bytes, Ordering::Relaxed);
        partials.trim()?;
        Ok(partials)
    }

    /// Of all of them, for the report of what images take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Removes what is too old or too much; never one that a transfer has. Blocks.
    pub(crate) fn trim(&self) -> Result<(), ImageError> {
        let mut files = self.files()?;
        files.sort_by_key(|file| std::cmp::Reverse(file.modified));
        let (now, mut sum) = (SystemTime::now(), 0);
        for (at, found) in files.iter().enumerate() {
            sum += found.size;
            let old = now.duration_since(found.modified).is_ok_and(|age| age > KEPT);
            if old || at >= NUMBER || sum > BYTES || found.name.is_none() {
                self.remove_unheld(found);
            }
        }
        Ok(())
    }

    fn remove_unheld(&self, found: &Found) {
        let held =
            File::open(&found.path).map(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if matches!(held, Ok(false)) {
            self.remove(&found.path, found.size);
        }
    }

    fn remove(&self, path: &Path, size: u64) {
        match std::fs::remove_file(path) {
            Ok(()) => {
                let less = |bytes: u64| Some(bytes.saturating_sub(size));
                let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "not removed");
            }
        }
    }

    fn files(&self) -> Result<Vec<Found>, ImageError> {
        let fail = || ImageError::file("read", &self.root);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            // Gone since: nothing to count.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(Found {
                name: name(&entry.file_name().to_string_lossy()),
                path: entry.path(),
                size: metadata.len(),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(files)
    }

    /// What there is of a blob of `size` bytes, to go on with; held until it is dropped. Where that cannot be told, it is
    /// nothing. Blocks.
    pub(crate) fn take(&self, digest: &Digest, size: u64) -> Partial<'_> {
        let files = self.files().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no transfer goes on where it was cut");
            Vec::new()
        });
        let mut partial =
            Partial { of: self, digest: digest.clone(), size, waits: Waits::default(), file: None };
        for found in files {
            let Some((hex, from)) = &found.name else { continue };
            if hex != digest.hex() {
                continue;
            }
            let usable = partial.file.is_none() && found.size > 0 && from.saturating_add(found.size) <= size;
            match usable.then(|| hold(&found.path)) {
                Some(Ok(file)) => {
                    let (path, from) = (found.path, *from);
                    let end = from + found.size;
                    partial.file = Some(Kept { file, path, from, found: end, end, look: end });
                }
                // Another image says that this blob is a layer of its own, and has it now.
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => self.remove_unheld(&found),
            }
        }
        partial
    }
}

fn hold(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).append(true).open(path)?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}

struct Found {
    path: PathBuf,
    /// The digest's hex, the first byte.
    name: Option<(String, u64)>,
    size: u64,
    modified: SystemTime,
}

fn name(text: &str) -> Option<(String, u64)> {
    let (hex, from) = text.split_once('-')?;
    Some((hex.to_owned(), from.parse().ok()?))
}

/// One blob's part.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    of: &'a Partials,
    digest: Digest,
    size: u64,
    waits: Waits,
    file: Option<Kept>,
}

/// How the network has been.
#[derive(Debug, Default)]
struct Waits {
    all: Duration,
    /// Since the first bytes, and what came then: how long those took says nothing of the rest.
    later: Duration,
    bytes: u64,
    begun: bool,
}

impl Waits {
    fn count(&mut self, bytes: usize, waited: Duration) {
        self.all = self.all.saturating_add(waited);
        if self.begun {
            self.later = self.later.saturating_add(waited);
            self.bytes += bytes as u64;
        }
        self.begun = true;
    }

    /// Whether a transfer with so many bytes to come is one to keep.
    fn are_long(&self, rest: u64) -> bool {
        let ahead = self.later.as_secs_f64() * rest as f64 / self.bytes.max(1) as f64;
        self.all >= PATIENCE || (self.later >= SAMPLE && ahead >= PATIENCE.as_secs_f64())
    }
}

#[derive(Debug)]
struct Kept {
    file: File,
    path: PathBuf,
    /// The blob's bytes from here to `end` are in the file.
    from: u64,
    /// And up to here they were there before.
    found: u64,
    end: u64,
    /// Where to look next at how much is free.
    look: u64,
}

impl Partial<'_> {
    /// Which bytes need not be fetched.
    pub(crate) fn found(&self) -> Option<std::ops::Range<u64>> {
        self.file.as_ref().filter(|kept| kept.from < kept.found).map(|kept| kept.from..kept.found)
    }

    /// The next bytes, where they were found.
    pub(crate) fn replay(&self, at: u64) -> io::Result<Option<Bytes>> {
        let Some(kept) = self.file.as_ref().filter(|kept| (kept.from..kept.found).contains(&at)) else {
            return Ok(None);
        };
        let left = usize::try_from(kept.found - at).unwrap_or(usize::MAX);
        let mut piece = vec![0; PIECE.min(left)];
        kept.file.read_exact_at(&mut piece, at - kept.from)?;
        Ok(Some(piece.into()))
    }

    /// Bytes that came, `waited` for so long. That they cannot be kept is no reason to fail.
    pub(crate) fn came(&mut self, at: u64, bytes: &[u8], waited: Duration) {
        self.waits.count(bytes.len(), waited);
        let rest = self.size.saturating_sub(at);
        if self.file.is_none() && rest >= WORTH && self.waits.are_long(rest) {
            self.begin(at);
        }
        let Some(kept) = &mut self.file else { return };
        if at != kept.end {
            return;
        }
        let written = if at >= kept.look && crowded(&kept.file, self.of.free) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            kept.file.write_all(bytes)
        };
        match written {
            Ok(()) => {
                kept.end += bytes.len() as u64;
                self.of.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if at >= kept.look {
                    kept.look = at + LOOK;
                }
            }
            Err(error) => {
                tracing::debug!(blob = %self.digest, %error, "what comes of it is not kept");
                self.discard();
                // Not tried again.
                self.size = 0;
            }
        }
    }

    fn begin(&mut self, at: u64) {
        let path = self.of.root.join(format!("{}-{at}", self.digest.hex()));
        let made = File::options().read(true).append(true).create_new(true).open(&path);
        match made.and_then(|file| file.try_lock().map(|()| file).map_err(io::Error::from)) {
            Ok(file) => self.file = Some(Kept { file, path, from: at, found: at, end: at, look: at }),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "what comes of the layer is not kept");
                self.size = 0;
            }
        }
    }

    /// Removes it: the layer is there, or these are not its bytes.
    pub(crate) fn discard(&mut self) {
        if let Some(kept) = self.file.take() {
            self.of.remove(&kept.path, kept.end - kept.from);
        }
    }
}

fn crowded(file: &File, free: u64) -> bool {
    nix::sys::statvfs::fstatvfs(file).is_ok_and(|found| found.blocks_available() < found.blocks() / free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
    }

    fn names(at: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_waited_for_is_kept_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut partials = Partials::open(dir.path().join("partial")).unwrap();
        // Whatever else this machine's disk has.
        partials.free = u64::MAX;
        let (id, size) = (digest('a'), 3 << 20);
        let mut first = partials.take(&id, size);
        assert_eq!(first.found(), None);
        first.came(0, b"head", PATIENCE / 2);
        assert!(names(&partials.root).is_empty(), "nothing was slow yet");
        first.came(4, b"body", PATIENCE / 2);
        first.came(8, b"more", Duration::ZERO);
        assert_eq!(partials.take(&id, size).found(), None, "another has it");
        drop(first);
        assert_eq!(partials.bytes(), 8);
        // The next daemon's.
        let mut partials = Partials::open(partials.root.clone()).unwrap();
        partials.free = u64::MAX;
        assert_eq!(partials.bytes(), 8);
        let mut second = partials.take(&id, size);
        assert_eq!(second.found(), Some(4..12));
        assert_eq!(second.replay(0).unwrap(), None);
        assert_eq!(second.replay(6).unwrap().unwrap(), b"dymore"[..]);
        assert_eq!(second.replay(12).unwrap(), None);
        second.came(0, b"head", Duration::ZERO);
        second.came(12, b"rest", Duration::ZERO);
        drop(second);
        let mut third = partials.take(&id, size);
        assert_eq!(third.found(), Some(4..16));
        third.discard();
        assert!(names(&partials.root).is_empty());
        assert_eq!(partials.bytes(), 0);
    }

    #[test]
    fn what_will_take_long_is_kept_before_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let mut partials = Partials::open(dir.path().join("partial")).unwrap();
        partials.free = u64::MAX;
        let (size, piece) = (100 << 20, vec![0; 1 << 20]);
        let kept = |partial: &Partial<'_>| partial.file.as_ref().map(|kept| kept.from);
        let mut slow = partials.take(&digest('a'), size);
        // An answer that is long in coming, and then 5 MiB a second.
        slow.came(0, &piece, PATIENCE / 2);
        slow.came(1 << 20, &piece, SAMPLE);
        assert_eq!(kept(&slow), Some(1 << 20));
        let mut fast = partials.take(&digest('b'), size);
        // 50 MiB a second: two seconds are not to come.
        for n in 0..60 {
            fast.came(n << 20, &piece, SAMPLE / 10);
        }
        assert_eq!(kept(&fast), None);
        // Then it stands still, more or less.
        fast.came(60 << 20, &piece, PATIENCE);
        assert_eq!(kept(&fast), Some(60 << 20));
    }

    #[test]
    fn a_small_rest_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let partials = Partials::open(dir.path().join("partial")).unwrap();
        let mut partial = partials.take(&digest('a'), WORTH + 10);
        partial.came(11, b"x", PATIENCE);
        assert!(names(&partials.root).is_empty());
    }

    #[test]
    fn the_old_the_many_and_the_strange_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("partial");
        std::fs::create_dir(&root).unwrap();
        let now = SystemTime::now();
        for n in 0..NUMBER as u64 + 3 {
            let file = File::create(root.join(format!("{n:064x}-0"))).unwrap();
            file.set_modified(now - Duration::from_secs(n)).unwrap();
        }
        File::create(root.join("strange")).unwrap();
        let old = File::create(root.join(format!("{}-0", "e".repeat(64)))).unwrap();
        old.set_modified(now - KEPT - Duration::from_secs(60)).unwrap();
        let held = File::create(root.join(format!("{}-0", "f".repeat(64)))).unwrap();
        held.set_modified(now - KEPT - Duration::from_secs(60)).unwrap();
        held.try_lock().unwrap();
        Partials::open(root.clone()).unwrap();
        let left = names(&root);
        // `strange` is the newest and took a place.
        assert_eq!(left.len(), NUMBER, "{left:?}");
        assert!(left.iter().any(|name| name.starts_with("ffff")), "a transfer has it");
        assert!(!left.iter().any(|name| name.starts_with("eeee") || name == "strange"), "{left:?}");
    }

    #[test]
    fn more_than_the_blob_has_is_none_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let partials = Partials::open(dir.path().join("partial")).unwrap();
        let path = partials.root.join(format!("{}-5", digest('a').hex()));
        std::fs::write(&path, b"123456").unwrap();
        assert_eq!(partials.take(&digest('a'), 10).found(), None);
        assert!(!path.exists());
    }
}
