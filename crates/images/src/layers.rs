//! Layers on disk: `layers/<hex of the diff id>/fs`.

use std::io::BufRead;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_ids::Digest;
use berth_unpack::{Limits, unpack};
use tokio::sync::OwnedMutexGuard;

use crate::image::LayerRecord;
use crate::{ImageError, Shared};

/// Beside `fs`: what was made there.
const TREE: &str = "tree.zst";
const TEMPORARY: &str = ".tmp-";

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

    pub(crate) fn has_layer(&self, id: &Digest) -> bool {
        self.layers.lock().contains_key(id)
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

    /// Unpacks a layer that is not there, in one pass over `blob`. `expected` is the blob's own digest, where known.
    ///
    /// Extracted beside, synced, renamed, recorded: at whatever point it is cut off, the layer is whole or not there.
    pub(crate) fn add_layer(
        &self,
        id: &Digest,
        expected: Option<&Digest>,
        blob: impl BufRead + Send,
    ) -> Result<(), ImageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{TEMPORARY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.root.join("layers").join(name);
        let done = self.extract(id, expected, blob, &temporary);
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
        temporary: &std::path::Path,
    ) -> Result<(), ImageError> {
        let fs = temporary.join("fs");
        std::fs::create_dir_all(&fs).map_err(ImageError::file("make", &fs))?;
        // The layer's top becomes the container's root: everybody may pass through it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fs, open).map_err(ImageError::file("open up", &fs))?;
        let directory = std::fs::File::open(&fs).map_err(ImageError::file("open", &fs))?;
        let record = temporary.join(TREE);
        let tree = std::fs::File::create(&record).map_err(ImageError::file("make", &record))?;
        let tree = std::io::BufWriter::with_capacity(1 << 16, tree);
        let unpacked = unpack(blob, directory.as_fd(), tree, &Limits::default());
        let unpacked = unpacked
            .map_err(|source| ImageError::Unpack { layer: id.to_string(), source: Arc::new(source) })?;
        if let Some(wanted) = expected.filter(|wanted| **wanted != unpacked.blob) {
            return Err(ImageError::Blob { wanted: wanted.clone(), found: unpacked.blob });
        }
        if unpacked.diff_id != *id {
            let blob = unpacked.blob.to_string();
            return Err(ImageError::DiffId { blob, wanted: id.clone(), found: unpacked.diff_id });
        }
        nix::unistd::syncfs(&directory).map_err(|error| ImageError::file("sync", &fs)(error.into()))?;
        let path = self.root.join("layers").join(id.hex());
        // Left by a crash between the rename and the record.
        remove(&path);
        std::fs::rename(temporary, &path).map_err(ImageError::file("rename to", &path))?;
        let entries = unpacked.entries + 1;
        self.record_layer(id, LayerRecord { size: unpacked.size, entries })?;
        tracing::info!(layer = &id.hex()[..12], bytes = unpacked.blob_size, entries, "layer unpacked");
        Ok(())
    }

    pub(crate) fn discard_layer(&self, id: &Digest) -> Result<(), ImageError> {
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

    /// At start: directories without a record.
    pub(crate) fn clear_unknown(&self) -> Result<(), ImageError> {
        let path = self.root.join("layers");
        let entries = std::fs::read_dir(&path).map_err(ImageError::file("read", &path))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let known = name.to_str().is_some_and(|hex| {
                format!("sha256:{hex}").parse::<Digest>().is_ok_and(|id| self.has_layer(&id))
            });
            if !known {
                remove(&entry.path());
            }
        }
        Ok(())
    }
}

/// What cannot be removed now is found again at the next start.
pub(crate) fn remove(path: &std::path::Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot be removed yet");
        }
        _ => {}
    }
}
