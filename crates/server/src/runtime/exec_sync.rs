use std::time::Duration;

use berth_cri_api::v1::{ExecSyncRequest, ExecSyncResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// A command that ends with another code than 0 is a result, not an error.
pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: ExecSyncRequest,
) -> Result<ExecSyncResponse, Failure> {
    let id = convert::id("container_id", &request.container_id)?;
    let seconds = u64::try_from(request.timeout);
    let seconds =
        seconds.map_err(|_| convert::invalid("timeout", format!("{} is negative", request.timeout)))?;
    let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
    let output = verbs.backend.exec_sync(id, request.cmd, timeout).await?;
    Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}
