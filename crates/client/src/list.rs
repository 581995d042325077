use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_cri_api::v1::{Container, ContainerState, ListPodSandboxRequest};

use crate::ClientError;
use crate::find::{self, short};
use crate::node::Node;
use crate::output::{print, table};

pub(crate) async fn ps(node: &mut Node, all: bool, quiet: bool) -> Result<u8, ClientError> {
    let mut containers = find::all(node).await?;
    containers.retain(|container| all || find::runs(container));
    if quiet {
        print(&containers.iter().map(|c| format!("{}\n", c.id)).collect::<String>())?;
        return Ok(0);
    }
    let listed = node.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await;
    let pods = listed.map_err(ClientError::call("list pods"))?.into_inner().items;
    let pods: HashMap<String, String> =
        pods.into_iter().map(|pod| (pod.id, pod.metadata.unwrap_or_default().name)).collect();
    let mut rows = vec![["ID", "NAME", "IMAGE", "STATE", "AGE", "POD"].map(str::to_owned).to_vec()];
    for container in &containers {
        let pod = pods.get(&container.pod_sandbox_id).cloned().unwrap_or_default();
        let state = state(node, container).await;
        rows.push(vec![
            short(&container.id).to_owned(),
            find::name(container).to_owned(),
            image(container),
            state,
            age(now() - container.created_at),
            pod,
        ]);
    }
    print(&table(&rows))?;
    Ok(0)
}

/// As it was asked for, else the beginning of its id.
fn image(container: &Container) -> String {
    let spec = container.image.clone().unwrap_or_default();
    let asked = if spec.user_specified_image.is_empty() { spec.image } else { spec.user_specified_image };
    match asked.strip_prefix("sha256:") {
        Some(id) => short(id).to_owned(),
        None => asked,
    }
}

async fn state(node: &mut Node, container: &Container) -> String {
    match container.state() {
        ContainerState::ContainerCreated => "created".into(),
        ContainerState::ContainerRunning => "running".into(),
        ContainerState::ContainerUnknown => "unknown".into(),
        // It may be gone since it was listed.
        ContainerState::ContainerExited => match node.status(&container.id).await {
            Ok(status) => format!("exited ({})", status.exit_code),
            Err(_) => "exited".into(),
        },
    }
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// In the largest unit that is not zero.
fn age(nanoseconds: i64) -> String {
    let seconds = nanoseconds.max(0) / 1_000_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages() {
        let second = 1_000_000_000;
        let shown = [-5, 0, 59 * second, 60 * second, 7200 * second, 3 * 86_400 * second].map(age);
        assert_eq!(shown, ["0s", "0s", "59s", "1m", "2h", "3d"]);
    }
}
