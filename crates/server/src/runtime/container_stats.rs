use berth_cri_api::v1::{ContainerStatsRequest, ContainerStatsResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ContainerStatsRequest,
) -> Result<ContainerStatsResponse, Failure> {
    let stats = verbs.backend.container_stats(convert::id("container_id", &request.container_id)?).await?;
    Ok(ContainerStatsResponse { stats: Some(convert::container_stats(stats)) })
}
