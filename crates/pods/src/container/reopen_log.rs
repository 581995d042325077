use std::path::Path;
use std::sync::Arc;

use berth_model::ContainerState;

use super::must_be;
use crate::PodsError;
use crate::state::State;

/// After the kubelet renamed the log away: a new file under the old name.
pub(crate) async fn reopen_log(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let container = state.container(id)?;
    must_be(&container, ContainerState::Running)?;
    let path = container.read(|r| r.log_path.clone());
    if path.is_empty() {
        return Ok(());
    }
    let pod = container.sandbox.ready()?;
    let reopened = pod.reopen_log(&container.id, Path::new(&path)).await;
    reopened.map_err(PodsError::port(format!("reopen {path}")))
}
