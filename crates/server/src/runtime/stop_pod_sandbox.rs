use berth_cri_api::v1::{StopPodSandboxRequest, StopPodSandboxResponse};

use super::{RuntimeVerbs, absent_is_done};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StopPodSandboxRequest,
) -> Result<StopPodSandboxResponse, Failure> {
    if let Some(id) = absent_is_done(convert::id("pod_sandbox_id", &request.pod_sandbox_id))? {
        verbs.backend.stop_sandbox(id).await?;
    }
    Ok(StopPodSandboxResponse {})
}
