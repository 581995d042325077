//! Who may not work at the same time. A garbage collection of a network knows the pods of its beginning and would take from
//! one that comes later, so a pod that comes cuts it short: a pod never waits for a plugin that is asked about others.

use std::collections::{HashMap, HashSet};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct Turns {
    all: Mutex<All>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct All {
    networks: HashMap<String, Turn>,
    /// Nobody comes.
    closed: bool,
}

#[derive(Debug, Default)]
struct Turn {
    /// Containers that are being connected.
    coming: HashSet<String>,
    collecting: bool,
    /// Dropped to cut the collection short.
    go_on: Option<PipeWriter>,
}

/// Readable (as at an end of file) once somebody wants the work to end.
#[derive(Debug)]
pub(crate) struct Cut(PipeReader);

impl Cut {
    pub(crate) fn is_cut(&self) -> bool {
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
    }
}

impl AsFd for Cut {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A container is being connected as long as it is there.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    turns: &'a Turns,
    network: &'a str,
    container: &'a str,
}

/// A collection goes on as long as it is there.
#[derive(Debug)]
pub(crate) struct Collecting<'a> {
    turns: &'a Turns,
    network: &'a str,
    /// Containers that were being connected at its beginning.
    pub(crate) coming: HashSet<String>,
    pub(crate) cut: Cut,
}

/// Nobody is being connected, and nobody will be as long as it is there.
#[derive(Debug)]
pub struct Closed<'a>(&'a Turns);

impl Turns {
    /// `None`: a collection that was cut short, or whoever closed it, did not end within `patience`.
    pub(crate) fn come<'a>(
        &'a self,
        network: &'a str,
        container: &'a str,
        patience: Duration,
    ) -> Option<Coming<'a>> {
        let mut all = self.all.lock();
        let end = Instant::now() + patience;
        while all.closed {
            if self.changed.wait_until(&mut all, end).timed_out() {
                return None;
            }
        }
        self.cut_short(&mut all, network, end)?;
        let turn = all.networks.entry(network.to_owned()).or_default();
        turn.coming.insert(container.to_owned());
        Some(Coming { turns: self, network, container })
    }

    /// `None`: somebody is being connected, or it is closed already.
    pub(crate) fn close(&self) -> Option<Closed<'_>> {
        let mut all = self.all.lock();
        if all.closed || all.networks.values().any(|turn| !turn.coming.is_empty()) {
            return None;
        }
        all.closed = true;
        Some(Closed(self))
    }

    /// Cuts an earlier one short. `None`: that one did not end within `patience`.
    pub(crate) fn collect<'a>(
        &'a self,
        network: &'a str,
        patience: Duration,
    ) -> io::Result<Option<Collecting<'a>>> {
        let (reader, writer) = io::pipe()?;
        let mut all = self.all.lock();
        if self.cut_short(&mut all, network, Instant::now() + patience).is_none() {
            return Ok(None);
        }
        let turn = all.networks.entry(network.to_owned()).or_default();
        (turn.collecting, turn.go_on) = (true, Some(writer));
        let coming = turn.coming.clone();
        Ok(Some(Collecting { turns: self, network, coming, cut: Cut(reader) }))
    }

    fn cut_short(&self, all: &mut MutexGuard<'_, All>, network: &str, end: Instant) -> Option<()> {
        while let Some(turn) = all.networks.get_mut(network).filter(|turn| turn.collecting) {
            turn.go_on = None;
            if self.changed.wait_until(all, end).timed_out() {
                return None;
            }
        }
        Some(())
    }

    fn leave(&self, network: &str, change: impl FnOnce(&mut Turn)) {
        let mut all = self.all.lock();
        if let Some(turn) = all.networks.get_mut(network) {
            change(turn);
            if turn.coming.is_empty() && !turn.collecting {
                all.networks.remove(network);
            }
        }
        self.changed.notify_all();
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.turns.leave(self.network, |turn| {
            turn.coming.remove(self.container);
        });
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.all.lock().closed = false;
        self.0.changed.notify_all();
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.turns.leave(self.network, |turn| (turn.collecting, turn.go_on) = (false, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_pod_that_comes_cuts_a_collection_short() {
        let turns = Turns::default();
        let before = turns.come("net", "one", LONG).unwrap();
        let collecting = turns.collect("net", LONG).unwrap().unwrap();
        assert_eq!(collecting.coming, HashSet::from(["one".to_owned()]));
        assert!(!collecting.cut.is_cut());
        // Another network's pods are not asked about.
        drop(turns.come("other", "two", Duration::ZERO).unwrap());
        assert!(!collecting.cut.is_cut());
        assert!(turns.come("net", "two", Duration::from_millis(1)).is_none());
        assert!(collecting.cut.is_cut());
        std::thread::scope(|scope| {
            let coming = scope.spawn(|| turns.come("net", "three", LONG).is_some());
            drop(collecting);
            assert!(coming.join().unwrap());
        });
        drop(before);
        assert!(turns.all.lock().networks.is_empty());
    }

    #[test]
    fn closed_to_those_who_come_later() {
        let turns = Turns::default();
        let coming = turns.come("net", "one", LONG).unwrap();
        assert!(turns.close().is_none());
        drop(coming);
        let closed = turns.close().unwrap();
        assert!(turns.close().is_none() && turns.come("net", "one", Duration::ZERO).is_none());
        assert!(turns.collect("net", Duration::ZERO).unwrap().is_some());
        std::thread::scope(|scope| {
            let coming = scope.spawn(|| turns.come("net", "two", LONG).is_some());
            drop(closed);
            assert!(coming.join().unwrap());
        });
    }

    #[test]
    fn a_pod_that_hangs_keeps_neither_pods_nor_a_collection() {
        let turns = Turns::default();
        let _hangs = turns.come("net", "one", Duration::ZERO).unwrap();
        let _comes = turns.come("net", "two", Duration::ZERO).unwrap();
        let collecting = turns.collect("net", Duration::ZERO).unwrap().unwrap();
        assert_eq!(collecting.coming.len(), 2);
        drop(collecting);
        assert!(turns.collect("net", Duration::ZERO).unwrap().is_some());
    }
}
