//! What happens on a connection once its protocol is agreed: [`remote`] for exec and attach, [`forward`] for port-forward.
//!
//! Bytes of the client come through a [`Source`], go to descriptors through [`Inlet`]s; bytes of descriptors go to the client
//! through the connection's one [`Outlet`]. Each holds a bounded number of bytes, so whoever stops reading stops the one
//! who sends to him.

mod catch;
mod forward;
mod inlet;
mod outlet;
mod pair;
mod pump;
mod remote;
mod source;
mod status;
mod tunnel;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_ids::ErrorClass;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

#[cfg(feature = "fuzz")]
pub(crate) use catch::{catch, worth};
pub(crate) use forward::{Destination, forward};
pub(crate) use outlet::Outlet;
pub(crate) use remote::remote;
#[cfg(feature = "fuzz")]
pub(crate) use remote::{KEPT_MAX as SIZE_KEPT_MAX, Sizes};
#[cfg(feature = "fuzz")]
pub(crate) use source::Said;
pub(crate) use source::Source;
pub(crate) use tunnel::tunnel;

use crate::Failure;
use crate::spdy;
use crate::transport::Socket;
use crate::websocket;

/// How long a client has to open the streams it asked for.
const OPENING: Duration = Duration::from_secs(30);
/// How long a client has to close the connection after the end was told.
const PARTING: Duration = Duration::from_secs(30);

/// What every session has besides its two ends.
pub(crate) struct Around {
    /// The connection below everything, to see a client go.
    pub(crate) socket: Socket,
    /// The daemon ends.
    pub(crate) stop: watch::Receiver<bool>,
    /// Counts what moves either way.
    pub(crate) activity: Arc<AtomicU64>,
    /// Ends a session in which nothing moves for so long.
    pub(crate) idle: Duration,
}

impl Around {
    async fn stopped(&self) {
        // An error means that the sender is gone, and with it the daemon.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Resolves after a whole idle time without a byte.
    async fn idled(&self) {
        loop {
            let before = self.activity.load(Ordering::Relaxed);
            tokio::time::sleep(self.idle).await;
            if self.activity.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// A non-blocking descriptor that can be waited for.
#[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for")]
fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Failure> {
    AsyncFd::new(fd)
        .map_err(|error| Failure::new(ErrorClass::Internal, format!("wait for a stream: {error}")))
}

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the client is gone")]
    Gone,
    #[error("read from the client")]
    Read(#[source] std::io::Error),
    #[error("write to the client")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Spdy(#[from] spdy::Error),
    #[error(transparent)]
    WebSocket(#[from] websocket::Error),
    #[error("the client did not open its streams within 30 s")]
    Opening,
    #[error("the client sent more than 64 KiB before its streams were open")]
    Early,
    #[error("the daemon ends")]
    Stopped,
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
}

impl Ended {
    /// The other side broke the protocol.
    fn protocol(&self) -> bool {
        matches!(self, Self::Spdy(_) | Self::WebSocket(_) | Self::Opening | Self::Early)
    }
}
