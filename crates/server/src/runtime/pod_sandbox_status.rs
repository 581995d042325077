use berth_cri_api::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};

use super::{RuntimeVerbs, info, now};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse, Failure> {
    let id = convert::id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let (mut status, containers) = verbs.backend.sandbox_status(id, request.verbose).await?;
    let info = info(status.verbose.take());
    Ok(PodSandboxStatusResponse {
        status: Some(convert::sandbox_status(status)),
        info,
        containers_statuses: containers.into_iter().map(convert::container_status).collect(),
        timestamp: now(),
    })
}
