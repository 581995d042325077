use berth_cri_api::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse, Failure> {
    let id = convert::id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let overhead = request.overhead.map(|r| convert::resources("overhead", r)).transpose()?;
    let resources = request.resources.map(|r| convert::resources("resources", r)).transpose()?;
    verbs.backend.update_sandbox(id, overhead, resources).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
