//! Buffers for bytes on their way, shared by all connections: who waits holds none.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Bytes of one buffer: what a pipe holds, behind room for a frame's head.
pub(crate) const SIZE: usize = HEADROOM + 64 * 1024;
/// A head of either protocol and a channel's byte fit.
pub(crate) const HEADROOM: usize = 16;
/// Idle buffers that are kept; more are given back to the allocator.
const KEPT: usize = 4;

static IDLE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer of [`SIZE`] bytes with whatever was in it; goes back when dropped.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Self {
        let idle = IDLE.lock().pop();
        Self(idle.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = IDLE.lock();
        if idle.len() < KEPT {
            idle.push(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
