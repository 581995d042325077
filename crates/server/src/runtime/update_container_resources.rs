use berth_cri_api::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// `annotations` are for runtimes that take advice; Berth's limits come from `linux` alone.
pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse, Failure> {
    let id = convert::id("container_id", &request.container_id)?;
    let linux = request.linux.ok_or_else(|| convert::invalid("linux", "must be given"))?;
    verbs.backend.update_container(id, convert::resources("linux", linux)?).await?;
    Ok(UpdateContainerResourcesResponse {})
}
