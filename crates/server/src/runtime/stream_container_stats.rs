use berth_cri_api::v1::{StreamContainerStatsRequest, StreamContainerStatsResponse};

use super::{RuntimeVerbs, list_container_stats};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StreamContainerStatsRequest,
) -> Result<Answers<StreamContainerStatsResponse>, Failure> {
    let list = list_container_stats::list(verbs, request.filter).await?;
    Ok(batches(list, |container_stats| StreamContainerStatsResponse { container_stats }))
}
