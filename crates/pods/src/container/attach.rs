use std::sync::Arc;

use async_trait::async_trait;
use berth_model::ContainerState;
use berth_shim_wire::ExitStatus;

use super::must_be;
use crate::PodsError;
use crate::ports::{Connected, Handle, Manner, PortError, Streams};
use crate::state::{Container, State};

/// The streams of a running container. Its own terminal decides, not the client's word.
pub(crate) async fn attach(
    state: &Arc<State>,
    id: &str,
    mut streams: Streams,
) -> Result<Connected, PodsError> {
    let container = state.container(id)?;
    must_be(&container, ContainerState::Running)?;
    let pod = container.sandbox.ready()?;
    let (tty, manner) = container.read(|r| {
        let waits = berth_plan::waits_for_readers(&r.config);
        (r.config.tty, Manner { stdin_once: r.config.stdin_once, waits })
    });
    streams.tty = tty;
    // A terminal has one stream for both.
    streams.stderr &= !tty;
    let attached = pod.attach(&container.id, streams, manner).await;
    let mut attached = attached.map_err(PodsError::port(format!("attach to container {}", container.id)))?;
    attached.handle = Arc::new(Attached { container, handle: attached.handle });
    Ok(attached)
}

/// Ends with the container.
struct Attached {
    container: Arc<Container>,
    handle: Arc<dyn Handle>,
}

#[async_trait]
impl Handle for Attached {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), PortError> {
        self.handle.resize(columns, rows)
    }

    async fn wait(&self) -> Result<Option<ExitStatus>, PortError> {
        // First the output's end: one who missed some is told so, also when the container has ended since.
        self.handle.wait().await?;
        self.container.wait_ended().await;
        Ok(Some(self.container.read(|r| ExitStatus {
            code: r.run.exit_code,
            signal: 0,
            oom_killed: false,
            finished_at: r.run.finished_at,
        })))
    }

    async fn hang_up(&self) {
        self.handle.hang_up().await;
    }
}
