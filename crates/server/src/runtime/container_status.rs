use berth_cri_api::v1::{ContainerStatusRequest, ContainerStatusResponse};

use super::{RuntimeVerbs, info};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ContainerStatusRequest,
) -> Result<ContainerStatusResponse, Failure> {
    let id = convert::id("container_id", &request.container_id)?;
    let mut status = verbs.backend.container_status(id, request.verbose).await?;
    let info = info(status.verbose.take());
    Ok(ContainerStatusResponse { status: Some(convert::container_status(status)), info })
}
