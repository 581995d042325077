use std::sync::Arc;
use std::time::Duration;

use berth_model::{ContainerState, ExecOutput};
use berth_shim_wire::ExecPlan;

use super::must_be;
use crate::PodsError;
use crate::ports::{Connected, ExecError, Pod, Streams};
use crate::state::{Container, State};

/// Runs a command in the container to its end and gives its output back.
pub(crate) async fn exec_sync(
    state: &Arc<State>,
    id: &str,
    command: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, PodsError> {
    let container = state.container(id)?;
    let (pod, plan) = prepare(state, &container, &command, false).await?;
    let cgroup_path = container.read(|r| r.cgroup_path.clone());
    match pod.exec(plan, &cgroup_path, timeout).await {
        Ok(output) => Ok(output),
        Err(ExecError::TimedOut(timeout)) => {
            Err(PodsError::ExecTimeout { id: container.id.to_string(), command: command.join(" "), timeout })
        }
        // As a shell has it (POSIX, "Exit Status for Commands"): a probe whose command is not there has failed, while an
        // error of the call would be thrown away by the kubelet as no result at all.
        Err(ExecError::Command { missing, message }) => Ok(ExecOutput {
            stdout: Vec::new(),
            stderr: format!("{message}\n").into_bytes(),
            exit_code: if missing { 127 } else { 126 },
        }),
        Err(ExecError::Failed(source)) => Err(PodsError::port(doing(&container, &command))(source)),
    }
}

/// Runs a command in the container with somebody at its streams.
pub(crate) async fn exec(
    state: &Arc<State>,
    id: &str,
    command: Vec<String>,
    streams: Streams,
) -> Result<Connected, PodsError> {
    let container = state.container(id)?;
    let (pod, plan) = prepare(state, &container, &command, streams.tty).await?;
    let cgroup_path = container.read(|r| r.cgroup_path.clone());
    let connected = pod.exec_connected(plan, &cgroup_path, streams).await;
    connected.map_err(PodsError::port(doing(&container, &command)))
}

fn doing(container: &Container, command: &[String]) -> String {
    let name = command.first().map_or("", String::as_str);
    format!("run {name:?} in container {}", container.id)
}

async fn prepare(
    state: &Arc<State>,
    container: &Container,
    command: &[String],
    tty: bool,
) -> Result<(Arc<dyn Pod>, ExecPlan), PodsError> {
    if command.is_empty() {
        return Err(PodsError::Empty { field: "cmd" });
    }
    must_be(container, ContainerState::Running)?;
    let pod = container.sandbox.ready()?;
    let (spec, security) = container.read(|r| (r.spec.clone(), r.config.security.clone()));
    let spec =
        spec.ok_or_else(|| PodsError::Lost { object: format!("the spec of container {}", container.id) })?;
    let choice = berth_plan::seccomp_choice(&security)?;
    let caps = berth_plan::bounding_caps(&security, state.ports.launcher.facts())?;
    let seccomp = state.ports.launcher.seccomp(&choice, caps).await;
    let seccomp = seccomp.map_err(PodsError::port("prepare the seccomp filter"))?;
    let facts = state.ports.launcher.facts();
    let plan = berth_plan::exec_plan(&container.id, &spec, &security, command, tty, seccomp, facts)?;
    Ok((pod, plan))
}
