use berth_cri_api::v1::{ListContainersRequest, ListContainersResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ListContainersRequest,
) -> Result<ListContainersResponse, Failure> {
    let filter = convert::container_filter(request.filter)?;
    let containers = verbs.backend.list_containers(filter).await?;
    Ok(ListContainersResponse {
        containers: containers.into_iter().map(convert::container_summary).collect(),
    })
}
