use std::sync::Arc;

use tokio::sync::watch;

use super::inlet::Inlet;
use super::pump::pump;
use super::{Ended, Outlet, watched};
use crate::{Backend, Failure};

/// One forwarded connection: a channel for its bytes, one for what went wrong.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) data: u32,
    pub(super) error: u32,
    pub(super) port: u16,
    pub(super) inlet: Arc<Inlet>,
    /// Set once: the pair ends, with a word for the error channel if there is one.
    pub(super) cut: Arc<watch::Sender<Option<String>>>,
}

impl Pair {
    pub(super) fn new(data: u32, error: u32, port: u16, inlet: Arc<Inlet>) -> Self {
        Self { data, error, port, inlet, cut: Arc::new(watch::Sender::new(None)) }
    }

    /// Ends it from outside; without a reason nothing is said.
    pub(super) fn cut(&self, reason: &str) {
        self.cut.send_if_modified(|cut| {
            let first = cut.is_none();
            cut.get_or_insert_with(|| reason.to_owned());
            first
        });
        self.inlet.close();
    }

    /// Connects and moves bytes both ways until both are done. What goes wrong concerns this pair alone.
    pub(super) async fn run(
        self,
        outlet: Arc<Outlet>,
        backend: Arc<dyn Backend>,
        sandbox: String,
    ) -> Result<Self, Ended> {
        let mut cuts = self.cut.subscribe();
        let problem = tokio::select! {
            moved = self.carry(&outlet, &*backend, &sandbox) => match moved {
                Ok(()) => String::new(),
                Err(Broken::Failed(failure)) => {
                    tracing::info!(class = ?failure.class, error = failure.message, port = self.port, "a connection failed");
                    failure.message
                }
                Err(Broken::Ended(ended)) => return Err(ended),
            },
            cut = cuts.wait_for(Option::is_some) => {
                cut.ok().and_then(|reason| reason.clone()).unwrap_or_default()
            }
        };
        self.inlet.close();
        if !problem.is_empty() {
            outlet.text(self.error, problem.as_bytes(), true).await?;
            outlet.end(self.data).await?;
        } else {
            outlet.end(self.error).await?;
        }
        Ok(self)
    }

    async fn carry(&self, outlet: &Outlet, backend: &dyn Backend, sandbox: &str) -> Result<(), Broken> {
        let connected = backend.connect(sandbox, self.port).await.map_err(Broken::Failed)?;
        let socket = Arc::new(watched(connected).map_err(Broken::Failed)?);
        self.inlet.open(socket.clone());
        let (_never, over) = watch::channel(false);
        let outgoing = async {
            pump(outlet, self.data, &socket, over).await?;
            outlet.end(self.data).await
        };
        let incoming = async {
            self.inlet.run().await;
            Ok(())
        };
        tokio::try_join!(outgoing, incoming).map_err(Broken::Ended)?;
        Ok(())
    }
}

enum Broken {
    Failed(Failure),
    Ended(Ended),
}
