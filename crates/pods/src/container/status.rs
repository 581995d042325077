use std::sync::Arc;

use berth_model::{ContainerFilter, ContainerState, ContainerStatus, ContainerUser};

use crate::PodsError;
use crate::record::ContainerRecord;
use crate::state::{Container, State};
use crate::stats::ACCOUNT_PATIENCE;

pub(crate) async fn status(state: &State, id: &str, verbose: bool) -> Result<ContainerStatus, PodsError> {
    let container = state.container(id)?;
    let mut status = describe(&container);
    if verbose {
        let dropped = log_dropped(&container).await;
        status.verbose = Some(container.read(|r| info(r, dropped)));
    }
    Ok(status)
}

/// Bytes of log that its shim could not write; `None` when there is nobody to ask.
async fn log_dropped(container: &Container) -> Option<u64> {
    let pod = container.sandbox.pod()?;
    match tokio::time::timeout(ACCOUNT_PATIENCE, pod.snapshot()).await {
        Err(_) => None,
        Ok(Ok(seen)) => {
            seen.into_iter().find(|seen| seen.container == container.id).map(|seen| seen.log_dropped)
        }
        Ok(Err(error)) => {
            tracing::debug!(container = %container.id, error = &error as &dyn std::error::Error, "no account of its log");
            None
        }
    }
}

pub(crate) fn list(state: &State, filter: &ContainerFilter) -> Vec<ContainerStatus> {
    matching(state, filter).iter().map(|c| describe(c)).collect()
}

/// The containers a filter lets through.
pub(crate) fn matching(state: &State, filter: &ContainerFilter) -> Vec<Arc<Container>> {
    let mut by_id: Vec<Arc<Container>> = match filter.id.as_str() {
        "" => state.containers(),
        // Unknown and ambiguous ids match nothing.
        id => state.find_container(id).ok().flatten().into_iter().collect(),
    };
    let sandbox = match filter.sandbox_id.as_str() {
        "" => None,
        id => match state.find_sandbox(id) {
            Ok(Some(sandbox)) => Some(sandbox.id.clone()),
            _ => return Vec::new(),
        },
    };
    by_id.retain(|container| {
        container.read(|r| {
            filter.state.is_none_or(|state| r.run.state == state)
                && sandbox.as_ref().is_none_or(|id| r.sandbox_id == *id)
                && filter.labels.iter().all(|(key, value)| r.config.labels.get(key) == Some(value))
        })
    });
    by_id
}

pub(crate) fn describe(container: &Container) -> ContainerStatus {
    container.read(|r| ContainerStatus {
        id: r.id.clone(),
        sandbox_id: r.sandbox_id.clone(),
        metadata: r.config.metadata.clone(),
        state: r.run.state,
        created_at: r.created_at,
        // CRI hides both while the container is only created.
        started_at: if r.run.state == ContainerState::Created { 0 } else { r.run.started_at },
        finished_at: if r.run.state == ContainerState::Exited { r.run.finished_at } else { 0 },
        exit_code: r.run.exit_code,
        image: r.config.image.clone(),
        image_id: r.image_id.clone(),
        image_ref: r.image_ref.clone(),
        reason: r.run.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        message: r.run.message.clone(),
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        mounts: r.config.mounts.clone(),
        log_path: r.log_path.clone(),
        resources: r.config.resources.clone(),
        user: Some(ContainerUser { uid: r.user.uid, gid: r.user.gid, groups: r.user.groups.clone() }),
        stop_signal: r.stop_signal,
        verbose: None,
    })
}

fn info(record: &ContainerRecord, log_dropped: Option<u64>) -> String {
    serde_json::json!({
        "sandboxID": record.sandbox_id,
        "pid": record.run.pid,
        "removing": record.removing,
        "cgroup": record.cgroup_path,
        "warnings": record.warnings,
        "logDroppedBytes": log_dropped,
        "config": record.config,
        "runtimeSpec": record.spec,
    })
    .to_string()
}
