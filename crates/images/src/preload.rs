//! Archives in a directory that are images of every node: taken in at start, and again what is missing of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use berth_model::Direction;
use serde::{Deserialize, Serialize};

use crate::import::{Take, import};
use crate::{ImageError, Images};

/// Below the root of images: which archives were taken in.
const NOTES: &str = "preloaded.json";
/// Of the file above.
const NOTES_MAX: u64 = 4 << 20;

/// What became of one archive.
#[derive(Debug)]
pub struct Preloaded {
    pub archive: PathBuf,
    /// Names of its images, or ids of those without.
    pub images: Result<Vec<String>, ImageError>,
}

/// A file that has these was read before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    /// Nanoseconds since the epoch.
    modified: i128,
    inode: u64,
    images: Vec<String>,
}

impl Images {
    /// Takes in every `*.tar*` of `directory` that is new or changed, in the order of their names. Of one that did not change,
    /// images come back that are not here any more: a node without a registry has them from nowhere else once the kubelet has
    /// collected them as unused. A directory that is not there has none. Blocks.
    pub fn preload(&self, directory: &Path) -> Result<Vec<Preloaded>, ImageError> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(ImageError::file("read", directory))?,
        };
        let mut archives: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        archives.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tar")));
        archives.sort();
        let notes = self.shared.root.join(NOTES);
        let before = read(&notes);
        let (mut seen, mut done) = (BTreeMap::new(), Vec::new());
        for archive in archives {
            let key = archive.to_string_lossy().into_owned();
            let images = self.take_in(&archive, before.get(&key), |noted| {
                seen.insert(key.clone(), noted);
            });
            match images {
                Ok(None) => {}
                Ok(Some(images)) => done.push(Preloaded { archive, images: Ok(images) }),
                Err(error) => done.push(Preloaded { archive, images: Err(error) }),
            }
        }
        if seen != before {
            write(&notes, &seen)?;
        }
        Ok(done)
    }

    /// `None` where nothing is to be done.
    fn take_in(
        &self,
        archive: &Path,
        before: Option<&Seen>,
        note: impl FnOnce(Seen),
    ) -> Result<Option<Vec<String>>, ImageError> {
        // A fifo in the directory must not hang the start.
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(archive);
        let file: File = opened.map_err(ImageError::file("open", archive))?;
        let metadata = file.metadata().map_err(ImageError::file("look at", archive))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let now = Seen {
            size: metadata.len(),
            modified: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            inode: metadata.ino(),
            images: before.map(|before| before.images.clone()).unwrap_or_default(),
        };
        let known = before.filter(|before| **before == now);
        if known.is_some_and(|known| known.images.iter().all(|name| self.resolve(name).is_some())) {
            note(now);
            return Ok(None);
        }
        let work = self.begin(Direction::Import, archive.to_string_lossy().into_owned());
        let what = if known.is_some() { Take::Missing } else { Take::All };
        let images = import(&self.shared, file, &work, what, None)?;
        let name = |image: &std::sync::Arc<crate::Image>| {
            image.repo_tags.first().cloned().unwrap_or_else(|| image.id.to_string())
        };
        let images: Vec<String> = images.iter().map(name).collect();
        note(match known {
            Some(known) => known.clone(),
            None => Seen { images: images.clone(), ..now },
        });
        Ok(Some(images))
    }
}

/// Notes that cannot be read only cost reading the archives again.
fn read(notes: &Path) -> BTreeMap<String, Seen> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = File::open(notes).and_then(|file| file.take(NOTES_MAX).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(notes: &Path, seen: &BTreeMap<String, Seen>) -> Result<(), ImageError> {
    let beside = notes.with_extension("new");
    let text = serde_json::to_vec(seen).map_err(std::io::Error::other);
    let text = text.map_err(ImageError::file("write", notes))?;
    std::fs::write(&beside, text).map_err(ImageError::file("write", &beside))?;
    std::fs::rename(&beside, notes).map_err(ImageError::file("rename to", notes))
}
