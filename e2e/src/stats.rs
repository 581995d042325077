//! Statistics, metrics, events, changed limits and the streamed lists against true load: a container that burns CPU, one
//! that holds memory and writes files, one that sends.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use tonic::Streaming;

use crate::checks::{Checks, until};
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;

const MIB: u64 = 1 << 20;
/// A fifth of a core, in 100 ms.
const QUOTA: i64 = 20_000;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let client = Client::connect(&daemon.socket()).await?;
    let mut events = client.clone().runtime.get_container_events(GetEventsRequest {}).await?.into_inner();
    let done = run(checks, &daemon, client, &mut events).await;
    daemon.finish(done).await?;
    while let Ok(Some(_)) = events.message().await {}
    let log = daemon.log_tail();
    checks.that(
        "a listener to events does not hold up a daemon's end",
        !log.contains("left unanswered"),
        log,
    );
    Ok(())
}

async fn run(
    checks: &mut Checks,
    daemon: &Daemon,
    mut client: Client,
    events: &mut Streaming<ContainerEventResponse>,
) -> Result<()> {
    let mut config = pod("loaded", &daemon.path("logs"));
    config.labels.insert("load".into(), "yes".into());
    let id = client.run_pod(&config).await?;
    let limits = |memory: u64| LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: QUOTA,
        memory_limit_in_bytes: memory as i64,
        ..Default::default()
    };
    let mut spin = args(&["spin", "100000"]);
    spin.resources = Some(limits(64 * MIB));
    let busy = client.run(&id, &config, "busy", spin).await?;
    let mut hold = args(&["hold", "32"]);
    hold.resources = Some(limits(128 * MIB));
    let full = client.run(&id, &config, "full", hold).await?;
    let idle = client.create(&id, &config, "idle", args(&["true"])).await?;
    let word = "x".repeat(100_000);
    client.run(&id, &config, "server", args(&["http", "80", &word])).await?;
    let quiet = pod("quiet", &daemon.path("logs"));
    let other = client.run_pod(&quiet).await?;

    cpu(checks, &mut client, &busy).await?;
    memory(checks, &mut client, &full).await?;
    files(checks, &mut client, &full).await?;
    network(checks, &mut client, &id, &other, &quiet).await?;
    lists(checks, &mut client, &id, &busy, &idle).await?;
    update(checks, &client, &full, &idle).await?;
    metrics(checks, &mut client, &id, &busy).await?;
    streams(checks, &mut client, &id).await?;

    client.stop(&busy, Duration::ZERO).await?;
    let stats = one(&mut client, &busy).await?;
    let ended = stats.cpu.is_none() && stats.attributes.is_some_and(|a| a.id == busy);
    checks.that("an ended container has no CPU and no memory", ended, "it has");
    client.remove_pod(&id).await?;
    client.remove_pod(&other).await?;
    told(checks, events, &id, &busy, &idle).await
}

async fn one(client: &mut Client, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.into() };
    let stats = client.runtime.container_stats(request).await?.into_inner().stats;
    stats.context("no stats in the answer")
}

async fn of_pod(client: &mut Client, id: &str) -> Result<LinuxPodSandboxStats> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    let stats = client.runtime.pod_sandbox_stats(request).await?.into_inner().stats;
    stats.and_then(|stats| stats.linux).context("no stats in the answer")
}

fn value(field: Option<UInt64Value>) -> u64 {
    field.map_or(0, |field| field.value)
}

async fn cpu(checks: &mut Checks, client: &mut Client, id: &str) -> Result<()> {
    let first = one(client, id).await?.cpu.context("no CPU")?;
    let later = until("the rate of a busy container", || {
        let mut client = client.clone();
        async move {
            let cpu = one(&mut client, id).await?.cpu.context("no CPU")?;
            Ok(cpu.usage_nano_cores.is_some().then_some(cpu))
        }
    })
    .await?;
    let used = value(later.usage_core_nano_seconds) - value(first.usage_core_nano_seconds);
    let took = (later.timestamp - first.timestamp) as u64;
    // The quota's period may begin anew in between, on each of the host's cores.
    checks.that("a busy container uses CPU time", used > 0 && used < took, format!("{used} ns in {took} ns"));
    let rate = value(later.usage_nano_cores);
    checks.that("  at a rate the quota allows", rate > 0 && rate < 1_000_000_000, rate);
    checks.that("  later each time it is asked", later.timestamp > first.timestamp, later.timestamp);
    Ok(())
}

async fn memory(checks: &mut Checks, client: &mut Client, id: &str) -> Result<()> {
    let memory = until("32 MiB to be held", || {
        let mut client = client.clone();
        async move {
            let memory = one(&mut client, id).await?.memory.context("no memory")?;
            Ok((value(memory.rss_bytes) >= 32 * MIB).then_some(memory))
        }
    })
    .await?;
    let [rss, working, usage, free] =
        [memory.rss_bytes, memory.working_set_bytes, memory.usage_bytes, memory.available_bytes].map(value);
    let found = format!("rss {rss}, working set {working}, usage {usage}, available {free}");
    checks.that(
        "a container's memory is counted",
        rss < 48 * MIB && working >= rss && usage >= working,
        &found,
    );
    checks.that("  with what its limit leaves", free > 0 && free + working == 128 * MIB, &found);
    // Huge pages take one fault for each 2 MiB.
    checks.that("  and its page faults", value(memory.page_faults) > 16, value(memory.page_faults));
    Ok(())
}

async fn files(checks: &mut Checks, client: &mut Client, id: &str) -> Result<()> {
    client.out(id, &["fill", "/big", "8"]).await?;
    // Measured in the background, every ten seconds at most.
    let layer = until("8 MiB in the writable layer", || {
        let mut client = client.clone();
        async move {
            let layer = one(&mut client, id).await?.writable_layer;
            Ok(layer.filter(|layer| value(layer.used_bytes) >= 8 * MIB))
        }
    })
    .await?;
    let used = value(layer.used_bytes);
    checks.that("a container's files are counted", used < 9 * MIB && layer.timestamp > 0, used);
    let inodes = value(layer.inodes_used);
    checks.that("  and its inodes", (2..50).contains(&inodes), inodes);
    let mountpoint = layer.fs_id.unwrap_or_default().mountpoint;
    checks.that("  on a filesystem that is there", std::path::Path::new(&mountpoint).is_dir(), mountpoint);
    Ok(())
}

async fn network(
    checks: &mut Checks,
    client: &mut Client,
    id: &str,
    other: &str,
    quiet: &PodSandboxConfig,
) -> Result<()> {
    let address = format!("{}:80", client.pod_ip(id).await?);
    let getter = client.run(other, quiet, "getter", args(&["sleep", "100000"])).await?;
    until("the server to answer", || {
        let (mut client, getter, address) = (client.clone(), getter.clone(), address.clone());
        async move { Ok(client.out(&getter, &["get", &address]).await.ok()) }
    })
    .await?;
    for (what, id) in [("what a pod sends is counted", id), ("what a pod receives is counted", other)] {
        let network = of_pod(client, id).await?.network.unwrap_or_default();
        let eth0 = network.default_interface.unwrap_or_default();
        let bytes = if id == other { eth0.rx_bytes } else { eth0.tx_bytes };
        let right = eth0.name == "eth0" && (100_000..1_000_000).contains(&value(bytes));
        checks.that(what, right, format!("{} {}", eth0.name, value(bytes)));
    }
    Ok(())
}

async fn lists(checks: &mut Checks, client: &mut Client, id: &str, busy: &str, idle: &str) -> Result<()> {
    let ask = async |filter: Option<ContainerStatsFilter>| {
        let request = ListContainerStatsRequest { filter };
        let stats = client.clone().runtime.list_container_stats(request).await?.into_inner().stats;
        let ids = stats.into_iter().filter_map(|s| s.attributes).map(|a| a.id);
        anyhow::Ok(ids.collect::<BTreeSet<_>>())
    };
    let all = ask(None).await?;
    checks.that("the list has what runs", all.len() == 4 && !all.contains(idle), format!("{all:?}"));
    let by = |id: &str, pod: &str| {
        Some(ContainerStatsFilter { id: id.into(), pod_sandbox_id: pod.into(), ..Default::default() })
    };
    let only = BTreeSet::from([busy.to_owned()]);
    checks.that("  by an id prefix", ask(by(&busy[..12], "")).await? == only, "other");
    checks.that("  of a pod", ask(by("", &id[..12])).await?.len() == 3, "another number");
    checks.that("  of nothing", ask(by("0123", "")).await?.is_empty(), "something");
    let filter = PodSandboxStatsFilter {
        label_selector: [("load".to_owned(), "yes".to_owned())].into(),
        ..Default::default()
    };
    let request = ListPodSandboxStatsRequest { filter: Some(filter) };
    let pods = client.runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
    let linux = pods.first().and_then(|pod| pod.linux.clone()).unwrap_or_default();
    let parts: u64 = linux
        .containers
        .iter()
        .map(|c| value(c.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds)))
        .sum();
    let whole = value(linux.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds));
    checks.that(
        "a pod by its label, with its containers",
        pods.len() == 1 && linux.containers.len() == 3 && whole > 0 && parts > 0,
        format!("{} pods, {} containers, {whole} and {parts} ns", pods.len(), linux.containers.len()),
    );
    let processes = linux.process.and_then(|p| p.process_count);
    checks.that("  and its processes", value(processes) == 3, value(processes));
    let created = one(client, idle).await?;
    checks.that("a created container used nothing", created.cpu.is_none(), "CPU");
    Ok(())
}

async fn update(checks: &mut Checks, client: &Client, full: &str, idle: &str) -> Result<()> {
    let set = async |id: &str, linux: LinuxContainerResources| {
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        client.clone().runtime.update_container_resources(request).await
    };
    let memory = |mib: u64| LinuxContainerResources {
        memory_limit_in_bytes: (mib * MIB) as i64,
        ..Default::default()
    };
    let now = async |id: &str| {
        let status = client.clone().status(id).await?;
        anyhow::Ok(status.resources.and_then(|r| r.linux).unwrap_or_default())
    };
    set(full, memory(256)).await?;
    let linux = now(full).await?;
    let kept = linux.memory_limit_in_bytes as u64 == 256 * MIB && linux.cpu_quota == QUOTA;
    checks.that("a new memory limit, the rest stays", kept, format!("{linux:?}"));
    let limit = async || {
        let memory = one(&mut client.clone(), full).await?.memory.unwrap_or_default();
        anyhow::Ok(value(memory.available_bytes) + value(memory.working_set_bytes))
    };
    checks.that("  is in the kernel", limit().await? == 256 * MIB, limit().await?);
    let refused = set(full, memory(4)).await.err();
    let code = refused.as_ref().map(tonic::Status::code);
    let text = refused.map(|status| status.message().to_owned()).unwrap_or_default();
    checks.that(
        "a limit below what it uses is refused in words",
        code == Some(tonic::Code::FailedPrecondition) && text.contains("memory_limit_in_bytes"),
        text,
    );
    checks.that("  and changes nothing", limit().await? == 256 * MIB, limit().await?);
    set(idle, memory(100)).await?;
    client.clone().start(idle).await?;
    client.ended(idle).await?;
    let started = now(idle).await?.memory_limit_in_bytes as u64;
    checks.that("a created container starts under its new limit", started == 100 * MIB, started);
    let ended = set(idle, memory(50)).await.err().map(|status| status.code());
    let right = ended == Some(tonic::Code::FailedPrecondition);
    checks.that("an ended one is refused", right, format!("{ended:?}"));
    Ok(())
}

async fn metrics(checks: &mut Checks, client: &mut Client, id: &str, busy: &str) -> Result<()> {
    let request = ListMetricDescriptorsRequest {};
    let described = client.runtime.list_metric_descriptors(request).await?.into_inner().descriptors;
    let listed = client.runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?.into_inner();
    let pod = listed.pod_metrics.into_iter().find(|pod| pod.pod_sandbox_id == id).context("no such pod")?;
    let container = pod.container_metrics.iter().find(|c| c.container_id == busy).context("no container")?;
    let all: Vec<&Metric> = pod.metrics.iter().chain(&container.metrics).collect();
    // What depends on the host: a disk below, huge pages, pressure.
    let absent: Vec<&str> = described
        .iter()
        .map(|d| d.name.as_str())
        .filter(|name| !all.iter().any(|metric| metric.name == *name))
        .filter(|name| {
            !["_fs_reads", "_fs_writes", "blkio", "hugetlb", "pressure"].iter().any(|p| name.contains(p))
        })
        .collect();
    checks.that("every metric that is described is there", absent.is_empty(), absent.join(" "));
    let fits = all.iter().all(|metric| {
        let keys = described.iter().find(|d| d.name == metric.name).map(|d| d.label_keys.len());
        keys == Some(metric.label_values.len())
    });
    checks.that("  with as many labels as described", fits, "another number");
    let find = |name: &str| container.metrics.iter().find(|m| m.name == name).map(|m| value(m.value));
    checks.that("  and true values", find("container_spec_cpu_quota") == Some(QUOTA as u64), "another quota");
    checks.that("  of the processes", find("container_processes") == Some(1), "another number");
    Ok(())
}

/// Every message of a stream, none of them empty.
async fn drain<T, R>(mut stream: Streaming<R>, items: impl Fn(R) -> Vec<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        let batch = items(message);
        anyhow::ensure!(!batch.is_empty(), "an empty batch");
        all.extend(batch);
    }
    Ok(all)
}

async fn streams(checks: &mut Checks, client: &mut Client, id: &str) -> Result<()> {
    let images = client.stream_images().await?;
    let runtime = &mut client.runtime;
    let stream = runtime.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await?.into_inner();
    let sandboxes = drain(stream, |m| m.pod_sandboxes).await?;
    let stream = runtime.stream_containers(StreamContainersRequest::default()).await?.into_inner();
    let containers = drain(stream, |m| m.containers).await?;
    let stream = runtime.stream_container_stats(StreamContainerStatsRequest::default()).await?.into_inner();
    let stats = drain(stream, |m| m.container_stats).await?;
    let stream = runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest::default()).await?;
    let pod_stats = drain(stream.into_inner(), |m| m.pod_sandbox_stats).await?;
    let stream = runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}).await?;
    let metrics = drain(stream.into_inner(), |m| m.pod_sandbox_metrics).await?;
    let images = drain(images, |m| m.images).await?;
    let found =
        [sandboxes.len(), containers.len(), stats.len(), pod_stats.len(), metrics.len(), images.len()];
    checks.that("the six streamed lists", found == [2, 5, 4, 2, 2, 1], format!("{found:?}"));
    let filter = PodSandboxFilter { id: id[..10].into(), ..Default::default() };
    let request = StreamPodSandboxesRequest { filter: Some(filter) };
    let some = drain(runtime.stream_pod_sandboxes(request).await?.into_inner(), |m| m.pod_sandboxes).await?;
    checks.that("  with a filter", some.len() == 1 && some[0].id == id, some.len());
    let filter = PodSandboxFilter { id: "0123".into(), ..Default::default() };
    let request = StreamPodSandboxesRequest { filter: Some(filter) };
    let none = drain(runtime.stream_pod_sandboxes(request).await?.into_inner(), |m| m.pod_sandboxes).await?;
    checks.that("  an empty one ends at once", none.is_empty(), none.len());
    Ok(())
}

/// What was told meanwhile, up to the pod's removal.
async fn told(
    checks: &mut Checks,
    events: &mut Streaming<ContainerEventResponse>,
    id: &str,
    busy: &str,
    idle: &str,
) -> Result<()> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), events.message()).await;
        let event = next.context("waited 30 s for an event")??.context("the stream ended")?;
        anyhow::ensure!(event.created_at >= at, "an event from before the last");
        at = event.created_at;
        let last = event.container_id == id
            && event.container_event_type() == ContainerEventType::ContainerDeletedEvent;
        all.push(event);
        if last {
            break;
        }
    }
    use ContainerEventType::*;
    let whole = [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];
    for (what, of) in [("of a sandbox", id), ("of a container", busy), ("of one that ended by itself", idle)]
    {
        let kinds: Vec<_> =
            all.iter().filter(|e| e.container_id == of).map(|e| e.container_event_type()).collect();
        checks.that(
            &format!("every step in the life {what} is told, in order"),
            kinds == whole,
            format!("{kinds:?}"),
        );
    }
    let stopped =
        all.iter().find(|e| e.container_id == busy && e.container_event_type() == ContainerStoppedEvent);
    let code = stopped.and_then(|e| e.containers_statuses.iter().find(|c| c.id == busy)).map(|c| c.exit_code);
    let pod = stopped.and_then(|e| e.pod_sandbox_status.as_ref()).map(|s| s.id.as_str());
    checks.that(
        "  an end with its status and its pod",
        code == Some(137) && pod == Some(id),
        format!("{code:?} {pod:?}"),
    );
    Ok(())
}
