use berth_cri_api::v1::{StartContainerRequest, StartContainerResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StartContainerRequest,
) -> Result<StartContainerResponse, Failure> {
    verbs.backend.start_container(convert::id("container_id", &request.container_id)?).await?;
    Ok(StartContainerResponse {})
}
