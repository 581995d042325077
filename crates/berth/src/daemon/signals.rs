use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the daemon. SIGHUP is taken and does nothing: nothing is kept open that could be reopened,
/// and a closed terminal must not end a node's runtime.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    pub(super) fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next signal that asks for the end.
    pub(super) async fn ending(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::info!("SIGHUP: there is nothing to reopen"),
            }
        }
    }
}
