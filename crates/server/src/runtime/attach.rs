use berth_cri_api::v1::{AttachRequest, AttachResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// A client that comes to the URL sees what the container writes from then on.
pub(super) async fn call(verbs: &RuntimeVerbs, request: AttachRequest) -> Result<AttachResponse, Failure> {
    let id = convert::id("container_id", &request.container_id)?;
    let streams = convert::streams(request.tty, request.stdin, request.stdout, request.stderr)?;
    Ok(AttachResponse { url: verbs.backend.attach(id, streams).await? })
}
