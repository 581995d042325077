use std::sync::Arc;

use berth_model::{ContainerStatus, SandboxFilter, SandboxState, SandboxStatus};

use crate::record::Phase;
use crate::state::{Sandbox, State};
use crate::{PodsError, container};

pub(crate) fn status(
    state: &State,
    id: &str,
    verbose: bool,
) -> Result<(SandboxStatus, Vec<ContainerStatus>), PodsError> {
    let sandbox = state.sandbox(id)?;
    let containers = state.containers_of(&sandbox.id).iter().map(|c| container::describe(c, false)).collect();
    Ok((describe(&sandbox, verbose), containers))
}

pub(crate) fn list(state: &State, filter: &SandboxFilter) -> Vec<SandboxStatus> {
    let by_id: Vec<Arc<Sandbox>> = match filter.id.as_str() {
        "" => state.sandboxes(),
        // Unknown and ambiguous ids match nothing (features: "an empty list, not an error").
        id => state.find_sandbox(id).ok().flatten().into_iter().collect(),
    };
    let wanted = |s: &SandboxStatus| {
        filter.state.is_none_or(|state| s.state == state)
            && filter.labels.iter().all(|(key, value)| s.labels.get(key) == Some(value))
    };
    by_id.iter().map(|s| describe(s, false)).filter(wanted).collect()
}

fn describe(sandbox: &Sandbox, verbose: bool) -> SandboxStatus {
    let pid = sandbox.pod().map_or(0, |pod| pod.pid());
    sandbox.read(|r| {
        let ready = r.phase == Phase::Ready;
        SandboxStatus {
            id: r.id.clone(),
            metadata: r.config.metadata.clone(),
            state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: r.created_at,
            ips: r.attachment.as_ref().filter(|_| ready).map(|a| a.ips.clone()).unwrap_or_default(),
            namespaces: r.config.security.namespaces.clone(),
            labels: r.config.labels.clone(),
            annotations: r.config.annotations.clone(),
            runtime_handler: r.config.runtime_handler.clone(),
            verbose: verbose.then(|| {
                serde_json::json!({
                    "pid": pid,
                    "netns": format!("/proc/{pid}/ns/net"),
                    "netNSClosed": !ready,
                    "phase": r.phase,
                    "cgroupParent": r.cgroup_parent,
                    "config": r.config,
                    "network": r.attachment.as_ref().map(|a| &a.record),
                })
                .to_string()
            }),
        }
    })
}
