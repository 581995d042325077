//! A content in few words, so that two can be compared: itself where it is short, else its length and its digest.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use sha2::{Digest as _, Sha256};

/// Bytes that are shown.
const SHOWN: usize = 60;
/// Bytes that are read at a time.
const BLOCK: u64 = 64 << 10;

/// Of bytes that are at hand.
pub(super) fn shown(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=SHOWN => bytes.escape_ascii().to_string(),
        _ => pieces(bytes.len() as u64, &[(0, bytes)]),
    }
}

/// Of a file.
pub(super) fn of_file(file: &File, size: u64) -> Result<String> {
    if size <= SHOWN as u64 {
        let mut bytes = vec![0; usize::try_from(size)?];
        file.read_exact_at(&mut bytes, 0)?;
        return Ok(shown(&bytes));
    }
    let next = |from: u64| match lseek64(file, from.cast_signed(), Whence::SeekData) {
        Ok(at) => Ok(Some(at.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    };
    digested(size, next, |block, at| Ok(file.read_exact_at(block, at)?))
}

/// Of a long content that has these bytes at these places, in their order, and zeros everywhere else.
pub(super) fn pieces(size: u64, pieces: &[(u64, &[u8])]) -> String {
    let ends = |&(at, bytes): &(u64, &[u8])| at + bytes.len() as u64;
    let next = |from: u64| Ok(pieces.iter().find(|piece| ends(piece) > from).map(|&(at, _)| at.max(from)));
    let read = |block: &mut [u8], from: u64| {
        block.fill(0);
        let end = from + block.len() as u64;
        for &(at, bytes) in pieces {
            let (first, last) = (at.max(from), ends(&(at, bytes)).min(end));
            if first < last {
                let (to, of) = (first - from, first - at);
                let length = usize::try_from(last - first)?;
                let (to, of) = (usize::try_from(to)?, usize::try_from(of)?);
                block[to..to + length].copy_from_slice(&bytes[of..of + length]);
            }
        }
        Ok(())
    };
    digested(size, next, read).unwrap_or_else(|error| format!("{error:#}"))
}

/// The digest is of the size and of every block that is not all zeros, with its place: what is a hole in one file and written
/// zeros in another is the same, and a hole costs nothing.
fn digested(
    size: u64,
    next: impl Fn(u64) -> Result<Option<u64>>,
    read: impl Fn(&mut [u8], u64) -> Result<()>,
) -> Result<String> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    let mut block = vec![0; usize::try_from(BLOCK)?];
    while let Some(data) = next(at)?.filter(|data| *data < size) {
        at = data / BLOCK * BLOCK;
        let length = usize::try_from(BLOCK.min(size - at))?;
        let block = &mut block[..length];
        read(block, at)?;
        if block.iter().any(|byte| *byte != 0) {
            hash.update(at.to_le_bytes());
            hash.update(&*block);
        }
        at += BLOCK;
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{size} bytes {hex}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn holes_and_zeros_are_the_same_and_each_byte_counts() {
        let size = 5 * BLOCK + 100;
        let mut dense = vec![0; usize::try_from(size).unwrap()];
        let (low, high) = (70_000, usize::try_from(4 * BLOCK).unwrap() + 7);
        dense[low..low + 3].copy_from_slice(b"low");
        dense[high..high + 4].copy_from_slice(b"high");
        let expected = shown(&dense);
        assert_eq!(pieces(size, &[(low as u64, b"low"), (high as u64, b"high")]), expected);
        let mut full = tempfile::tempfile().unwrap();
        full.write_all(&dense).unwrap();
        assert_eq!(of_file(&full, size).unwrap(), expected);
        let holes = tempfile::tempfile().unwrap();
        holes.set_len(size).unwrap();
        holes.write_all_at(b"low", low as u64).unwrap();
        holes.write_all_at(b"high", high as u64).unwrap();
        assert_eq!(of_file(&holes, size).unwrap(), expected);
        for at in [0, low, high + 3, dense.len() - 1] {
            let mut other = dense.clone();
            other[at] ^= 1;
            assert_ne!(shown(&other), expected, "byte {at}");
        }
        dense.push(0);
        assert_ne!(shown(&dense), expected, "a zero more");
        assert_eq!(shown(b"a\n"), "a\\n");
    }
}
