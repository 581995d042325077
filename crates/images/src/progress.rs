//! How far the transfers are that go on, and those that have just ended: who watches by looking now and then still sees
//! the end of each part.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use berth_model::{Direction, Part, PartState, Transfer};
use berth_registry::LayerDescriptor;
use parking_lot::Mutex;

use crate::Images;

/// How long one that has ended is shown, and how many of them.
const SHOWN: Duration = Duration::from_secs(10);
const ENDED: usize = 64;

/// Counted by the transfer itself; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: Arc<Shown>,
}

#[derive(Debug)]
struct Shown {
    number: u64,
    direction: Direction,
    reference: String,
    parts: Mutex<Vec<Arc<LayerProgress>>>,
    ended: OnceLock<Instant>,
}

#[derive(Debug)]
pub(crate) struct LayerProgress {
    digest: String,
    bytes: AtomicU64,
    moved: Arc<AtomicU64>,
    state: AtomicU8,
}

impl LayerProgress {
    fn new(digest: String, bytes: u64) -> Arc<Self> {
        let (moved, state) = (Arc::default(), AtomicU8::new(PartState::Waiting as u8));
        Arc::new(Self { digest, bytes: AtomicU64::new(bytes), moved, state })
    }

    /// Or found to be there.
    pub(crate) fn received(&self, bytes: u64) {
        self.enter(PartState::Moving);
        self.add(bytes);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It begins once more.
    pub(crate) fn anew(&self) {
        self.moved.store(0, Ordering::Relaxed);
    }

    /// The layer is here, transferred or not.
    pub(crate) fn done(&self) {
        let moved = self.moved.load(Ordering::Relaxed) > 0;
        self.enter(if moved { PartState::Done } else { PartState::There });
    }

    pub(crate) fn enter(&self, state: PartState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// What is being sent, by whoever sends it.
    pub(crate) fn moved(&self) -> Arc<AtomicU64> {
        self.moved.clone()
    }

    /// Now that it is known.
    pub(crate) fn size(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn now(&self) -> Part {
        let state = usize::from(self.state.load(Ordering::Relaxed));
        let state = PartState::ALL.get(state).copied().unwrap_or_default();
        let bytes = self.bytes.load(Ordering::Relaxed);
        let moved = self.moved.load(Ordering::Relaxed);
        let moved = if bytes == 0 { moved } else { moved.min(bytes) };
        let bytes_done = if state.is_end() { bytes } else { moved };
        Part { digest: self.digest.clone(), bytes, bytes_done, state }
    }
}

impl Progress {
    /// One that nobody watches.
    pub(crate) fn unwatched(reference: String) -> Self {
        Self::of(0, Direction::Pull, reference)
    }

    fn of(number: u64, direction: Direction, reference: String) -> Self {
        let (parts, ended) = (Mutex::default(), OnceLock::new());
        Self { shown: Arc::new(Shown { number, direction, reference, parts, ended }) }
    }

    /// What the manifest says; a counter for each layer.
    pub(crate) fn begin(&self, layers: &[LayerDescriptor]) -> Vec<Arc<LayerProgress>> {
        self.parts(layers.iter().map(|layer| (layer.digest.to_string(), layer.size)))
    }

    /// A counter for each, with its bytes where they are known, in place of all that was said before.
    pub(crate) fn parts(&self, all: impl Iterator<Item = (String, u64)>) -> Vec<Arc<LayerProgress>> {
        self.shown.parts.lock().clear();
        self.more(all)
    }

    /// A counter for each, beside those before.
    pub(crate) fn more(&self, all: impl Iterator<Item = (String, u64)>) -> Vec<Arc<LayerProgress>> {
        let made: Vec<_> = all.map(|(digest, bytes)| LayerProgress::new(digest, bytes)).collect();
        self.shown.parts.lock().extend(made.iter().cloned());
        made
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let _ = self.shown.ended.set(Instant::now());
    }
}

impl Shown {
    fn now(&self) -> Transfer {
        let parts: Vec<_> = self.parts.lock().iter().map(|part| part.now()).collect();
        let sum = |of: fn(&Part) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
        Transfer {
            number: self.number,
            direction: self.direction,
            reference: self.reference.clone(),
            ended: self.ended.get().is_some(),
            layers: parts.len() as u64,
            layers_done: sum(|part| part.state.is_end().into()),
            bytes: sum(|part| part.bytes),
            bytes_done: sum(|part| part.bytes_done),
            parts,
        }
    }
}

/// All that is shown.
#[derive(Debug, Default)]
pub(crate) struct Board {
    shown: Mutex<Vec<Arc<Shown>>>,
    last: AtomicU64,
}

impl Board {
    pub(crate) fn begin(&self, direction: Direction, reference: String) -> Progress {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let progress = Progress::of(number, direction, reference);
        let mut shown = self.shown.lock();
        let ended = shown.iter().filter(|one| one.ended.get().is_some()).count();
        let mut surplus = ended.saturating_sub(ENDED);
        shown.retain(|one| match one.ended.get() {
            None => true,
            Some(at) => {
                let stays = surplus == 0 && at.elapsed() < SHOWN;
                surplus = surplus.saturating_sub(1);
                stays
            }
        });
        shown.push(progress.shown.clone());
        progress
    }
}

impl Images {
    /// The transfers that go on, and those that have just ended, the oldest first.
    pub fn transfers(&self) -> Vec<Transfer> {
        let shown = self.shared.board.shown.lock();
        let fresh = shown.iter().filter(|one| one.ended.get().is_none_or(|at| at.elapsed() < SHOWN));
        fresh.map(|one| one.now()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_shown_for_a_while() {
        let board = Board::default();
        let first = board.begin(Direction::Pull, "a:1".into());
        let parts = first.parts([("x".to_owned(), 10), ("y".to_owned(), 5)].into_iter());
        parts[0].received(4);
        parts[1].done();
        let now = first.shown.now();
        assert_eq!((now.layers, now.layers_done, now.bytes, now.bytes_done), (2, 1, 15, 9));
        assert_eq!((now.parts[0].state, now.parts[1].state), (PartState::Moving, PartState::There));
        parts[0].done();
        let shown = first.shown.clone();
        first.more([("z".to_owned(), 0)].into_iter())[0].add(7);
        assert_eq!((shown.now().parts[2].bytes, shown.now().bytes_done), (0, 22), "of unknown size");
        drop(first);
        assert_eq!((shown.now().ended, shown.now().parts[0].state), (true, PartState::Done));
        for _ in 0..ENDED + 10 {
            drop(board.begin(Direction::Push, "b:1".into()));
        }
        assert!(board.shown.lock().len() <= ENDED + 2);
    }
}
