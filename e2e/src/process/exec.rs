//! ExecSync: where it runs, how it ends, what comes back.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_cri_api::v1::*;

use super::{Lab, owned};
use crate::checks::{Checks, until};

/// CRI: what the runtime keeps of the output, in one message with what else is in it.
const KEPT: usize = 16 << 20;

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let id = lab.start(&|c| c.working_dir = "/work".into()).await?;
    let cwd = lab.tool(&id, &["cwd"]).await?;
    checks.that("exec: in the container's working directory", cwd == "/work\n", cwd);
    let exec =
        |cmd: &[&str], timeout: i64| ExecSyncRequest { container_id: id.clone(), cmd: owned(cmd), timeout };
    // As much as the kubelet takes.
    let runtime = lab.client.runtime.clone().max_decoding_message_size(KEPT);
    for (what, cmd, code, part) in [
        ("its exit code", &["/guest", "exit", "7"][..], 7, ""),
        ("an unknown command: 127", &["/no/such"], 127, "No such file"),
        ("  by PATH", &["no-such"], 127, "No such file"),
        ("  below a file", &["/guest/x"], 127, "Not a directory"),
        ("what cannot be executed: 126", &["/etc/passwd"], 126, "Permission denied"),
        ("  a directory", &["/etc"], 126, "Permission denied"),
    ] {
        let done = runtime.clone().exec_sync(exec(cmd, 30)).await?.into_inner();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        checks.that(
            &format!("exec: {what}"),
            done.exit_code == code && said.contains(part),
            format!("{} {said}", done.exit_code),
        );
    }
    for (what, cmd, timeout, part) in [
        ("no command", &[][..], 5, "cmd"),
        ("a NUL byte", &["/guest", "a\0b"], 5, "cmd"),
        ("a negative timeout", &["/guest", "true"], -1, "timeout"),
    ] {
        let said = runtime.clone().exec_sync(exec(cmd, timeout)).await.err().map(|e| format!("{e:#}"));
        checks.that(
            &format!("exec: refused, with its field: {what}"),
            said.as_ref().is_some_and(|s| s.contains(part)),
            format!("{said:?}"),
        );
    }
    let done = runtime.clone().exec_sync(exec(&["/guest", "lines", "300000", "63"], 120)).await?.into_inner();
    let right = (KEPT - 64..=KEPT).contains(&done.stdout.len()) && done.exit_code == 0;
    checks.that("exec: 18 MiB of output: 16 MiB of it, and the command ends well", right, done.stdout.len());

    let before = Instant::now();
    let done = runtime.clone().exec_sync(exec(&["/guest", "leave", "4321"], 60)).await?.into_inner();
    let took = before.elapsed();
    let prompt = took < Duration::from_secs(20) && done.stdout == b"left\n" && done.exit_code == 0;
    checks.that(
        "exec: over when its leader is, though a child keeps stdout open",
        prompt,
        format!("{took:?}"),
    );
    let pids = lab.tool(&id, &["pids"]).await?;
    checks.that("  the child lives on, as in a shell", pids.contains("sleep 4321"), pids);

    let said = runtime.clone().exec_sync(exec(&["/guest", "hide", "9876"], 1)).await.err();
    let code = said.as_ref().map(tonic::Status::code);
    checks.that("exec: timeout", code == Some(tonic::Code::DeadlineExceeded), format!("{said:?}"));
    let gone = until("the end of what the exec began", || {
        let mut client = lab.client.clone();
        let id = id.clone();
        async move {
            let pids = client.out(&id, &["pids"]).await?;
            Ok((!pids.contains("9876")).then_some(pids))
        }
    })
    .await?;
    checks.that(
        "  ends all of it, also in another process group, and nothing else",
        gone.contains("sleep 4321"),
        gone,
    );
    // A client that goes away ends its exec as well.
    let mut other = runtime.clone();
    let request = exec(&["/guest", "hide", "8765"], 0);
    let waiting = tokio::spawn(async move { other.exec_sync(request).await.map(drop) });
    until("the exec to run", || {
        let mut client = lab.client.clone();
        let id = id.clone();
        async move { Ok(client.out(&id, &["pids"]).await?.contains("sleep 8765").then_some(())) }
    })
    .await?;
    waiting.abort();
    until("the end of what nobody waits for", || {
        let mut client = lab.client.clone();
        let id = id.clone();
        async move { Ok((!client.out(&id, &["pids"]).await?.contains("8765")).then_some(())) }
    })
    .await?;
    checks.that("exec: a client that goes away ends it", true, "");
    lab.kill(&id).await?;
    let said = runtime.clone().exec_sync(exec(&["/guest", "true"], 5)).await.err();
    let refused = said.as_ref().is_some_and(|s| s.message().contains("is exited, not running"));
    checks.that("exec: in what has ended: refused", refused, format!("{said:?}"));
    Ok(())
}
