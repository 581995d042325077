use std::sync::Arc;
use std::time::Duration;

use berth_model::{ContainerState, ExecOutput};

use super::must_be;
use crate::PodsError;
use crate::ports::ExecError;
use crate::state::State;

/// Runs a command in the container to its end and gives its output back.
pub(crate) async fn exec_sync(
    state: &Arc<State>,
    id: &str,
    command: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, PodsError> {
    let container = state.container(id)?;
    if command.is_empty() {
        return Err(PodsError::Empty { field: "cmd" });
    }
    must_be(&container, ContainerState::Running)?;
    let pod = container.sandbox.ready()?;
    let (spec, cgroup_path, security) =
        container.read(|r| (r.spec.clone(), r.cgroup_path.clone(), r.config.security.clone()));
    let spec =
        spec.ok_or_else(|| PodsError::Lost { object: format!("the spec of container {}", container.id) })?;
    let choice = berth_plan::seccomp_choice(&security)?;
    let caps = berth_plan::bounding_caps(&security, state.ports.launcher.facts())?;
    let seccomp = state.ports.launcher.seccomp(&choice, caps).await;
    let seccomp = seccomp.map_err(PodsError::port("prepare the seccomp filter"))?;
    let facts = state.ports.launcher.facts();
    let plan = berth_plan::exec_plan(&container.id, &spec, &security, &command, false, seccomp, facts)?;
    pod.exec(plan, &cgroup_path, timeout).await.map_err(|error| match error {
        ExecError::TimedOut(timeout) => {
            PodsError::ExecTimeout { id: container.id.to_string(), command: command.join(" "), timeout }
        }
        ExecError::Failed(source) => {
            PodsError::Port { doing: format!("run {:?} in container {}", command[0], container.id), source }
        }
    })
}
