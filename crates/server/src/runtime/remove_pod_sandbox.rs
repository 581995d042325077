use berth_cri_api::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};

use super::{RuntimeVerbs, absent_is_done};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse, Failure> {
    if let Some(id) = absent_is_done(convert::id("pod_sandbox_id", &request.pod_sandbox_id))? {
        verbs.backend.remove_sandbox(id).await?;
    }
    Ok(RemovePodSandboxResponse {})
}
