use berth_cri_api::v1::{StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse};

use super::{RuntimeVerbs, list_pod_sandbox_stats};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StreamPodSandboxStatsRequest,
) -> Result<Answers<StreamPodSandboxStatsResponse>, Failure> {
    let list = list_pod_sandbox_stats::list(verbs, request.filter).await?;
    Ok(batches(list, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}
