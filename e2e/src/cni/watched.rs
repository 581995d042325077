//! Directories of configurations: what is in them while pods run, and how it is seen.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::recorder::{Recorder, chain};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// Directories are looked at this often where nobody tells of a change.
const LOOK: Duration = Duration::from_secs(5);
/// What is told is seen long before that.
const AT_ONCE: Duration = Duration::from_secs(4);

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    broken(checks, daemon, recorder).await?;
    later(checks, daemon, recorder).await?;
    polled(checks, daemon, recorder).await
}

/// A pod ends by what it was connected with, whatever has become of the file.
async fn broken(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&pod("runs", &daemon.path("logs"))).await?;
    let result = client.pod_info(&id).await?["network"]["cni"]["result"].clone();
    recorder.write("{ \"name\": \"lane\",\n \"cniVersion\": \"1.1.0\",\n \"plugins\": [ ? ] }")?;
    let told = recorder.not_ready(daemon, "10-lane.conflist:3: expected value").await;
    checks.note(
        "a file that is broken while a pod runs: not ready, with file, line and reason",
        told.map_err(|error| format!("{error:#}")),
    );
    recorder.forget()?;
    let ended = client.remove_pod(&id).await;
    checks.note("  the pod ends", ended.map_err(|error| format!("{error:#}")));
    let mut calls = recorder.calls()?;
    calls.retain(|one| one.verb != "GC");
    let order: Vec<String> = calls.iter().map(|one| format!("{} {}", one.verb, one.plugin)).collect();
    checks.that("  with its plugins, backwards", order == ["DEL rec-b", "DEL rec-a"], format!("{order:?}"));
    let whole = calls.iter().all(|one| {
        let own = if one.plugin == "rec-a" { json!([1]) } else { json!(null) };
        one.container == id
            && one.inode != "-"
            && one.input["name"] == "lane"
            && one.input["cniVersion"] == "1.1.0"
            && one.input["own"] == own
            && one.input["prevResult"] == result
    });
    let said = result["ips"].as_array().is_some_and(|ips| ips.len() == 3);
    checks.that("  the configuration and the result as they were", whole && said, format!("{calls:?}"));
    let left = recorder.left(daemon)?;
    checks.that("  and nothing is kept", left.is_empty(), left.join("; "));
    recorder.configure(&chain("1.1.0"))?;
    recorder.ready(daemon).await
}

/// A directory that is not there yet cannot be watched.
async fn later(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    daemon.kill()?;
    let usual = daemon.flags.clone();
    let directory = recorder.path("late/net.d");
    daemon.flags.extend(["--network-cni-conf-dir".into(), directory.display().to_string()]);
    let mut client = daemon.start().await?;
    in_use(daemon, |shown| shown["configuration"].is_null()).await?;
    let write = |version: &str| -> Result<Instant> {
        std::fs::write(recorder.path("late.conflist"), chain(version).to_string())?;
        std::fs::rename(recorder.path("late.conflist"), directory.join("10-late.conflist"))?;
        Ok(Instant::now())
    };
    std::fs::create_dir_all(&directory)?;
    let since = write("1.0.0")?;
    in_use(daemon, |shown| shown["version"] == "1.0.0" && shown["problem"].is_null()).await?;
    let took = since.elapsed();
    checks.that(
        "a directory that comes after the daemon is seen by polling",
        took < LOOK * 2,
        format!("{took:?}"),
    );
    recorder.forget()?;
    let id = client.run_pod(&pod("late", &daemon.path("logs"))).await?;
    client.remove_pod(&id).await?;
    let order = recorder.order()?;
    let connected = order == ["ADD rec-a", "ADD rec-b", "DEL rec-b", "DEL rec-a"];
    checks.that("  and pods are connected by it", connected, format!("{order:?}"));
    let since = write("1.1.0")?;
    in_use(daemon, |shown| shown["version"] == "1.1.0").await?;
    let took = since.elapsed();
    checks.that("  from then on changes are seen at once", took < AT_ONCE, format!("{took:?}"));
    daemon.kill()?;
    daemon.flags = usual;
    std::fs::remove_dir_all(recorder.path("late"))?;
    daemon.start().await?;
    recorder.ready(daemon).await
}

/// Where the kernel gives no inotify instance, as when all of a user's are used up: of this daemon alone, for that number is
/// everybody's on the machine.
async fn polled(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    daemon.kill()?;
    daemon.refused = vec!["inotify_init1"];
    daemon.start().await?;
    recorder.ready(daemon).await?;
    let log = std::fs::read_to_string(daemon.path("log"))?;
    let polls = |line: &str| line.contains("directories of CNI configurations are polled");
    let told = log.lines().find(|line| polls(line)).is_some_and(|line| line.contains("EMFILE"));
    checks.that(
        "no inotify instance is left: the log says that directories are polled",
        told,
        daemon.log_tail(),
    );
    let since = Instant::now();
    recorder.configure(&chain("1.0.0"))?;
    let seen = in_use(daemon, |shown| shown["version"] == "1.0.0").await;
    let took = since.elapsed();
    checks.note("  a change is seen all the same", seen.map_err(|error| format!("{error:#}")));
    checks.that("    in time", took < LOOK * 2, format!("{took:?}"));
    recorder.write("{ \"name\": ? }")?;
    let told = recorder.not_ready(daemon, "10-lane.conflist:1: expected value").await;
    checks.note("  and a broken file", told.map_err(|error| format!("{error:#}")));
    recorder.configure(&chain("1.1.0"))?;
    daemon.kill()?;
    daemon.refused.clear();
    daemon.start().await?;
    recorder.ready(daemon).await
}
