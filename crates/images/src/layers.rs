//! Layers on disk: `layers/<hex of the diff id>/fs`.

use std::io::BufRead;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_ids::Digest;
use berth_store::Table;
use berth_unpack::{Checked, Limits, Records, Restored, check, remove_tree, unpack};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio::sync::OwnedMutexGuard;

use crate::image::LayerRecord;
use crate::{ImageError, Shared, parents};

/// Beside `fs`: what was made there.
const TREE: &str = "tree.zst";
/// And the stream it was made from, without the files' contents.
const TAPE: &str = "tape.zst";
const TEMPORARY: &str = ".tmp-";
/// Replaced while in use.
const RETIRED: &str = ".old-";

/// Keeps layers from being collected while something that needs them is not recorded yet.
pub(crate) struct Wanted<'a> {
    shared: &'a Shared,
    layers: Vec<Digest>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(shared: &'a Shared, layers: &[Digest]) -> Self {
        let mut wanted = shared.wanted.lock();
        for layer in layers {
            *wanted.entry(layer.clone()).or_default() += 1;
        }
        Self { shared, layers: layers.to_vec() }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut wanted = self.shared.wanted.lock();
        for layer in &self.layers {
            if let Some(count) = wanted.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    wanted.remove(layer);
                }
            }
        }
    }
}

/// The right to unpack a layer.
#[derive(Debug)]
pub(crate) struct Turn {
    held: Option<OwnedMutexGuard<()>>,
    id: Digest,
    shared: Arc<Shared>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.shared.turns.lock();
        self.held = None;
        // Nobody else has it or waits for it.
        if turns.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.id);
        }
    }
}

impl Shared {
    pub(crate) fn layer_path(&self, id: &Digest) -> PathBuf {
        self.root.join("layers").join(id.hex()).join("fs")
    }

    /// Whether it is here and not known to be damaged.
    pub(crate) fn has_layer(&self, id: &Digest) -> bool {
        self.layers.lock().get(id).is_some_and(|layer| !layer.damaged)
    }

    /// Bytes of its tar stream, where they are known.
    pub(crate) fn tar_size(&self, id: &Digest) -> Option<u64> {
        self.layers.lock().get(id).map(|layer| layer.tar).filter(|size| *size > 0)
    }

    /// One unpacks, the others wait and find it done.
    pub(crate) async fn turn(self: &Arc<Self>, id: &Digest) -> Turn {
        let own = self.turns.lock().entry(id.clone()).or_default().clone();
        Turn { held: Some(own.lock_owned().await), id: id.clone(), shared: self.clone() }
    }

    /// [`turn`](Self::turn), from a thread that may block.
    pub(crate) fn blocking_turn(self: &Arc<Self>, id: &Digest) -> Turn {
        let own = self.turns.lock().entry(id.clone()).or_default().clone();
        Turn { held: Some(own.blocking_lock_owned()), id: id.clone(), shared: self.clone() }
    }

    /// Unpacks a layer that is not there, in one pass over `blob`. `expected` is the blob's own digest, where known; `there` is
    /// called when all of it is there and true, and waits for the disk alone.
    ///
    /// Extracted beside, synced, renamed, recorded: at whatever point it is cut off, the layer is whole or not there.
    pub(crate) fn add_layer(
        &self,
        id: &Digest,
        expected: Option<&Digest>,
        blob: impl BufRead + Send,
        there: impl FnOnce(),
    ) -> Result<(), ImageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{TEMPORARY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.root.join("layers").join(name);
        let done = self.extract(id, expected, blob, (&temporary, there));
        if done.is_err() {
            remove(&temporary);
        }
        done
    }

    fn extract(
        &self,
        id: &Digest,
        expected: Option<&Digest>,
        blob: impl BufRead + Send,
        (temporary, there): (&std::path::Path, impl FnOnce()),
    ) -> Result<(), ImageError> {
        let fs = temporary.join("fs");
        std::fs::create_dir_all(&fs).map_err(ImageError::file("make", &fs))?;
        // The layer's top becomes the container's root: everybody may pass through it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fs, open).map_err(ImageError::file("open up", &fs))?;
        let directory = std::fs::File::open(&fs).map_err(ImageError::file("open", &fs))?;
        let record = |name: &str| {
            let path = temporary.join(name);
            let file = std::fs::File::create(&path).map_err(ImageError::file("make", &path))?;
            Ok::<_, ImageError>(std::io::BufWriter::with_capacity(1 << 16, file))
        };
        let records = Records { tree: record(TREE)?, tape: record(TAPE)? };
        let unpacked = unpack(blob, directory.as_fd(), records, &Limits::default());
        let unpacked = unpacked
            .map_err(|source| ImageError::Unpack { layer: id.to_string(), source: Arc::new(source) })?;
        if let Some(wanted) = expected.filter(|wanted| **wanted != unpacked.blob) {
            return Err(ImageError::Blob { wanted: wanted.clone(), found: unpacked.blob });
        }
        if unpacked.diff_id != *id {
            let blob = unpacked.blob.to_string();
            return Err(ImageError::DiffId { blob, wanted: id.clone(), found: unpacked.diff_id });
        }
        if !unpacked.restorable {
            remove_file(&temporary.join(TAPE));
        }
        parents::note(temporary, &unpacked.implied)?;
        there();
        nix::unistd::syncfs(&directory).map_err(|error| ImageError::file("sync", &fs)(error.into()))?;
        self.settle_in(id, temporary)?;
        let entries = unpacked.entries + 1;
        let record = LayerRecord { size: unpacked.size, entries, tar: unpacked.tar_size, damaged: false };
        self.record_layer(id, record).inspect_err(|_| remove(&self.root.join("layers").join(id.hex())))?;
        self.clear_retired()?;
        tracing::info!(layer = &id.hex()[..12], bytes = unpacked.blob_size, entries, "layer unpacked");
        Ok(())
    }

    /// Gives a layer its place. One that is replaced may be below containers that run: they keep it until they are gone.
    fn settle_in(&self, id: &Digest, temporary: &std::path::Path) -> Result<(), ImageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let layers = self.root.join("layers");
        let path = layers.join(id.hex());
        if !self.layers.lock().contains_key(id) {
            // Left by a crash between the rename and the record.
            remove(&path);
            return std::fs::rename(temporary, &path).map_err(ImageError::file("rename to", &path));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let aside = layers.join(format!("{RETIRED}{}-{}-{number}", id.hex(), std::process::id()));
        std::fs::rename(temporary, &aside).map_err(ImageError::file("rename to", &aside))?;
        self.retired.store(true, Ordering::Relaxed);
        let exchange = RenameFlags::RENAME_EXCHANGE;
        match renameat2(AT_FDCWD, &aside, AT_FDCWD, &path, exchange) {
            // The damage was that it was gone.
            Err(nix::Error::ENOENT) => std::fs::rename(&aside, &path),
            done => done.map_err(Into::into),
        }
        .map_err(ImageError::file("rename to", &path))
    }

    /// Removes replaced layers that no container holds any more.
    pub(crate) fn clear_retired(&self) -> Result<(), ImageError> {
        if !self.retired.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = self.root.join("layers");
        let mut some = false;
        let entries = std::fs::read_dir(&path).map_err(ImageError::file("read", &path))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(RETIRED) else { continue };
            let hex = rest.split('-').next().unwrap_or_default();
            let held = |image: &Arc<crate::Image>| image.layers.iter().any(|layer| layer.hex() == hex);
            let lost = self.ground.layers().iter().any(|layer| layer.hex() == hex);
            if lost || self.leases.lock().values().flatten().any(held) {
                some = true;
            } else {
                remove(&entry.path());
            }
        }
        self.retired.store(some, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a layer that nobody uses off the disk: first the record, then the directory. Where somebody is bringing it at
    /// this moment, that one clears what is there.
    pub(crate) fn discard_layer(&self, id: &Digest) -> Result<(), ImageError> {
        let turn = self.turns.lock().entry(id.clone()).or_default().clone();
        let Ok(_turn) = turn.try_lock() else { return Ok(()) };
        if self.layers.lock().contains_key(id) {
            return Ok(());
        }
        self.store.delete(Table::Layers, id.as_str())?;
        let path = self.root.join("layers").join(id.hex());
        let name = format!("{TEMPORARY}gone-{}", id.hex());
        let aside = self.root.join("layers").join(name);
        match std::fs::rename(&path, &aside) {
            Ok(()) => {
                remove(&aside);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ImageError::file("move away", path)(error)),
        }
    }

    /// The layer's tar stream, made again from what is on disk; `None` where that is not enough. The caller keeps the layer
    /// from being collected, and compares what it read with the digest.
    pub(crate) fn stream(&self, id: &Digest) -> Result<Option<Restored<std::fs::File>>, ImageError> {
        let path = self.root.join("layers").join(id.hex());
        let directory = path.join("fs");
        let opened = match std::fs::File::open(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::Damaged { layer: id.clone() });
            }
            opened => opened.map_err(ImageError::file("open", &directory))?,
        };
        let tape = match std::fs::File::open(path.join(TAPE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(ImageError::file("open", path.join(TAPE)))?,
        };
        Restored::new(opened.into(), tape).map(Some).map_err(ImageError::file("read", path.join(TAPE)))
    }

    /// Compares a layer with what was written down when it was unpacked; `None` where an older release did not.
    pub(crate) fn check_layer(&self, id: &Digest) -> Result<Option<Checked>, ImageError> {
        let path = self.root.join("layers").join(id.hex());
        let directory = path.join("fs");
        let opened = std::fs::File::open(&directory).map_err(ImageError::file("open", &directory))?;
        let record = path.join(TREE);
        let tree = match std::fs::File::open(&record) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(ImageError::file("open", &record))?,
        };
        check(opened.as_fd(), tree).map(Some).map_err(ImageError::file("read", &record))
    }

    /// At start: directories without a record.
    pub(crate) fn clear_unknown(&self) -> Result<(), ImageError> {
        let path = self.root.join("layers");
        let entries = std::fs::read_dir(&path).map_err(ImageError::file("read", &path))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(RETIRED)) {
                // Containers that outlived the daemon may be on it.
                self.retired.store(true, Ordering::Relaxed);
                continue;
            }
            let known = name.to_str().is_some_and(|hex| {
                format!("sha256:{hex}").parse::<Digest>().is_ok_and(|id| self.layers.lock().contains_key(&id))
            });
            if !known {
                remove(&entry.path());
            }
        }
        Ok(())
    }
}

fn remove_file(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), error = &error as &dyn std::error::Error, "not removed");
    }
}

/// Removes a tree as deep as an image or a container likes. Not there: no error.
pub(crate) fn remove_now(path: &std::path::Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let name = std::ffi::CString::new(name.as_encoded_bytes())?;
    match std::fs::File::open(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        opened => remove_tree(opened?.as_fd(), &name, &mut || {}),
    }
}

/// What cannot be removed now is found again at the next start.
pub(crate) fn remove(path: &std::path::Path) {
    if let Err(error) = remove_now(path) {
        tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot be removed yet");
    }
}
