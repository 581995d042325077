//! Plugins and configurations that fail: each is told, and none keeps a pod from ending.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::recorder::{Recorder, chain, condition, names};
use crate::checks::{Checks, until};
use crate::client::{Client, of_host, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    configurations(checks, daemon, recorder).await?;
    additions(checks, daemon, recorder).await?;
    status(checks, daemon, recorder).await?;
    owed(checks, daemon, recorder).await?;
    switched(checks, daemon, recorder).await
}

/// How a pod is refused.
async fn refusal(daemon: &Daemon) -> Result<String> {
    let mut client = Client::connect(&daemon.socket()).await?;
    match client.run_pod(&pod("refused", &daemon.path("logs"))).await {
        Ok(id) => {
            client.remove_pod(&id).await?;
            Ok("it was run".into())
        }
        Err(error) => Ok(format!("{error:#}")),
    }
}

async fn configurations(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    recorder
        .write("{ \"name\": \"lane\",\n \"cniVersion\": \"1.1.0\",\n \"plugins\": [ { \"type\": } ] }")?;
    let told = recorder.not_ready(daemon, "10-lane.conflist:3: expected value").await;
    checks.note(
        "a broken file: NetworkReady=false with file, line and reason",
        told.map_err(|e| format!("{e:#}")),
    );
    let said = refusal(daemon).await?;
    checks.that(
        "  a pod is refused with the same",
        said.contains("10-lane.conflist:3: expected value"),
        said,
    );
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&of_host("of-host", &daemon.path("logs"))).await;
    checks.note("  one with the host's network runs", id.as_ref().map(drop));
    client.remove_pod(&id?).await?;
    recorder.configure(&chain("1.1.0"))?;
    let since = Instant::now();
    checks.note(
        "  mended: ready without a restart",
        recorder.ready(daemon).await.map_err(|e| format!("{e:#}")),
    );
    let took = since.elapsed();
    checks.that("  and at once, not by polling", took < Duration::from_secs(4), format!("{took:?}"));

    recorder.remove("rec-b")?;
    let told = recorder.not_ready(daemon, "there is no program \"rec-b\" in").await;
    checks
        .note("a plugin that is not there: NetworkReady=false names it", told.map_err(|e| format!("{e:#}")));
    recorder.install("rec-b")?;
    checks.note("  installed: ready", recorder.ready(daemon).await.map_err(|e| format!("{e:#}")));
    Ok(())
}

async fn additions(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    let cases = [
        (
            "an error object",
            r#"echo '{"code":100,"msg":"no lease","details":"the server is silent"}'; exit 1"#,
            "plugin rec-b of network lane: ADD: no lease (code 100): the server is silent",
        ),
        (
            "words on stderr alone",
            "echo 'cannot reach the agent' >&2; exit 4",
            "on stderr: cannot reach the agent",
        ),
        ("bad JSON", "echo '{\"cniVersion\": '; exit 0", "its answer is not understood"),
        ("an answer of another form", "echo '{\"ips\": 3}'; exit 0", "its answer is not understood"),
        ("no answer", "exit 0", "it wrote nothing"),
        ("100 MB", "head -c 100000000 /dev/zero | tr '\\0' x; exit 0", "more than 1048576 bytes"),
        ("one that hangs", "sleep 600 & echo $! > \"$home/hung\"; wait", "did not end within 3s"),
        ("death by a signal", "kill -9 $$", "signal: 9"),
    ];
    for (what, script, words) in cases {
        recorder.forget()?;
        recorder.behave("rec-b", "ADD", script)?;
        let said = refusal(daemon).await?;
        let order = recorder.order()?;
        let undone = order == ["ADD rec-a", "ADD rec-b", "DEL rec-b", "DEL rec-a"];
        // Of the plugin before, so that each finds what it keeps by the addresses.
        let dels: Vec<_> = recorder.calls()?.into_iter().filter(|one| one.verb == "DEL").collect();
        let told = dels.iter().all(|one| one.input["prevResult"]["ips"][0]["address"] == "10.9.8.7/24");
        let left = recorder.left(daemon)?;
        let good = said.contains(words) && undone && told && left.is_empty();
        checks.that(
            &format!("{what}: the pod is refused with the words, and undone"),
            good,
            format!("{said}; {dels:?}; {order:?}; {left:?}"),
        );
    }
    let hung: i32 = std::fs::read_to_string(recorder.path("hung"))?.trim().parse()?;
    let gone =
        until("the hung plugin's child to be gone", || async { Ok(runs(hung).is_none().then_some(())) })
            .await;
    checks.note("  what hung is killed with its children", gone.map_err(|e| format!("{e:#}")));
    recorder.behave("rec-b", "ADD", "")
}

/// Its state unless it has ended.
pub(super) fn runs(pid: i32) -> Option<String> {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    (!state.contains(") Z ")).then_some(state)
}

async fn status(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    recorder.behave("rec-a", "STATUS", r#"echo '{"code":50,"msg":"the agent is not up"}'; exit 1"#)?;
    daemon.kill()?;
    daemon.start().await?;
    let told = recorder
        .not_ready(daemon, "plugin rec-a of network lane: STATUS: the agent is not up (code 50)")
        .await;
    checks.note("a plugin that says it is not ready: NetworkReady=false", told.map_err(|e| format!("{e:#}")));
    recorder.behave("rec-a", "STATUS", "sleep 60")?;
    let since = Instant::now();
    condition(daemon).await?;
    let took = since.elapsed();
    checks.that(
        "  one that hangs there: Status answers all the same",
        took < Duration::from_secs(1),
        format!("{took:?}"),
    );
    recorder.behave("rec-a", "STATUS", "")?;
    checks.note(
        "  ready again: seen without a restart",
        recorder.ready(daemon).await.map_err(|e| format!("{e:#}")),
    );
    Ok(())
}

/// A pod's end does not wait for a plugin, and the plugin is asked again.
async fn owed(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    for (what, plugin, restart) in
        [("fails", true, false), ("is not there", false, false), ("fails, and the daemon dies", true, true)]
    {
        let id = client.run_pod(&pod("owed", &daemon.path("logs"))).await?;
        match plugin {
            true => recorder.behave("rec-a", "DEL", "echo '{\"code\":11,\"msg\":\"later\"}'; exit 1")?,
            false => recorder.remove("rec-a")?,
        }
        let ended = client.remove_pod(&id).await;
        checks
            .note(&format!("a plugin that {what} at DEL: the pod ends"), ended.map_err(|e| format!("{e:#}")));
        let said = condition(daemon).await?.message;
        checks.that("  Status says what is owed", said.contains(&id) && said.contains("rec-a"), said);
        let bound = names(&recorder.path("netns"));
        checks.that("  its namespace is released", bound.is_empty(), bound.join(" "));
        if restart {
            daemon.kill()?;
            client = daemon.start().await?;
        }
        recorder.forget()?;
        match plugin {
            true => recorder.behave("rec-a", "DEL", "")?,
            false => recorder.install("rec-a")?,
        }
        let paid =
            until("the debt to be paid", || async { Ok(recorder.left(daemon)?.is_empty().then_some(())) })
                .await;
        checks.note("  it is asked again until it succeeds", paid.map_err(|e| format!("{e:#}")));
        let last: Vec<_> =
            recorder.calls()?.into_iter().filter(|one| one.verb == "DEL" && one.container == id).collect();
        let good = last.last().is_some_and(|one| one.netns.is_empty() && !one.input["prevResult"].is_null());
        checks.that("  with the result, without the namespace", good, format!("{last:?}"));
        recorder.ready(daemon).await?;
    }
    Ok(())
}

/// Pods end with whom they began, whatever is configured by then.
async fn switched(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let old = client.run_pod(&pod("old", &daemon.path("logs"))).await?;
    recorder.unconfigure()?;
    in_use(daemon, |shown| shown["configuration"].is_null()).await?;
    recorder.ready(daemon).await?;
    let new = client.run_pod(&pod("new", &daemon.path("logs"))).await?;
    let ip = client.pod_ip(&new).await?;
    checks.that(
        "no configuration any more: a new pod has Berth's own network",
        ip != "10.9.8.7" && !ip.is_empty(),
        ip,
    );
    daemon.kill()?;
    let mut client = daemon.start().await?;
    let ip = client.pod_ip(&old).await?;
    checks.that("  one of before keeps its address over a restart", ip == "10.9.8.7", ip);
    recorder.forget()?;
    client.remove_pod(&old).await?;
    let mut order = recorder.order()?;
    // Of the network that was, at the daemon's start.
    order.retain(|call| !call.starts_with("GC"));
    checks.that(
        "  and ends with its plugins",
        order.ends_with(&["DEL rec-b".into(), "DEL rec-a".into()]),
        format!("{order:?}"),
    );
    recorder.configure(&chain("1.1.0"))?;
    in_use(daemon, |shown| shown["network"] == "lane").await?;
    recorder.ready(daemon).await?;
    recorder.forget()?;
    client.remove_pod(&new).await?;
    let order = recorder.order()?;
    checks.that(
        "  a pod of Berth's own network ends without plugins",
        order.is_empty(),
        format!("{order:?}"),
    );
    Ok(())
}
