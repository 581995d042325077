use std::sync::Arc;

use berth_model::ContainerState;

use super::{log_file, must_be};
use crate::PodsError;
use crate::state::State;

/// After the kubelet renamed the log away: a new file under the old name.
pub(crate) async fn reopen_log(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let container = state.container(id)?;
    must_be(&container, ContainerState::Running)?;
    let directory = container.sandbox.read(|r| r.config.log_directory.clone());
    let Some(log) = container.read(|r| log_file(&directory, &r.config.log_path)) else { return Ok(()) };
    let pod = container.sandbox.ready()?;
    let reopened = pod.reopen_log(&container.id, &log).await;
    reopened.map_err(PodsError::port(format!("reopen {}", log.directory.join(&log.name).display())))
}
