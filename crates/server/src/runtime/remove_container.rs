use berth_cri_api::v1::{RemoveContainerRequest, RemoveContainerResponse};

use super::{RuntimeVerbs, absent_is_done};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: RemoveContainerRequest,
) -> Result<RemoveContainerResponse, Failure> {
    if let Some(id) = absent_is_done(convert::id("container_id", &request.container_id))? {
        verbs.backend.remove_container(id).await?;
    }
    Ok(RemoveContainerResponse {})
}
