use berth_cri_api::v1::{ListPodSandboxRequest, ListPodSandboxResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ListPodSandboxRequest,
) -> Result<ListPodSandboxResponse, Failure> {
    let filter = convert::sandbox_filter(request.filter)?;
    let items = verbs.backend.list_sandboxes(filter).await?;
    Ok(ListPodSandboxResponse { items: items.into_iter().map(convert::sandbox_summary).collect() })
}
