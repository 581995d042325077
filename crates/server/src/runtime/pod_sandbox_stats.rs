use berth_cri_api::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: PodSandboxStatsRequest,
) -> Result<PodSandboxStatsResponse, Failure> {
    let id = convert::id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let stats = verbs.backend.sandbox_stats(id).await?;
    Ok(PodSandboxStatsResponse { stats: Some(convert::sandbox_stats(stats)) })
}
