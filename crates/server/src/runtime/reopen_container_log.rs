use berth_cri_api::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse, Failure> {
    verbs.backend.reopen_log(convert::id("container_id", &request.container_id)?).await?;
    Ok(ReopenContainerLogResponse {})
}
