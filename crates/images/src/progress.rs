//! How far the pulls are that go on.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

/// Counted by the pull itself.
#[derive(Debug)]
pub(crate) struct Progress {
    reference: String,
    layers: AtomicU64,
    layers_done: AtomicU64,
    bytes: AtomicU64,
    bytes_done: AtomicU64,
}

impl Progress {
    pub(crate) fn of(reference: String) -> Self {
        let zero = || AtomicU64::new(0);
        Self { reference, layers: zero(), layers_done: zero(), bytes: zero(), bytes_done: zero() }
    }

    /// What the manifest says.
    pub(crate) fn begin(&self, blobs: impl Iterator<Item = u64>) {
        let (count, sum) = blobs.fold((0, 0_u64), |(count, sum), size| (count + 1, sum.saturating_add(size)));
        self.layers.store(count, Ordering::Relaxed);
        self.bytes.store(sum, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A layer is here. `unasked`: bytes of it that need not be transferred.
    pub(crate) fn layer_done(&self, unasked: u64) {
        self.bytes_done.fetch_add(unasked, Ordering::Relaxed);
        self.layers_done.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> PullProgress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PullProgress {
            reference: self.reference.clone(),
            layers: read(&self.layers),
            layers_done: read(&self.layers_done),
            bytes: read(&self.bytes),
            bytes_done: read(&self.bytes_done).min(read(&self.bytes)),
        }
    }
}

impl Images {
    /// The pulls that go on.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.shared.pulls.lock().values().map(|(_, progress)| progress.now()).collect()
    }
}
