//! Ends and removals, of one container after the other.

use berth_cri_api::v1::{Container, RemoveContainerRequest};

use crate::node::Node;
use crate::output::print;
use crate::{ClientError, find};

pub(crate) async fn stop(node: &mut Node, names: &[String], grace: i64) -> Result<u8, ClientError> {
    for name in names {
        let container = find::container(node, name).await?;
        node.stop(&container.id, grace).await?;
        if find::is_ours(&container) {
            node.stop_pod(&container.pod_sandbox_id).await?;
        }
        print(&format!("{name}\n"))?;
    }
    Ok(0)
}

pub(crate) async fn rm(node: &mut Node, names: &[String], force: bool) -> Result<u8, ClientError> {
    for name in names {
        let container = find::container(node, name).await?;
        if find::runs(&container) {
            if !force {
                return Err(ClientError::Runs { name: name.clone() });
            }
            node.stop(&container.id, 0).await?;
        }
        remove(node, &container).await?;
        print(&format!("{name}\n"))?;
    }
    Ok(0)
}

/// With its pod where that was made for it alone.
async fn remove(node: &mut Node, container: &Container) -> Result<(), ClientError> {
    if !find::is_ours(container) {
        let request = RemoveContainerRequest { container_id: container.id.clone() };
        let removed = node.runtime.remove_container(request).await;
        return removed.map(drop).map_err(ClientError::call(format!("remove container {}", container.id)));
    }
    node.remove_pod(&container.pod_sandbox_id).await
}
