use berth_cri_api::v1::{
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter,
};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ListPodSandboxStatsRequest,
) -> Result<ListPodSandboxStatsResponse, Failure> {
    Ok(ListPodSandboxStatsResponse { stats: list(verbs, request.filter).await? })
}

pub(super) async fn list(
    verbs: &RuntimeVerbs,
    filter: Option<PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>, Failure> {
    let filter = convert::sandbox_stats_filter(filter);
    let stats = verbs.backend.list_sandbox_stats(filter, false).await?;
    Ok(stats.into_iter().map(convert::sandbox_stats).collect())
}
