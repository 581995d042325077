//! Directories that entries lie in and that no entry names. What they are like is not this layer's to say: where a layer below
//! has them, it is as that one says.

use std::collections::BTreeSet;

use super::{Problem, Step};

pub(super) struct Implied {
    paths: BTreeSet<Vec<u8>>,
    /// Of all paths.
    bytes: usize,
    most: usize,
}

impl Implied {
    /// With so many bytes of paths at most.
    pub(super) fn new(most: usize) -> Self {
        Self { paths: BTreeSet::new(), bytes: 0, most }
    }

    pub(super) fn insert(&mut self, path: Vec<u8>) -> Step<()> {
        let length = path.len();
        if self.paths.insert(path) {
            self.bytes += length;
        }
        if self.bytes > self.most {
            return Err(Problem::Refused("in too many directories that no entry names"));
        }
        Ok(())
    }

    /// An entry names it after all.
    pub(super) fn named(&mut self, path: &[u8]) {
        if self.paths.remove(path) {
            self.bytes -= path.len();
        }
    }

    /// Removed, with everything below.
    pub(super) fn gone(&mut self, path: &[u8]) {
        self.named(path);
        // The byte after `/`.
        let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let below: Vec<Vec<u8>> = self.paths.range(first..end).cloned().collect();
        below.iter().for_each(|path| self.named(path));
    }

    pub(super) fn into_paths(self) -> Vec<Vec<u8>> {
        self.paths.into_iter().collect()
    }
}
