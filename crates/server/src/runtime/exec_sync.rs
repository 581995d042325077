use std::time::Duration;

use berth_cri_api::v1::{ExecSyncRequest, ExecSyncResponse};

use super::RuntimeVerbs;
use crate::serve::MESSAGE_MAX;
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
    let (mut stdout, mut stderr) = (output.stdout, output.stderr);
    let (out, err) = fitting(stdout.len(), stderr.len());
    stdout.truncate(out);
    stderr.truncate(err);
    Ok(ExecSyncResponse { stdout, stderr, exit_code: output.exit_code })
}

/// Bytes of both streams that fit into one message (CRI: output beyond 16 MiB is discarded, the command goes on): the
/// kubelet takes none that is larger. A stream below half of the room is kept whole.
fn fitting(stdout: usize, stderr: usize) -> (usize, usize) {
    /// Less the fields' heads and the exit code.
    const ROOM: usize = MESSAGE_MAX - 64;
    let stderr = stderr.min(ROOM - stdout.min(ROOM / 2));
    (stdout.min(ROOM - stderr), stderr)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_answer_fits_whatever_was_said() {
        const MIB: usize = 1 << 20;
        for (stdout, stderr) in [
            (0, 0),
            (5, 7),
            (MIB, MIB),
            (8 * MIB, 8 * MIB),
            (16 * MIB, 16 * MIB),
            (16 * MIB, 3),
            (3, 16 * MIB),
            (17 * MIB, 0),
        ] {
            let (out, err) = fitting(stdout, stderr);
            let answer = ExecSyncResponse { stdout: vec![1; out], stderr: vec![1; err], exit_code: i32::MIN };
            assert!(answer.encoded_len() <= MESSAGE_MAX, "{stdout} {stderr}");
            assert!(out == stdout || err == stderr || (out > 7 * MIB && err > 7 * MIB), "{stdout} {stderr}");
            assert!(stdout + stderr > 15 * MIB || (out, err) == (stdout, stderr), "{stdout} {stderr}");
        }
    }
}
