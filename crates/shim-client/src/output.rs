//! The output of an exec: read as it comes, kept up to a bound, thrown away beyond it.

use std::io;
use std::os::fd::OwnedFd;

use berth_sys::fd as sysfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// What is kept of each stream (CRI: the runtime must cap ExecSync output at 16 MiB; CVE-2022-1708).
pub(crate) const KEPT: usize = 16 * 1024 * 1024;

/// The reading end of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pipe: AsyncFd<OwnedFd>,
}

impl Stream {
    /// Takes the reading end of a pipe, in non-blocking mode.
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for")]
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        AsyncFd::with_interest(pipe, Interest::READABLE).map(|pipe| Self { pipe })
    }

    /// Reads until every writer is gone, or until the leader has exited and the pipe is empty: a child that keeps the
    /// stream open keeps nobody waiting.
    pub(crate) async fn collect(self, mut exited: watch::Receiver<bool>) -> io::Result<Vec<u8>> {
        let mut kept = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // Looked at before the read: what the leader wrote is in the pipe by then.
            let over = *exited.borrow_and_update();
            match sysfd::read(self.pipe.get_ref(), &mut buffer) {
                Ok(0) => return Ok(kept),
                Ok(length) => {
                    let room = KEPT - kept.len();
                    kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => return Ok(kept),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::select! {
                        ready = self.pipe.readable() => ready?.clear_ready(),
                        changed = exited.changed() => {
                            // No sender: the exec is over in any case.
                            if changed.is_err() {
                                return Ok(kept);
                            }
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
