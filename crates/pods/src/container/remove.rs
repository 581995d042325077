use std::sync::Arc;
use std::time::Duration;

use berth_model::LifeEventKind;

use super::end_now;
use crate::PodsError;
use crate::state::{Container, State};

/// Removes a container, killing it first if need be. A missing one is no error.
pub(crate) async fn remove(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let Some(container) = state.find_container(id)? else { return Ok(()) };
    let key = (container.id.clone(), "remove");
    let work = state.clone();
    state.container_ops.join(key, move || async move { remove_cell(&work, &container).await }).await
}

/// The removal itself. Every step copes with being done already, so that it can be repeated and taken up by a restart.
pub(crate) async fn remove_cell(state: &Arc<State>, container: &Arc<Container>) -> Result<(), PodsError> {
    let _turn = container.turn.lock().await;
    let record = container.update(|r| r.removing = true);
    state.save_container(&record).await?;
    end_now(state, container, Duration::ZERO).await?;
    let id = &container.id;
    let forgotten = match container.sandbox.pod() {
        Some(pod) => pod.forget(id, &record.cgroup_path).await,
        None => state.ports.launcher.clear_cgroup(&record.cgroup_path).await,
    };
    forgotten.map_err(PodsError::port(format!("clear what is left of container {id}")))?;
    let released = state.ports.images.release(id).await;
    released.map_err(PodsError::port(format!("remove the writable layer of container {id}")))?;
    let deleted = state.ports.store.delete_container(id).await;
    deleted.map_err(PodsError::port(format!("forget container {id}")))?;
    state.drop_container(id);
    state.tell(LifeEventKind::Deleted, &container.sandbox, id.as_str());
    tracing::info!(container = %id.short(), "container removed");
    Ok(())
}
