//! What a pod's network adds to the verbs of CRI: pods with the host's network and pods with their own, by turns.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_cri_api::v1::*;

use crate::bench::figures::{Report, Series};
use crate::client::{Client, of_host, pod};
use crate::daemon::Daemon;

const ROUNDS: usize = 200;
/// Milliseconds that it may add.
const UP: f64 = 2.0;
const DOWN: f64 = 0.5;

/// One pod's.
#[derive(Clone, Copy)]
struct Verbs {
    run: Duration,
    down: Duration,
}

/// A verb with both kinds of pods of one daemon.
#[derive(Default)]
struct Verb {
    own: Series,
    host: Series,
    /// By how many milliseconds the one took longer than the other of the same round: a machine that is slower for a while is so
    /// for both.
    added: Vec<f64>,
}

impl Verb {
    fn push(&mut self, own: Duration, host: Duration) {
        self.added.push((own.as_secs_f64() - host.as_secs_f64()) * 1000.0);
        self.own.push(own);
        self.host.push(host);
    }

    /// The median.
    fn added(&mut self) -> f64 {
        self.added.sort_unstable_by(f64::total_cmp);
        self.added.get(self.added.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Pods with the host's network and with their own.
#[derive(Default)]
pub(super) struct Both {
    run: Verb,
    down: Verb,
}

async fn life(daemon: &Daemon, client: &mut Client, name: &str, host: bool) -> Result<Verbs> {
    let config = if host { of_host(name, &daemon.path("logs")) } else { pod(name, &daemon.path("logs")) };
    let mut since = Instant::now();
    let mut lap = || std::mem::replace(&mut since, Instant::now()).elapsed();
    let id = client.run_pod(&config).await?;
    let run = lap();
    client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    Ok(Verbs { run, down: lap() })
}

pub(super) async fn measure() -> Result<Both> {
    let mut daemon = Daemon::empty().await?;
    let done = async {
        let mut client = Client::connect(&daemon.socket()).await?;
        let mut both = Both::default();
        for number in 0..=ROUNDS {
            let host = life(&daemon, &mut client, &format!("host-{number}"), true).await?;
            let own = life(&daemon, &mut client, &format!("own-{number}"), false).await?;
            if number > 0 {
                both.run.push(own.run, host.run);
                both.down.push(own.down, host.down);
            }
        }
        anyhow::Ok(both)
    }
    .await;
    daemon.finish(done.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))).await?;
    done
}

pub(super) fn report(report: &mut Report<'_>, mut both: Both) {
    println!("\n  {:<34} {:>12} {:>12}", "through the socket", "own network", "the host's");
    for (what, verb, budget) in
        [("RunPodSandbox", &mut both.run, UP), ("StopPodSandbox, RemovePodSandbox", &mut both.down, DOWN)]
    {
        report.line(what, verb.own.quantile(0.5), verb.host.quantile(0.5), "ms", None);
        report.line("  added by the network, round by round", verb.added(), f64::NAN, "ms", Some(budget));
    }
}
