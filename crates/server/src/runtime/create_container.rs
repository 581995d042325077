use berth_cri_api::v1::{CreateContainerRequest, CreateContainerResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// The request repeats the sandbox's configuration; what counts is the one the sandbox was made with.
pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: CreateContainerRequest,
) -> Result<CreateContainerResponse, Failure> {
    let sandbox = convert::id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let config = convert::container_config(request.config)?;
    let id = verbs.backend.create_container(sandbox, config).await?;
    Ok(CreateContainerResponse { container_id: id.to_string() })
}
