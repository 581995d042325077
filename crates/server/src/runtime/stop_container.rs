use std::time::Duration;

use berth_cri_api::v1::{StopContainerRequest, StopContainerResponse};

use super::{RuntimeVerbs, absent_is_done};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StopContainerRequest,
) -> Result<StopContainerResponse, Failure> {
    let id = absent_is_done(convert::id("container_id", &request.container_id))?;
    let seconds = u64::try_from(request.timeout);
    let seconds =
        seconds.map_err(|_| convert::invalid("timeout", format!("{} is negative", request.timeout)))?;
    if let Some(id) = id {
        verbs.backend.stop_container(id, Duration::from_secs(seconds)).await?;
    }
    Ok(StopContainerResponse {})
}
