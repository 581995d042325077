//! Berth and Debian's containerd with runc, by turns, on one machine in one run: same client, same image, medians. In
//! network and mount namespaces of its own (`cargo xtask bench` makes them), so that neither touches the host's.

pub(crate) mod big;
pub(crate) mod figures;
mod images;
pub(crate) mod network;
pub(crate) mod pull;
mod streams;
mod suite;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_cri_api::v1::*;
use tokio::task::JoinSet;

use self::figures::{Report, Series, mounts, pss, ticks};
use crate::checks::Checks;
use crate::client::{Client, args, pod};
use crate::daemon::{Daemon, IMAGE};
use crate::image;
use crate::peer::Peer;

/// Of each figure that is a median.
const ROUNDS: usize = 30;
/// In so many turns of each side, so that a machine that changes changes both. Not one by one: what the kernel still clears
/// of one's pod would be the other's time.
const TURNS: usize = 3;
const PODS: usize = 40;
const AT_ONCE: usize = 8;
/// Containers of the longest list.
const LISTED: usize = 500;
/// How long an idle daemon is watched.
const IDLE: Duration = Duration::from_secs(5);

/// One of the two.
#[derive(Clone)]
struct Side {
    client: Client,
    logs: PathBuf,
    cgroup_parent: String,
}

impl Side {
    fn config(&self, name: &str) -> PodSandboxConfig {
        let linux = LinuxPodSandboxConfig { cgroup_parent: self.cgroup_parent.clone(), ..Default::default() };
        PodSandboxConfig { linux: Some(linux), ..pod(name, &self.logs) }
    }

    /// A pod with a container that runs; both ids.
    async fn up(&mut self, name: &str) -> Result<(String, String)> {
        let config = self.config(name);
        let pod = self.client.run_pod(&config).await?;
        let container = self.client.run(&pod, &config, "main", args(&["sleep", "100000"])).await?;
        Ok((pod, container))
    }

    async fn round(&mut self, name: &str, figures: &mut Figures) -> Result<()> {
        let config = self.config(name);
        let mut since = Instant::now();
        let mut lap = || std::mem::replace(&mut since, Instant::now()).elapsed();
        let pod = self.client.run_pod(&config).await?;
        let sandbox = lap();
        let id = self.client.create(&pod, &config, "main", args(&["sleep", "100000"])).await?;
        let create = lap();
        self.client.start(&id).await?;
        let start = lap();
        self.client.remove_pod(&pod).await?;
        figures.down.push(lap());
        figures.sandbox.push(sandbox);
        figures.create.push(create);
        figures.start.push(start);
        figures.up.push(sandbox + create + start);
        Ok(())
    }

    /// [`PODS`] pods, [`AT_ONCE`] at a time; their ids.
    async fn burst(&self, figures: &mut Figures) -> Result<Vec<String>> {
        let since = Instant::now();
        let mut work = JoinSet::new();
        for lane in 0..AT_ONCE {
            let mut side = self.clone();
            work.spawn(async move {
                let mut pods = Vec::new();
                for number in 0..PODS / AT_ONCE {
                    pods.push(side.up(&format!("burst-{lane}-{number}")).await?.0);
                }
                Ok::<_, anyhow::Error>(pods)
            });
        }
        let mut pods = Vec::new();
        while let Some(done) = work.join_next().await {
            pods.extend(done??);
        }
        figures.burst.push(since.elapsed());
        Ok(pods)
    }

    async fn clear(&self, pods: Vec<String>) -> Result<()> {
        let mut work = JoinSet::new();
        for pods in pods.chunks(pods.len().div_ceil(AT_ONCE)) {
            let (mut client, pods) = (self.client.clone(), pods.to_vec());
            work.spawn(async move {
                for pod in pods {
                    client.remove_pod(&pod).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Figures {
    up: Series,
    sandbox: Series,
    create: Series,
    start: Series,
    down: Series,
    exec: Series,
    burst: Series,
    /// Bytes.
    idle_memory: u64,
    shim_memory: u64,
    daemon_growth: u64,
    /// Share of one core.
    idle_cpu: f64,
    pods_cpu: f64,
    /// Mounts on the host for each pod.
    mounts: f64,
}

impl Figures {
    /// For each pod. Pause processes, which only the peer has, are not counted.
    fn memory(&mut self, shims: Vec<i32>, grown: u64) -> Result<()> {
        self.shim_memory = shims.into_iter().map(pss).sum::<Result<u64>>()? / PODS as u64;
        self.daemon_growth = grown / PODS as u64;
        Ok(())
    }

    async fn at_rest(&mut self, daemon: i32, with_pods: bool) -> Result<()> {
        let (before, since) = (ticks(daemon)?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let share = (ticks(daemon)? - before).as_secs_f64() / since.elapsed().as_secs_f64();
        *(if with_pods { &mut self.pods_cpu } else { &mut self.idle_cpu }) = share;
        Ok(())
    }
}

/// `part`: only the figures of `streams`.
pub(crate) async fn run(checks: &mut Checks, part: Option<&str>) -> Result<()> {
    anyhow::ensure!(part.is_none_or(|part| part == "streams"), "the bench has one part of its own: streams");
    let mut daemon = Daemon::new().await?;
    let archive = daemon.path("bench.tar");
    image::write(&archive, IMAGE, "bench")?;
    let peer = Peer::start(&archive).await?;
    let done = measure(checks, &daemon, &peer, part.is_some()).await;
    if done.is_err() {
        eprintln!("berth:\n{}\ncontainerd:\n{}", daemon.log_tail(), peer.log_tail());
    }
    done.and(daemon.reset().await)
}

async fn measure(checks: &mut Checks, daemon: &Daemon, peer: &Peer, streams_only: bool) -> Result<()> {
    let ours = Client::connect(&daemon.socket()).await?;
    let mut berth = Side { client: ours, logs: daemon.path("logs"), cgroup_parent: String::new() };
    let theirs = Client::connect(&peer.socket()).await?;
    let mut containerd =
        Side { client: theirs, logs: peer.path("logs"), cgroup_parent: Peer::cgroup_parent() };
    let berth_pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let (mut a, mut b) = (Figures::default(), Figures::default());

    // The first of each reads programs from disk.
    berth.round("warm", &mut Figures::default()).await?;
    containerd.round("warm", &mut Figures::default()).await?;
    if streams_only {
        let [mut ours, mut theirs] = streams(daemon, &mut berth, peer, &mut containerd).await?;
        streams::report(&mut Report::new(checks), &mut ours, &mut theirs);
        return Ok(());
    }
    (a.idle_memory, b.idle_memory) = (pss(berth_pid)?, pss(peer.pid())?);
    let ((), ()) = tokio::try_join!(a.at_rest(berth_pid, false), b.at_rest(peer.pid(), false))?;
    for turn in 0..TURNS {
        for (side, figures) in [(&mut berth, &mut a), (&mut containerd, &mut b)] {
            for round in 0..ROUNDS / TURNS {
                side.round(&format!("pod-{turn}-{round}"), figures).await?;
            }
        }
    }
    let (our_pod, our_container) = berth.up("exec").await?;
    let (their_pod, their_container) = containerd.up("exec").await?;
    for _ in 0..ROUNDS {
        for (side, id, figures) in
            [(&mut berth, &our_container, &mut a), (&mut containerd, &their_container, &mut b)]
        {
            let since = Instant::now();
            side.client.out(id, &["true"]).await?;
            figures.exec.push(since.elapsed());
        }
    }
    berth.client.remove_pod(&our_pod).await?;
    containerd.client.remove_pod(&their_pod).await?;

    let before = (mounts()?, pss(berth_pid)?);
    let pods = berth.burst(&mut a).await?;
    a.memory(daemon.shims()?, pss(berth_pid)?.saturating_sub(before.1))?;
    a.mounts = (mounts()? - before.0) as f64 / PODS as f64;
    a.at_rest(berth_pid, true).await?;
    berth.clear(pods).await?;
    let before = (mounts()?, pss(peer.pid())?);
    let pods = containerd.burst(&mut b).await?;
    b.memory(peer.shims()?, pss(peer.pid())?.saturating_sub(before.1))?;
    b.mounts = (mounts()? - before.0) as f64 / PODS as f64;
    b.at_rest(peer.pid(), true).await?;
    containerd.clear(pods).await?;
    let listed = lists(&mut berth, &mut containerd).await?;
    let [mut ours_streams, mut theirs_streams] = streams(daemon, &mut berth, peer, &mut containerd).await?;
    let ours = in_thread(daemon.socket(), daemon.path("critest")).await?;
    let theirs = in_thread(peer.socket(), peer.path("critest")).await?;
    let mut report = Report::new(checks);
    figures(&mut report, &mut a, &mut b);
    let [mut ours_listed, mut theirs_listed] = listed;
    report.times(&format!("{LISTED} containers listed"), &mut ours_listed, &mut theirs_listed, Some(5.0));
    streams::report(&mut report, &mut ours_streams, &mut theirs_streams);
    suite::report(&mut report, &ours, &theirs);
    Ok(())
}

/// Of both sides.
async fn streams(
    daemon: &Daemon,
    berth: &mut Side,
    peer: &Peer,
    containerd: &mut Side,
) -> Result<[streams::Streams; 2]> {
    let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let shims = || daemon.shims();
    let ours = streams::measure(berth, &streams::Workers { daemon: pid, shims: &shims }).await?;
    let shims = || peer.shims();
    let theirs =
        streams::measure(containerd, &streams::Workers { daemon: peer.pid(), shims: &shims }).await?;
    Ok([ours, theirs])
}

async fn in_thread(socket: PathBuf, home: PathBuf) -> Result<suite::Suite> {
    tokio::task::spawn_blocking(move || suite::run(&socket, &home)).await?
}

/// How long ListContainers takes over [`LISTED`] containers that were made and not started, on each side.
async fn lists(berth: &mut Side, containerd: &mut Side) -> Result<[Series; 2]> {
    let mut all = [Series::default(), Series::default()];
    for (side, series) in [berth, containerd].into_iter().zip(&mut all) {
        let config = side.config("listed");
        let pod = side.client.run_pod(&config).await?;
        for n in 0..LISTED {
            side.client.create(&pod, &config, &format!("listed-{n}"), args(&["true"])).await?;
        }
        for _ in 0..ROUNDS {
            let since = Instant::now();
            let found = side.client.runtime.list_containers(ListContainersRequest::default()).await?;
            series.push(since.elapsed());
            let found = found.into_inner().containers.len();
            anyhow::ensure!(found == LISTED, "{found} containers are listed instead of {LISTED}");
        }
        side.client.remove_pod(&pod).await?;
    }
    Ok(all)
}

fn figures(report: &mut Report<'_>, a: &mut Figures, b: &mut Figures) {
    report.times("pod up (sandbox, create, start)", &mut a.up, &mut b.up, Some(20.0));
    report.times("  RunPodSandbox", &mut a.sandbox, &mut b.sandbox, None);
    report.times("  CreateContainer", &mut a.create, &mut b.create, None);
    report.times("  StartContainer", &mut a.start, &mut b.start, None);
    report.times("pod down (stop, remove)", &mut a.down, &mut b.down, Some(20.0));
    report.times("ExecSync", &mut a.exec, &mut b.exec, Some(6.0));
    report.times(&format!("{PODS} pods, {AT_ONCE} at a time"), &mut a.burst, &mut b.burst, None);
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let total = |figures: &Figures| kib(figures.shim_memory + figures.daemon_growth);
    report.line("memory for each pod (PSS)", total(a), total(b), "KiB", Some(250.0));
    report.line("  of it supervisors", kib(a.shim_memory), kib(b.shim_memory), "KiB", None);
    report.line("  of it the daemon's growth", kib(a.daemon_growth), kib(b.daemon_growth), "KiB", None);
    report.line("memory of the idle daemon", kib(a.idle_memory), kib(b.idle_memory), "KiB", None);
    report.line("host mounts for each pod", a.mounts, b.mounts, "", Some(0.0));
    report.line("CPU at rest", a.idle_cpu * 100.0, b.idle_cpu * 100.0, "%", None);
    report.line(&format!("CPU at rest with {PODS} pods"), a.pods_cpu * 100.0, b.pods_cpu * 100.0, "%", None);
}
