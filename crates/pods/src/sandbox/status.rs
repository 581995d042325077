use std::sync::Arc;

use berth_model::{ContainerStatus, NamespaceMode, SandboxFilter, SandboxState, SandboxStatus};

use crate::record::{Phase, SandboxRecord};
use crate::state::{Sandbox, State};
use crate::{PodsError, container};

pub(crate) fn status(
    state: &State,
    id: &str,
    verbose: bool,
) -> Result<(SandboxStatus, Vec<ContainerStatus>), PodsError> {
    let sandbox = state.sandbox(id)?;
    let containers = state.containers_of(&sandbox.id).iter().map(|c| container::describe(c)).collect();
    Ok((describe(&sandbox, verbose), containers))
}

pub(crate) fn list(state: &State, filter: &SandboxFilter) -> Vec<SandboxStatus> {
    matching(state, filter).iter().map(|s| describe(s, false)).collect()
}

/// The sandboxes a filter lets through.
pub(crate) fn matching(state: &State, filter: &SandboxFilter) -> Vec<Arc<Sandbox>> {
    let mut by_id: Vec<Arc<Sandbox>> = match filter.id.as_str() {
        "" => state.sandboxes(),
        // Unknown and ambiguous ids match nothing (features: "an empty list, not an error").
        id => state.find_sandbox(id).ok().flatten().into_iter().collect(),
    };
    by_id.retain(|sandbox| {
        sandbox.read(|r| {
            filter.state.is_none_or(|state| state_of(r.phase) == state)
                && filter.labels.iter().all(|(key, value)| r.config.labels.get(key) == Some(value))
        })
    });
    by_id
}

fn state_of(phase: Phase) -> SandboxState {
    if phase == Phase::Ready { SandboxState::Ready } else { SandboxState::NotReady }
}

pub(crate) fn describe(sandbox: &Sandbox, verbose: bool) -> SandboxStatus {
    let pid = sandbox.pod().map_or(0, |pod| pod.pid());
    sandbox.read(|r| {
        let ready = r.phase == Phase::Ready;
        SandboxStatus {
            id: r.id.clone(),
            metadata: r.config.metadata.clone(),
            state: state_of(r.phase),
            created_at: r.created_at,
            ips: r.attachment.as_ref().filter(|_| ready).map(|a| a.ips.clone()).unwrap_or_default(),
            namespaces: r.config.security.namespaces.clone(),
            labels: r.config.labels.clone(),
            annotations: r.config.annotations.clone(),
            runtime_handler: r.config.runtime_handler.clone(),
            verbose: verbose.then(|| {
                serde_json::json!({
                    "pid": pid,
                    "netns": netns(r, pid),
                    "netNSClosed": !ready,
                    "phase": r.phase,
                    "cgroupParent": r.cgroup_parent,
                    "config": r.config,
                    "resources": r.resources,
                    "overhead": r.overhead,
                    "network": r.attachment.as_ref().map(|a| &a.record),
                    "runtimeSpec": spec(r, pid),
                })
                .to_string()
            }),
        }
    })
}

/// A path of its network namespace: where it is bound, else by its supervisor, while it has one.
pub(super) fn netns(record: &SandboxRecord, pid: u32) -> String {
    let bound = record.attachment.as_ref().and_then(|attachment| attachment.netns.clone());
    bound.or_else(|| namespace(pid, "net")).unwrap_or_default()
}

/// By a process that is in it. `None`: it has ended, and 0 is nobody's number.
fn namespace(pid: u32, name: &str) -> Option<String> {
    (pid != 0).then(|| format!("/proc/{pid}/ns/{name}"))
}

/// The sandbox in the form of the OCI runtime spec, as far as it has one: people's scripts read the paths of its
/// namespaces there.
fn spec(record: &SandboxRecord, pid: u32) -> serde_json::Value {
    let options = &record.config.security.namespaces;
    let own = |kind, name, yes| match (yes, namespace(pid, name)) {
        (true, Some(path)) => Some(serde_json::json!({ "type": kind, "path": path })),
        (true, None) => Some(serde_json::json!({ "type": kind })),
        (false, _) => None,
    };
    let namespaces = [
        own("network", "net", options.network != NamespaceMode::Node),
        own("ipc", "ipc", options.ipc != NamespaceMode::Node),
        // Host network means the host's name as well.
        own("uts", "uts", options.network != NamespaceMode::Node),
    ];
    serde_json::json!({
        "ociVersion": "1.2.0",
        "hostname": record.config.hostname,
        "annotations": record.config.annotations,
        "linux": {
            "namespaces": namespaces.into_iter().flatten().collect::<Vec<_>>(),
            "cgroupsPath": record.cgroup_parent,
            "sysctl": record.config.sysctls,
        },
    })
}
