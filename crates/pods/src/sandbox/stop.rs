use std::sync::Arc;
use std::time::Duration;

use berth_model::LifeEventKind;
use tokio::task::JoinSet;

use crate::record::Phase;
use crate::state::{Sandbox, State};
use crate::{PodsError, container};

/// Ends the pod: its containers first, all at once and at once, then its network and its namespaces.
pub(crate) async fn stop(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let Some(sandbox) = state.find_sandbox(id)? else { return Ok(()) };
    let work = state.clone();
    let key = (sandbox.id.clone(), "stop");
    state
        .sandbox_ends
        .join(key, move || async move {
            let _turn = sandbox.turn.lock().await;
            release(&work, &sandbox, Phase::NotReady).await
        })
        .await
}

/// Leaves nothing of the pod running. Every step copes with being done already; `phase` is recorded first, so that no
/// container starts any more and a restart goes on from here.
pub(crate) async fn release(
    state: &Arc<State>,
    sandbox: &Arc<Sandbox>,
    phase: Phase,
) -> Result<(), PodsError> {
    let record = sandbox.update(|r| r.phase = phase);
    state.save_sandbox(&record).await?;
    end_containers(state, sandbox).await?;
    let pod = sandbox.pod();
    // Held until it is disconnected: the namespace does not end before.
    let netns = pod.as_ref().map(|pod| pod.netns());
    let disconnect = async {
        let detached = state.ports.network.detach(&sandbox.id, netns, record.attachment.as_ref()).await;
        detached.map_err(PodsError::port(format!("disconnect sandbox {}", sandbox.id)))?;
        match record.attachment {
            Some(_) => state.save_sandbox(&sandbox.update(|r| r.attachment = None)).await,
            None => Ok(()),
        }
    };
    let end = async {
        match &pod {
            Some(pod) => pod.shutdown().await,
            None => Ok(()),
        }
    };
    // Neither waits for the other.
    let (disconnected, ended) = tokio::join!(disconnect, end);
    ended.map_err(PodsError::port(format!("end the processes of sandbox {}", sandbox.id)))?;
    if pod.is_some() {
        sandbox.forget_pod();
        tracing::info!(sandbox = %sandbox.id.short(), "sandbox stopped");
        state.tell(LifeEventKind::Stopped, sandbox, sandbox.id.as_str());
    }
    disconnected
}

async fn end_containers(state: &Arc<State>, sandbox: &Arc<Sandbox>) -> Result<(), PodsError> {
    let mut ending = JoinSet::new();
    for container in state.containers_of(&sandbox.id) {
        let state = state.clone();
        ending.spawn(async move {
            // A start under way ends first; after it none begins, the sandbox is no longer ready.
            let _turn = container.turn.lock().await;
            container::end_now(&state, &container, Duration::ZERO).await
        });
    }
    let mut first = Ok(());
    while let Some(ended) = ending.join_next().await {
        let ended =
            ended.unwrap_or_else(|_| Err(PodsError::Lost { object: format!("sandbox {}", sandbox.id) }));
        first = first.and(ended);
    }
    first
}
