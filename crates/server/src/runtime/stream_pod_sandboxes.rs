use berth_cri_api::v1::{ListPodSandboxRequest, StreamPodSandboxesRequest, StreamPodSandboxesResponse};

use super::{RuntimeVerbs, list_pod_sandbox};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: StreamPodSandboxesRequest,
) -> Result<Answers<StreamPodSandboxesResponse>, Failure> {
    let list = list_pod_sandbox::call(verbs, ListPodSandboxRequest { filter: request.filter }).await?;
    Ok(batches(list.items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}
