//! The same kubelet over Berth and over Debian's containerd, one after the other in one run: how long a manifest takes
//! to run, and what a node of many pods costs at rest.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use super::node::condition;
use super::place::{ADDRESS, Cgroups};
use super::process::{Kubelet, free_port};
use crate::bench::figures::{Report, Series, pss, ticks};
use crate::checks::{Checks, within};
use crate::client::Client;
use crate::daemon::{Daemon, IMAGE};
use crate::image;
use crate::peer::Peer;

const ROUNDS: usize = 10;
const PODS: usize = 50;
/// How long a node at rest is watched: many of the kubelet's lists, some of its looks at the statistics.
const REST: Duration = Duration::from_secs(30);
/// A node that has just become full is not at rest.
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Figures {
    /// From the manifest to the container's start, and to Running in the kubelet's /pods.
    started: Series,
    running: Series,
    all_started: Series,
    all_running: Series,
    gone: Series,
    /// Shares of one core.
    runtime_cpu: f64,
    supervisors_cpu: f64,
    kubelet_cpu: f64,
    /// Bytes.
    runtime_memory: u64,
    supervisors_memory: u64,
    kubelet_memory: u64,
}

struct Side<'a> {
    kubelet: Kubelet,
    client: Client,
    runtime: i32,
    supervisors: &'a dyn Fn() -> Result<Vec<i32>>,
    home: &'a Path,
}

fn since_epoch() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?)
}

impl Side<'_> {
    fn put(&self, name: &str) -> Result<()> {
        self.kubelet.put(name, &json!({ "containers": [{ "name": "main", "args": ["pause"] }] }))
    }

    /// When every one of so many pods is Running and ready: that moment, and when the last container started.
    async fn running(&self, pods: usize) -> Result<(Instant, i64)> {
        let seen = within(180, "the pods to run", || async {
            let all = self.kubelet.get_json("/pods").await?;
            let ready = |pod: &&Value| pod["status"]["phase"] == "Running" && condition(pod, "Ready");
            let ready = all["items"].as_array().into_iter().flatten().filter(ready).count();
            Ok((ready == pods).then(Instant::now))
        });
        let seen = seen.await?;
        let mut client = self.client.clone();
        let list = client.runtime.list_containers(ListContainersRequest::default()).await?.into_inner();
        let mut last = 0;
        for container in list.containers {
            last = last.max(client.status(&container.id).await?.started_at);
        }
        Ok((seen, last))
    }

    /// When nothing of the pods is ready any more.
    async fn gone(&self) -> Result<()> {
        within(180, "the pods to stop", || async {
            let list = ListPodSandboxRequest::default();
            let pods = self.client.clone().runtime.list_pod_sandbox(list).await?.into_inner().items;
            let ready = i32::from(PodSandboxState::SandboxReady);
            Ok(pods.iter().all(|pod| pod.state != ready).then_some(()))
        })
        .await
    }

    async fn measure(&self, figures: &mut Figures) -> Result<()> {
        self.put("warm")?;
        self.running(1).await?;
        self.kubelet.remove("warm")?;
        self.gone().await?;
        for round in 0..ROUNDS {
            let name = format!("one-{round}");
            let (since, clock) = (Instant::now(), since_epoch()?);
            self.put(&name)?;
            let (seen, started) = self.running(1).await?;
            figures.running.push(seen - since);
            figures.started.push(Duration::from_nanos(u64::try_from(started - clock)?));
            self.kubelet.remove(&name)?;
            self.gone().await?;
        }
        let (since, clock) = (Instant::now(), since_epoch()?);
        for number in 0..PODS {
            self.put(&format!("many-{number}"))?;
        }
        let (seen, started) = self.running(PODS).await?;
        figures.all_running.push(seen - since);
        figures.all_started.push(Duration::from_nanos(u64::try_from(started - clock)?));
        self.at_rest(figures).await?;
        let since = Instant::now();
        self.kubelet.remove_all()?;
        self.gone().await?;
        figures.gone.push(since.elapsed());
        Ok(())
    }

    async fn at_rest(&self, figures: &mut Figures) -> Result<()> {
        tokio::time::sleep(SETTLE).await;
        let kubelet = self.kubelet.process()?;
        let supervisors = (self.supervisors)()?;
        ensure!(supervisors.len() >= PODS, "{} supervisors for {PODS} pods", supervisors.len());
        let look = || -> Result<[Duration; 3]> {
            let of_all = supervisors.iter().map(|pid| ticks(*pid)).sum::<Result<Duration>>()?;
            Ok([ticks(self.runtime)?, of_all, ticks(kubelet)?])
        };
        let (before, since) = (look()?, Instant::now());
        tokio::time::sleep(REST).await;
        let (after, took) = (look()?, since.elapsed().as_secs_f64());
        let share = |n: usize| (after[n] - before[n]).as_secs_f64() / took;
        (figures.runtime_cpu, figures.supervisors_cpu, figures.kubelet_cpu) = (share(0), share(1), share(2));
        figures.runtime_memory = pss(self.runtime)?;
        figures.supervisors_memory = supervisors.iter().map(|pid| pss(*pid)).sum::<Result<u64>>()?;
        figures.kubelet_memory = pss(kubelet)?;
        Ok(())
    }
}

/// A kubelet over what answers at the socket, measured and ended.
async fn side(
    home: &Path,
    socket: &Path,
    runtime: i32,
    supervisors: &dyn Fn() -> Result<Vec<i32>>,
) -> Result<Figures> {
    let cgroups = Cgroups::new(format!("berth-figures-{}", std::process::id()))?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let mut kubelet = Kubelet::new(home, socket.to_owned(), cgroups.root(), ports, Some(ADDRESS))?;
    kubelet.settings = json!({
        // As a node has it: the lane looks more often.
        "fileCheckFrequency": "20s", "syncFrequency": "1m", "containerLogMaxSize": "10Mi",
        "containerLogMonitorInterval": "10s",
    });
    kubelet.start().await?;
    let client = Client::connect(socket).await?;
    let side = Side { kubelet, client, runtime, supervisors, home };
    let mut figures = Figures::default();
    let done = side.measure(&mut figures).await;
    if done.is_err() {
        eprintln!("{}", crate::daemon::tail(&side.kubelet.log()));
    }
    let mut client = side.client.clone();
    let home = side.home.to_owned();
    drop(side);
    done.with_context(|| home.display().to_string())?;
    let list = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner();
    for pod in list.items {
        client.remove_pod(&pod.id).await?;
    }
    Ok(figures)
}

pub(crate) async fn bench(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok()).context("no daemon runs")?;
    let ours = side(&daemon.path(""), &daemon.socket(), pid, &|| daemon.shims()).await;
    let archive = daemon.path("figures.tar");
    image::write(&archive, IMAGE, "bench")?;
    daemon.reset().await?;
    let peer = Peer::start(&archive).await?;
    let theirs = side(&peer.path(""), &peer.socket(), peer.pid(), &|| peer.shims()).await;
    let (mut a, mut b) = (ours?, theirs?);
    let mut report = Report::new(checks);
    report.times("manifest to container started", &mut a.started, &mut b.started, None);
    report.times("manifest to Running in /pods", &mut a.running, &mut b.running, None);
    report.times(&format!("{PODS} manifests, all started"), &mut a.all_started, &mut b.all_started, None);
    report.times(&format!("{PODS} manifests, all Running"), &mut a.all_running, &mut b.all_running, None);
    report.times(&format!("{PODS} manifests removed, stopped"), &mut a.gone, &mut b.gone, None);
    let percent = |share: f64| share * 100.0;
    for (what, ours, theirs, budget) in [
        ("CPU with 50 pods, the runtime", a.runtime_cpu, b.runtime_cpu, Some(1.0)),
        ("  its supervisors", a.supervisors_cpu, b.supervisors_cpu, None),
        ("  the kubelet", a.kubelet_cpu, b.kubelet_cpu, None),
    ] {
        report.line(what, percent(ours), percent(theirs), "%", budget);
    }
    let mebi = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (what, ours, theirs) in [
        ("memory with 50 pods, the runtime", a.runtime_memory, b.runtime_memory),
        ("  its supervisors", a.supervisors_memory, b.supervisors_memory),
        ("  the kubelet", a.kubelet_memory, b.kubelet_memory),
    ] {
        report.line(what, mebi(ours), mebi(theirs), "MiB", None);
    }
    Ok(())
}
