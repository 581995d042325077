use std::sync::Arc;

use berth_model::LifeEventKind;

use super::release;
use crate::record::Phase;
use crate::state::{Sandbox, State};
use crate::{PodsError, container};

/// Removes the sandbox and everything of it. A missing one is no error.
pub(crate) async fn remove(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let Some(sandbox) = state.find_sandbox(id)? else { return Ok(()) };
    let work = state.clone();
    let key = (sandbox.id.clone(), "remove");
    state
        .sandbox_ends
        .join(key, move || async move {
            let _turn = sandbox.turn.lock().await;
            finish_removal(&work, &sandbox).await
        })
        .await
}

/// The removal itself; a restart calls it for sandboxes it finds in [`Phase::Removing`].
pub(crate) async fn finish_removal(state: &Arc<State>, sandbox: &Arc<Sandbox>) -> Result<(), PodsError> {
    release(state, sandbox, Phase::Removing).await?;
    for container in state.containers_of(&sandbox.id) {
        container::remove_cell(state, &container).await?;
    }
    let parent = sandbox.read(|r| match r.config.cgroup_parent.is_empty() {
        // Ours, so ours to remove.
        true => vec![r.cgroup_parent.clone()],
        false => Vec::new(),
    });
    let destroyed = state.ports.launcher.destroy(&sandbox.id, parent).await;
    destroyed.map_err(PodsError::port(format!("remove sandbox {}", sandbox.id)))?;
    let logs = sandbox.read(|r| r.config.log_directory.clone());
    let removed = state.ports.launcher.remove_logs(&logs).await;
    removed.map_err(PodsError::port(format!("remove the logs of sandbox {}", sandbox.id)))?;
    let deleted = state.ports.store.delete_sandbox(&sandbox.id).await;
    deleted.map_err(PodsError::port(format!("forget sandbox {}", sandbox.id)))?;
    state.drop_sandbox(&sandbox.id);
    state.tell(LifeEventKind::Deleted, sandbox, sandbox.id.as_str());
    tracing::info!(sandbox = %sandbox.id.short(), "sandbox removed");
    Ok(())
}
