//! Archives on their way in or out, as somebody watches them and may end them.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_model::{Direction, PartState};

use crate::progress::{LayerProgress, Progress};
use crate::{ImageError, Images};

/// One archive's work: its progress, and whether anybody still wants it.
#[derive(Debug)]
pub struct Work {
    pub(crate) progress: Progress,
    called: String,
    ended: Arc<AtomicBool>,
}

/// Ends its work, at the next piece, when it is dropped.
#[derive(Debug)]
pub struct Wanting {
    ended: Arc<AtomicBool>,
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Images {
    /// Work with an archive that is shown under this name.
    pub fn begin(&self, direction: Direction, called: String) -> Work {
        let progress = self.shared.board.begin(direction, called.clone());
        Work { progress, called, ended: Arc::default() }
    }
}

impl Work {
    /// That nobody watches.
    pub(crate) fn unwatched() -> Self {
        let called = "the archive".to_owned();
        Self { progress: Progress::unwatched(called.clone()), called, ended: Arc::default() }
    }

    /// The work goes on for as long as this is held, if somebody ever held it.
    pub fn wanting(&self) -> Wanting {
        Wanting { ended: self.ended.clone() }
    }

    /// True once nobody wants it any more.
    pub(crate) fn ended(&self) -> &Arc<AtomicBool> {
        &self.ended
    }

    pub(crate) fn lost(&self) -> ImageError {
        ImageError::Lost { reference: self.called.clone() }
    }

    pub(crate) fn check(&self) -> Result<(), ImageError> {
        match self.ended.load(Ordering::Relaxed) {
            true => Err(self.lost()),
            false => Ok(()),
        }
    }

    /// The archive is copied before anything is known of it; `bytes` of it, where that is known.
    pub(crate) fn copying(&self, bytes: u64) -> Option<Arc<LayerProgress>> {
        let part = self.progress.parts([("archive".to_owned(), bytes)].into_iter()).pop();
        part.inspect(|part| part.enter(PartState::Copying))
    }

    /// `inner`, counted; its next read fails when nobody wants it any more.
    pub(crate) fn follow<R>(&self, inner: R, part: Option<Arc<LayerProgress>>) -> Followed<R> {
        Followed { inner, part, ended: self.ended.clone() }
    }
}

pub(crate) struct Followed<R> {
    inner: R,
    part: Option<Arc<LayerProgress>>,
    ended: Arc<AtomicBool>,
}

impl<R> Followed<R> {
    fn check(&self) -> io::Result<()> {
        match self.ended.load(Ordering::Relaxed) {
            true => Err(io::Error::other("whoever asked has gone")),
            false => Ok(()),
        }
    }

    fn count(&self, bytes: usize) {
        if let Some(part) = &self.part {
            part.add(bytes as u64);
        }
    }
}

impl<R: Read> Read for Followed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let got = self.inner.read(buffer)?;
        self.count(got);
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Followed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.count(length);
        self.inner.consume(length);
    }
}
