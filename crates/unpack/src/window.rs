//! Memory for zstd's windows, of all layers together.
//!
//! A frame says how far back it refers (RFC 8878, 3.1.1.1.2), and whoever decodes it keeps that much. Up to 8 MiB is what
//! every decoder is expected to keep. BuildKit's and podman's best levels take 32 MiB, and such layers take turns; what
//! `zstd --ultra` and `--long` want beyond is refused: no image takes more memory of a node than that.

use parking_lot::{Condvar, Mutex};

/// Kept at a time, and by one alone.
pub(crate) const BUDGET: u64 = 32 << 20;
/// What is never refused.
pub(crate) const USUAL: u64 = 8 << 20;
/// A frame header without the magic number.
pub(crate) const HEADER: usize = 14;

static TAKEN: Mutex<u64> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
}

impl Window {
    /// Waits until there is room; `None` for more than there ever is.
    pub(crate) fn take(bytes: u64) -> Option<Self> {
        if bytes > BUDGET {
            return None;
        }
        let mut taken = TAKEN.lock();
        while *taken + bytes > BUDGET {
            FREE.wait(&mut taken);
        }
        *taken += bytes;
        Some(Self { bytes })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *TAKEN.lock() -= self.bytes;
        FREE.notify_all();
    }
}

/// Bytes of the window that a frame asks for, from what follows its magic number; [`USUAL`] where that cannot be told.
pub(crate) fn wanted(header: &[u8]) -> u64 {
    let told = || {
        let (&descriptor, rest) = header.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        if !single_segment {
            let window = *rest.first()?;
            let base = 1_u64 << (10 + (window >> 3));
            return Some(base + base / 8 * u64::from(window & 7));
        }
        // The content's size stands for the window, after a dictionary's id.
        let rest = rest.get([0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
        let (length, more) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
        let bytes = rest.get(..length)?;
        let size = bytes.iter().rev().fold(0_u64, |sum, &byte| (sum << 8) | u64::from(byte));
        size.checked_add(more)
    };
    told().unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_from_frame_headers() {
        for (log, data) in [(20, vec![7; 3 << 20]), (24, vec![7; 3 << 20]), (27, vec![7; 3 << 20])] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, &data).unwrap();
            let frame = encoder.finish().unwrap();
            assert_eq!(wanted(&frame[4..]), 1 << log);
        }
        let mut one = zstd::bulk::Compressor::new(3).unwrap();
        for size in [10, 300, 70_000, 1 << 20] {
            let frame = one.compress(&vec![1; size]).unwrap();
            assert!(wanted(&frame[4..]) >= size as u64, "{size}");
        }
        assert_eq!(wanted(&[]), USUAL);
    }

    #[test]
    fn large_windows_take_turns() {
        assert!(Window::take(BUDGET + 1).is_none());
        let first = Window::take(BUDGET);
        let (tell, told) = std::sync::mpsc::channel();
        let second = std::thread::spawn(move || {
            let window = Window::take(1);
            tell.send(window.is_some()).unwrap();
        });
        assert!(told.try_recv().is_err());
        drop(first);
        assert!(told.recv_timeout(std::time::Duration::from_secs(30)).unwrap());
        second.join().unwrap();
    }
}
