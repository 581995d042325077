use berth_cri_api::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse, Failure> {
    let config = convert::sandbox_config(request.config, request.runtime_handler)?;
    let id = verbs.backend.run_sandbox(config).await?;
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
