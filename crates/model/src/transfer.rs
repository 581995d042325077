//! Images on their way, as somebody watches them.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Pull,
    Push,
    Import,
    Export,
}

/// A transfer that goes on, or has just ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Counts the daemon's transfers.
    pub number: u64,
    pub direction: Direction,
    /// In full: registry, repository, tag or digest. Of an archive, what whoever asked calls it.
    pub reference: String,
    pub ended: bool,
    pub layers: u64,
    /// Those that were there already count.
    pub layers_done: u64,
    /// Of blobs as they are moved; grows where that is not known from the beginning.
    pub bytes: u64,
    pub bytes_done: u64,
    /// The lowest layer first.
    pub parts: Vec<Part>,
}

/// One layer of a transfer, or the archive that is read before its layers are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Of the blob; where a push has to make it first, and of archives, the diff id.
    pub digest: String,
    /// 0 where it is not known yet.
    pub bytes: u64,
    pub bytes_done: u64,
    pub state: PartState,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum PartState {
    #[default]
    Waiting,
    /// Being compressed for a push, or measured for an export.
    Preparing,
    /// An archive that is a pipe or compressed, being copied to where its files are found.
    Copying,
    Moving,
    /// It was there before.
    There,
    /// The registry had it in another repository.
    Mounted,
    Done,
}

impl PartState {
    /// All of them, each at its number.
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Preparing, Self::Copying, Self::Moving, Self::There, Self::Mounted, Self::Done];

    pub fn is_end(self) -> bool {
        matches!(self, Self::There | Self::Mounted | Self::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_at_their_numbers() {
        assert!(PartState::ALL.iter().enumerate().all(|(number, state)| *state as usize == number));
    }
}
