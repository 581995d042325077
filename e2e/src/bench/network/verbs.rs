//! What a pod's network adds to the verbs of CRI: pods with the host's network and pods with their own, by turns.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_cri_api::v1::*;

use crate::bench::figures::{Report, Series};
use crate::client::{Client, of_host, pod};
use crate::daemon::Daemon;

const ROUNDS: usize = 100;
/// Milliseconds that it may add.
const UP: f64 = 2.0;
const DOWN: f64 = 0.5;

#[derive(Default)]
struct Verbs {
    run: Series,
    down: Series,
}

/// Pods of one daemon with the host's network and with their own.
#[derive(Default)]
pub(super) struct Both {
    host: Verbs,
    own: Verbs,
}

async fn round(
    daemon: &Daemon,
    client: &mut Client,
    name: &str,
    host: bool,
    verbs: &mut Verbs,
) -> Result<()> {
    let config = if host { of_host(name, &daemon.path("logs")) } else { pod(name, &daemon.path("logs")) };
    let mut since = Instant::now();
    let mut lap = || std::mem::replace(&mut since, Instant::now()).elapsed();
    let id = client.run_pod(&config).await?;
    verbs.run.push(lap());
    client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    let stopped: Duration = lap();
    client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    verbs.down.push(stopped + lap());
    Ok(())
}

pub(super) async fn measure() -> Result<Both> {
    let mut daemon = Daemon::empty().await?;
    let done = async {
        let mut client = Client::connect(&daemon.socket()).await?;
        let mut both = Both::default();
        for number in 0..=ROUNDS {
            let first = &mut Both::default();
            let both = if number == 0 { first } else { &mut both };
            round(&daemon, &mut client, &format!("host-{number}"), true, &mut both.host).await?;
            round(&daemon, &mut client, &format!("own-{number}"), false, &mut both.own).await?;
        }
        anyhow::Ok(both)
    }
    .await;
    daemon.finish(done.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))).await?;
    done
}

pub(super) fn report(report: &mut Report<'_>, mut both: Both) {
    println!("\n  {:<34} {:>12} {:>12}", "through the socket", "own network", "the host's");
    for (what, own, host, budget) in [
        ("RunPodSandbox", &mut both.own.run, &mut both.host.run, UP),
        ("StopPodSandbox, RemovePodSandbox", &mut both.own.down, &mut both.host.down, DOWN),
    ] {
        let (own, host) = (own.quantile(0.5), host.quantile(0.5));
        report.line(what, own, host, "ms", None);
        report.line("  added by the network", own - host, f64::NAN, "ms", Some(budget));
    }
}
