//! A container's verbs, one file each.

mod attach;
mod create;
mod exec;
mod remove;
mod reopen_log;
mod start;
mod status;
mod stop;
mod update;

pub(crate) use attach::attach;
pub(crate) use create::create;
pub(crate) use exec::{exec, exec_sync};
pub(crate) use remove::{remove, remove_cell};
pub(crate) use reopen_log::reopen_log;
pub(crate) use start::start;
pub(crate) use status::{describe, list, matching, status};
pub(crate) use stop::{end_now, stop};
pub(crate) use update::update;

use berth_ids::ContainerId;
use berth_model::{ContainerState, NamespaceMode, NamespaceOptions, Signal};
use berth_plan::LogFile;

use crate::PodsError;
use crate::state::{Container, Sandbox, State};

/// The word for a state in messages.
fn word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "unknown",
    }
}

/// Sends a signal to the container's first process.
pub(crate) async fn signal(state: &State, id: &str, signal: Signal) -> Result<(), PodsError> {
    let container = state.container(id)?;
    must_be(&container, ContainerState::Running)?;
    let sent = container.sandbox.ready()?.signal(&container.id, signal).await;
    sent.map_err(PodsError::port(format!("signal container {}", container.id)))
}

/// The full id of a container that runs.
pub(crate) fn running(state: &State, id: &str) -> Result<ContainerId, PodsError> {
    let container = state.container(id)?;
    must_be(&container, ContainerState::Running)?;
    container.sandbox.ready()?;
    Ok(container.id.clone())
}

/// Both parts may be empty: then there is no log (CRI comments on `log_directory` and `log_path`).
fn log_file(directory: &str, name: &str) -> Option<LogFile> {
    let is_given = !directory.is_empty() && !name.is_empty();
    is_given.then(|| LogFile { directory: directory.into(), name: name.into() })
}

fn must_be(container: &Container, wanted: ContainerState) -> Result<(), PodsError> {
    match container.state() {
        state if state == wanted => Ok(()),
        state => Err(PodsError::WrongState {
            id: container.id.to_string(),
            state: word(state),
            wanted: word(wanted),
        }),
    }
}

/// The running container of the same pod whose pid namespace is to be joined, when that is asked for.
fn target(
    state: &State,
    sandbox: &Sandbox,
    namespaces: &NamespaceOptions,
) -> Result<Option<ContainerId>, PodsError> {
    if namespaces.pid != NamespaceMode::Target {
        return Ok(None);
    }
    let target = state.container(&namespaces.target_id)?;
    if target.sandbox.id != sandbox.id {
        let id = namespaces.target_id.clone();
        return Err(PodsError::NotFound { kind: "target container in this pod", id });
    }
    must_be(&target, ContainerState::Running)?;
    Ok(Some(target.id.clone()))
}
