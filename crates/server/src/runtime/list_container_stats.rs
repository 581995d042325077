use berth_cri_api::v1::{ContainerStats, ListContainerStatsRequest, ListContainerStatsResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ListContainerStatsRequest,
) -> Result<ListContainerStatsResponse, Failure> {
    Ok(ListContainerStatsResponse { stats: list(verbs, request.filter).await? })
}

pub(super) async fn list(
    verbs: &RuntimeVerbs,
    filter: Option<berth_cri_api::v1::ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>, Failure> {
    let stats = verbs.backend.list_container_stats(convert::container_stats_filter(filter)).await?;
    Ok(stats.into_iter().map(convert::container_stats).collect())
}
