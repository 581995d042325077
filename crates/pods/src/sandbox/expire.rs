use std::sync::Arc;

use berth_model::ContainerState;

use super::remove;
use crate::state::{Sandbox, State};

/// Removes a sandbox that was to go with its containers, if all have ended. Called after every end and every start of the
/// daemon.
pub(crate) async fn expire(state: &Arc<State>, sandbox: &Sandbox) {
    let Some(after) = sandbox.read(|r| berth_plan::removed_after(&r.config)) else { return };
    let over = || {
        let ended = |state| matches!(state, ContainerState::Exited | ContainerState::Unknown);
        state.containers_of(&sandbox.id).iter().all(|container| ended(container.state()))
    };
    if !over() {
        return;
    }
    tokio::time::sleep(after).await;
    if !over() {
        return;
    }
    if let Err(error) = remove(state, sandbox.id.as_str()).await {
        tracing::warn!(
            sandbox = %sandbox.id,
            error = &error as &dyn std::error::Error,
            "it was to go with its containers, and stays"
        );
    }
}
