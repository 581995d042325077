use berth_cri_api::v1::{ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, PodSandboxMetrics};
use berth_model::SandboxFilter;

use super::RuntimeVerbs;
use crate::{Failure, metrics};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    _: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse, Failure> {
    Ok(ListPodSandboxMetricsResponse { pod_metrics: list(verbs).await? })
}

pub(super) async fn list(verbs: &RuntimeVerbs) -> Result<Vec<PodSandboxMetrics>, Failure> {
    let stats = verbs.backend.list_sandbox_stats(SandboxFilter::default(), true).await?;
    Ok(stats.iter().map(metrics::of_sandbox).collect())
}
