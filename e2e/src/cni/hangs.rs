//! A plugin that hangs keeps nobody else waiting.

use anyhow::Result;

use super::recorder::{Recorder, condition};
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    collection(checks, daemon, recorder).await?;
    addition(checks, daemon, recorder).await
}

/// In GC, when a pod comes: that one's ADD is next, not the other plugin's GC.
async fn collection(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let stays = client.run_pod(&pod("stays", &daemon.path("logs"))).await?;
    recorder.behave("rec-a", "GC", "sleep 600")?;
    daemon.kill()?;
    recorder.forget()?;
    let mut client = daemon.start().await?;
    until("the plugin to hang", || async { Ok((recorder.order()? == ["GC rec-a"]).then_some(())) }).await?;
    let came = client.run_pod(&pod("comes", &daemon.path("logs"))).await?;
    let order = recorder.order()?;
    let good = order == ["GC rec-a", "ADD rec-a", "ADD rec-b"];
    checks.that("a plugin hangs in GC: a pod that comes does not wait for it", good, format!("{order:?}"));
    recorder.behave("rec-a", "GC", "")?;
    recorder.forget()?;
    let again = until("GC once more", || async {
        let calls = recorder.calls()?;
        Ok(calls.into_iter().find(|one| one.verb == "GC" && one.plugin == "rec-b"))
    })
    .await?;
    let valid = again.input["cni.dev/valid-attachments"].as_array().cloned().unwrap_or_default();
    let named = |id: &str| valid.iter().any(|one| one["containerID"] == id);
    checks.that(
        "  it is asked again, and told of both pods",
        valid.len() == 2 && named(&stays) && named(&came),
        format!("{valid:?}"),
    );
    for id in [stays, came] {
        client.remove_pod(&id).await?;
    }
    Ok(())
}

/// In ADD of one pod: another one and Status are served.
async fn addition(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    recorder.behave(
        "rec-b",
        "ADD",
        "case $CNI_ARGS in *=hangs\\;*) : > \"$home/hangs\"; sleep 600 ;; esac",
    )?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let hangs = {
        let (mut client, config) = (client.clone(), pod("hangs", &daemon.path("logs")));
        tokio::spawn(async move { client.run_pod(&config).await })
    };
    let mark = recorder.path("hangs");
    until("the plugin to hang", || async { Ok(mark.exists().then_some(())) }).await?;
    let other = client.run_pod(&pod("other", &daemon.path("logs"))).await?;
    let ready = condition(daemon).await?.status;
    checks.that(
        "a plugin hangs in ADD: another pod is connected, and Status answers",
        ready && !hangs.is_finished(),
        format!("ready {ready}, the first one was waited for: {}", hangs.is_finished()),
    );
    let said = hangs.await?.err().map(|error| format!("{error:#}")).unwrap_or_default();
    checks.that("  the pod itself is refused in its time", said.contains("did not end within 3s"), said);
    recorder.behave("rec-b", "ADD", "")?;
    client.remove_pod(&other).await?;
    Ok(std::fs::remove_file(mark)?)
}
