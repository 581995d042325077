//! How far the pulls are that go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use berth_registry::LayerDescriptor;

use crate::Images;

/// One pull as somebody watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// In full: registry, repository, tag or digest.
    pub reference: String,
    pub layers: u64,
    /// Those that were here already count.
    pub layers_done: u64,
    /// Of blobs, compressed.
    pub bytes: u64,
    pub bytes_done: u64,
    /// The lowest layer first.
    pub parts: Vec<PartProgress>,
}

/// One layer of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartProgress {
    /// Of the blob.
    pub digest: String,
    pub bytes: u64,
    pub bytes_done: u64,
    /// Unpacked and recorded.
    pub done: bool,
}

/// Counted by the pull itself.
#[derive(Debug)]
pub(crate) struct Progress {
    reference: String,
    parts: OnceLock<Vec<Arc<LayerProgress>>>,
}

#[derive(Debug)]
pub(crate) struct LayerProgress {
    digest: String,
    bytes: u64,
    received: AtomicU64,
    done: AtomicBool,
}

impl LayerProgress {
    /// Or found to be there.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It begins once more.
    pub(crate) fn anew(&self) {
        self.received.store(0, Ordering::Relaxed);
    }

    /// The layer is here, transferred or not.
    pub(crate) fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> PartProgress {
        let done = self.done.load(Ordering::Relaxed);
        let received = self.received.load(Ordering::Relaxed).min(self.bytes);
        let bytes_done = if done { self.bytes } else { received };
        PartProgress { digest: self.digest.clone(), bytes: self.bytes, bytes_done, done }
    }
}

impl Progress {
    pub(crate) fn of(reference: String) -> Self {
        Self { reference, parts: OnceLock::new() }
    }

    /// What the manifest says; a counter for each layer.
    pub(crate) fn begin(&self, layers: &[LayerDescriptor]) -> Vec<Arc<LayerProgress>> {
        let part = |layer: &LayerDescriptor| {
            Arc::new(LayerProgress {
                digest: layer.digest.to_string(),
                bytes: layer.size,
                received: AtomicU64::new(0),
                done: AtomicBool::new(false),
            })
        };
        self.parts.get_or_init(|| layers.iter().map(part).collect()).clone()
    }

    fn now(&self) -> PullProgress {
        let parts: Vec<_> = self.parts.get().into_iter().flatten().map(|part| part.now()).collect();
        let sum = |of: fn(&PartProgress) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
        PullProgress {
            reference: self.reference.clone(),
            layers: parts.len() as u64,
            layers_done: sum(|part| part.done.into()),
            bytes: sum(|part| part.bytes),
            bytes_done: sum(|part| part.bytes_done),
            parts,
        }
    }
}

impl Images {
    /// The pulls that go on.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.shared.pulls.lock().values().map(|(_, progress)| progress.now()).collect()
    }
}
