use berth_cri_api::v1::{ExecRequest, ExecResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// Nothing runs before a client comes to the URL.
pub(super) async fn call(verbs: &RuntimeVerbs, request: ExecRequest) -> Result<ExecResponse, Failure> {
    let id = convert::id("container_id", &request.container_id)?;
    if request.cmd.is_empty() {
        return Err(convert::invalid("cmd", "must not be empty"));
    }
    // A later refusal would only reach whoever comes to the URL.
    if request.cmd.iter().any(|word| word.contains('\0')) {
        return Err(convert::invalid("cmd", "contains a NUL byte"));
    }
    let streams = convert::streams(request.tty, request.stdin, request.stdout, request.stderr)?;
    Ok(ExecResponse { url: verbs.backend.exec(id, request.cmd, streams).await? })
}
