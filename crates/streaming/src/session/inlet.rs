use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::pipe::{Pipe, WORTH, enlarge, spliceable};

/// Bytes that wait for a slow descriptor before its sender is no longer read.
const BACKLOG_MAX: usize = 256 * 1024;

/// Where a client's bytes go. They are written at once where the descriptor takes them; what it does not take waits here,
/// bounded, for [`Inlet::run`].
#[derive(Default)]
pub(super) struct Inlet {
    state: Mutex<State>,
    /// There is something for `run`.
    work: Notify,
    /// The backlog became smaller.
    room: Notify,
}

#[derive(Default)]
struct State {
    /// None before it is there, and after it was closed.
    to: Option<Arc<AsyncFd<OwnedFd>>>,
    /// The descriptor takes pages as they are.
    spliceable: bool,
    /// Much came at once.
    enlarged: bool,
    backlog: Vec<u8>,
    /// Of the backlog, written already.
    written: usize,
    /// Nothing follows.
    finished: bool,
    /// Nobody takes the bytes any more: they are dropped.
    closed: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.backlog.len() - self.written
    }

    /// Much at once is seldom alone.
    fn expect(&mut self, length: usize) {
        if length >= WORTH
            && !self.enlarged
            && let Some(to) = &self.to
        {
            enlarge(to.get_ref());
            self.enlarged = true;
        }
    }

    fn close(&mut self) {
        (self.to, self.backlog, self.written, self.closed) = (None, Vec::new(), 0, true);
    }
}

impl Inlet {
    /// The descriptor bytes go to from now on.
    pub(super) fn open(&self, to: Arc<AsyncFd<OwnedFd>>) {
        let spliceable = spliceable(to.get_ref());
        let mut state = self.state.lock();
        if !state.closed {
            (state.to, state.spliceable) = (Some(to), spliceable);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Takes the bytes, all of them.
    pub(super) fn offer(&self, mut bytes: &[u8]) {
        let mut state = self.state.lock();
        if state.closed || state.finished {
            return;
        }
        state.expect(bytes.len());
        if let (0, Some(to)) = (state.waiting(), &state.to) {
            // It does not block: the descriptor does not.
            match nix::unistd::write(to.get_ref(), bytes) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => {
                    tracing::debug!(%error, "nobody reads this stream");
                    state.close();
                    drop(state);
                    self.work.notify_one();
                    return;
                }
            }
        }
        if !bytes.is_empty() {
            state.backlog.extend(bytes);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Takes the bytes of a pipe, all of them.
    pub(super) fn offer_piped(&self, mut pipe: Pipe) {
        let mut state = self.state.lock();
        if state.closed || state.finished {
            return;
        }
        state.expect(pipe.held());
        while let (1.., 0, true, Some(to)) = (pipe.held(), state.waiting(), state.spliceable, &state.to) {
            match pipe.pour(to.get_ref()) {
                Ok(1..) => {}
                // Some kinds cannot be spliced after all; whatever is wrong, writing tells it.
                Ok(0) | Err(_) => break,
            }
        }
        if pipe.held() > 0 {
            // A pipe that is short of bytes was emptied by nobody: nobody else has it.
            if let Err(error) = pipe.copy(&mut state.backlog) {
                tracing::error!(%error, "bytes of a stream are lost");
                state.close();
            }
            drop(state);
            self.work.notify_one();
        }
    }

    /// Waits until more may be offered.
    pub(super) async fn room(&self) {
        loop {
            let changed = self.room.notified();
            if !self.full() {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn full(&self) -> bool {
        self.waiting() > BACKLOG_MAX
    }

    /// Bytes that are not written yet.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting()
    }

    /// Nothing follows: the descriptor is closed, a socket's writing half, once the rest is written.
    pub(super) fn finish(&self) {
        self.state.lock().finished = true;
        self.work.notify_one();
    }

    /// What waits is dropped, and what comes.
    pub(super) fn close(&self) {
        self.state.lock().close();
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Writes what waits, up to the end.
    pub(super) async fn run(&self) {
        loop {
            let work = self.work.notified();
            let (to, waiting, finished) = {
                let state = self.state.lock();
                if state.closed {
                    break;
                }
                (state.to.clone(), state.waiting(), state.finished)
            };
            let Some(to) = to else {
                work.await;
                continue;
            };
            if waiting > 0 {
                let Ok(mut ready) = to.writable().await else { break };
                if self.write(&to) {
                    ready.clear_ready();
                }
            } else if finished {
                half_close(&to);
                break;
            } else {
                work.await;
            }
        }
        self.close();
    }

    /// Writes once; whether the descriptor is full.
    fn write(&self, to: &AsyncFd<OwnedFd>) -> bool {
        let mut state = self.state.lock();
        let bytes = state.backlog.get(state.written..).unwrap_or_default();
        let done = nix::unistd::write(to.get_ref(), bytes);
        match done {
            Ok(length) => {
                state.written += length;
                if state.waiting() == 0 {
                    // A backlog is the exception: its memory is not kept for the next.
                    (state.backlog, state.written) = (Vec::new(), 0);
                } else if state.written > BACKLOG_MAX {
                    let written = std::mem::take(&mut state.written);
                    state.backlog.drain(..written);
                }
            }
            Err(Errno::EAGAIN) => return true,
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::debug!(%error, "nobody reads this stream");
                state.close();
            }
        }
        drop(state);
        self.room.notify_waiters();
        false
    }
}

/// Pipes and terminals end when their last descriptor goes; a socket is told.
fn half_close(to: &AsyncFd<OwnedFd>) {
    match shutdown(to.get_ref().as_raw_fd(), Shutdown::Write) {
        Ok(()) | Err(Errno::ENOTSOCK | Errno::ENOTCONN) => {}
        Err(error) => tracing::debug!(%error, "half-close a connection"),
    }
}
