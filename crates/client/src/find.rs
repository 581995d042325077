//! Containers by what people call them.

use berth_cri_api::v1::{Container, ContainerState, ListContainersRequest};

use crate::ClientError;
use crate::node::Node;
use crate::pod::LABEL;

/// How much of an id people see.
pub(crate) const SHORT: usize = 12;

pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

pub(crate) fn name(container: &Container) -> &str {
    container.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

pub(crate) fn runs(container: &Container) -> bool {
    container.state() == ContainerState::ContainerRunning
}

/// Whether `run` made it, and its pod for it alone.
pub(crate) fn is_ours(container: &Container) -> bool {
    container.labels.contains_key(LABEL)
}

pub(crate) async fn all(node: &mut Node) -> Result<Vec<Container>, ClientError> {
    let listed = node.runtime.list_containers(ListContainersRequest::default()).await;
    let mut containers = listed.map_err(ClientError::call("list containers"))?.into_inner().containers;
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    Ok(containers)
}

/// By name or the beginning of an id.
pub(crate) async fn container(node: &mut Node, wanted: &str) -> Result<Container, ClientError> {
    choose(all(node).await?, wanted)
}

/// The newest first. A name goes before the beginning of an id; of several with a name, those that run.
fn choose(all: Vec<Container>, wanted: &str) -> Result<Container, ClientError> {
    let mut found: Vec<Container> = all.iter().filter(|c| name(c) == wanted).cloned().collect();
    if found.iter().any(runs) {
        found.retain(runs);
    } else if found.iter().any(is_ours) {
        found.retain(is_ours);
    } else {
        // Attempts of one container of the kubelet's.
        found.dedup_by(|older, newer| older.pod_sandbox_id == newer.pod_sandbox_id);
    }
    if found.is_empty() && !wanted.is_empty() {
        found = all.into_iter().filter(|c| c.id.starts_with(wanted)).collect();
    }
    match found.len() {
        0 => Err(ClientError::NotFound { name: wanted.to_owned() }),
        1 => Ok(found.remove(0)),
        _ => {
            let ids: Vec<&str> = found.iter().map(|c| short(&c.id)).collect();
            Err(ClientError::Ambiguous { name: wanted.to_owned(), candidates: ids.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_cri_api::v1::ContainerMetadata;

    fn container(id: &str, name: &str, pod: &str, runs: bool) -> Container {
        let state = if runs { ContainerState::ContainerRunning } else { ContainerState::ContainerExited };
        Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            state: state.into(),
            ..Container::default()
        }
    }

    #[test]
    fn by_name_then_by_id() {
        let all = vec![
            container("abc1", "web", "p1", true),
            container("abc2", "db", "p1", false),
            container("abd3", "db", "p1", false),
            container("web9", "x", "p2", true),
            container("eee1", "two", "p3", true),
            container("eee2", "two", "p4", true),
        ];
        let id = |wanted: &str| choose(all.clone(), wanted).map(|c| c.id).map_err(|error| error.to_string());
        assert_eq!(id("web"), Ok("abc1".into()));
        assert_eq!(id("web9"), Ok("web9".into()));
        // The newer attempt.
        assert_eq!(id("db"), Ok("abc2".into()));
        assert_eq!(id("abd"), Ok("abd3".into()));
        assert!(id("ab").is_err_and(|text| text.contains("abc1, abc2, abd3")));
        assert!(id("two").is_err());
        assert!(id("nobody").is_err() && id("").is_err());
    }
}
