use berth_cri_api::v1::{StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse};

use super::{RuntimeVerbs, list_pod_sandbox_metrics};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    _: StreamPodSandboxMetricsRequest,
) -> Result<Answers<StreamPodSandboxMetricsResponse>, Failure> {
    let list = list_pod_sandbox_metrics::list(verbs).await?;
    Ok(batches(list, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
}
