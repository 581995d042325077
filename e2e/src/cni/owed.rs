//! A plugin that never gives a pod's network back: nobody waits for it, it is asked for a while, and then no more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::StatusRequest;
use serde_json::Value;

use super::failures::runs;
use super::recorder::{Recorder, condition};
use crate::checks::{Checks, until, within};
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// Of one plugin, as the recorder's flags have it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// For what is done beside it on a slow machine.
const ROOM: Duration = Duration::from_secs(3);
/// How long it is asked again: with the pauses and the timeout, three times at least.
const RETRY: Duration = Duration::from_secs(5);

/// What the verbose status says is owed.
async fn debts(daemon: &Daemon) -> Result<Value> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let info = client.runtime.status(StatusRequest { verbose: true }).await?.into_inner().info;
    let shown: Value = serde_json::from_str(info.get("cniconfig").context("no cniconfig")?)?;
    Ok(shown["owed"].clone())
}

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    daemon.kill()?;
    let usual = daemon.flags.clone();
    daemon.flags.extend(["--network-cni-retry".to_owned(), format!("{}s", RETRY.as_secs())]);
    let mut client = daemon.start().await?;
    recorder.ready(daemon).await?;
    let id = client.run_pod(&pod("kept", &daemon.path("logs"))).await?;
    recorder.behave("rec-b", "DEL", "sleep 600 & echo $! >> \"$home/hung\"; wait")?;
    let _ = std::fs::remove_file(recorder.path("hung"));
    recorder.forget()?;

    let since = Instant::now();
    let ended = client.remove_pod(&id).await;
    let took = since.elapsed();
    checks.note("a plugin that hangs in DEL: the pod ends", ended.map_err(|error| format!("{error:#}")));
    let in_time = (TIMEOUT..TIMEOUT + ROOM).contains(&took);
    checks.that("  once the plugin's time is over", in_time, format!("{took:?}"));
    let said = condition(daemon).await?;
    let named =
        [id.as_str(), "rec-b", "did not end within 3s"].iter().all(|word| said.message.contains(word));
    checks.that("  Status says what is owed, and is ready", named && said.status, format!("{said:?}"));
    let debts = || debts(daemon);
    let owed = debts().await?;
    let one = &owed[&id];
    let told =
        one["since"].is_u64() && one["problem"].as_str().is_some_and(|problem| problem.contains("rec-b"));
    checks.that("  the verbose one since when", told, &owed);
    let record = daemon.path("root/cni/attachments").join(format!("{id}.json"));
    let kept: Value = serde_json::from_slice(&std::fs::read(&record)?)?;
    let result = &kept["result"]["ips"][0]["address"];
    let whole = kept["ending"]["attempts"].is_u64() && result == "10.9.8.7/24";
    checks.that("  the record is kept, with the result", whole, &kept);

    let given_up = within(60, "what is owed to be given up", || async {
        let owed = debts().await?;
        Ok((owed.as_object().is_some_and(serde_json::Map::is_empty) && !record.exists()).then_some(()))
    });
    checks.note("  it is given up", given_up.await.map_err(|error| format!("{error:#}")));
    let took = since.elapsed();
    checks.that("    no sooner than it should be", took >= TIMEOUT + RETRY, format!("{took:?}"));
    let order = recorder.order()?;
    let (last, before) = order.split_last().context("no call")?;
    // Nobody comes after: the plugins before it give back what they have.
    let asked = before.len() >= 3 && before.iter().all(|call| call == "DEL rec-b") && last == "DEL rec-a";
    checks.that(
        "    after several attempts, the last of which asks the others too",
        asked,
        format!("{order:?}"),
    );
    let log = std::fs::read_to_string(daemon.path("log"))?;
    let logged = log.lines().any(|line| line.contains("its network is given up") && line.contains(&id));
    checks.that("    and the log says so", logged, daemon.log_tail());
    let said = condition(daemon).await?;
    checks.that(
        "    Status is silent again",
        said.status && !said.message.contains(&id),
        format!("{said:?}"),
    );
    let hung = std::fs::read_to_string(recorder.path("hung"))?;
    let hung: Vec<i32> = hung.lines().filter_map(|pid| pid.parse().ok()).collect();
    let gone = until("what hung to be gone", || async {
        Ok(hung.iter().all(|pid| runs(*pid).is_none()).then_some(()))
    });
    checks.note(
        "  each that hung is killed with its children",
        gone.await.map_err(|error| format!("{error:#}")),
    );
    checks.that("    of every attempt", hung.len() == before.len(), format!("{hung:?} {before:?}"));
    let left = recorder.left(daemon)?;
    checks.that("  and nothing is kept", left.is_empty(), left.join("; "));

    recorder.behave("rec-b", "DEL", "")?;
    daemon.kill()?;
    daemon.flags = usual;
    daemon.start().await?;
    recorder.ready(daemon).await
}
