use std::sync::Arc;

use berth_model::Resources;

use crate::PodsError;
use crate::state::State;

/// The kubelet says what it did to the pod's cgroup, which is its own; it is recorded for people and for later.
pub(crate) async fn update(
    state: &Arc<State>,
    id: &str,
    overhead: Option<Resources>,
    resources: Option<Resources>,
) -> Result<(), PodsError> {
    let sandbox = state.sandbox(id)?;
    let _turn = sandbox.turn.lock().await;
    sandbox.ready()?;
    let record = sandbox.update(|r| {
        r.overhead = overhead.or(r.overhead.take());
        r.resources = resources.or(r.resources.take());
    });
    state.save_sandbox(&record).await
}
