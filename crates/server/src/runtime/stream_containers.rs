use berth_cri_api::v1::{ListContainersRequest, StreamContainersRequest, StreamContainersResponse};

use super::{RuntimeVerbs, list_containers};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StreamContainersRequest,
) -> Result<Answers<StreamContainersResponse>, Failure> {
    let list = list_containers::call(verbs, ListContainersRequest { filter: request.filter }).await?;
    Ok(batches(list.containers, |containers| StreamContainersResponse { containers }))
}
