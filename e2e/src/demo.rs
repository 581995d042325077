//! What a newcomer sees first: real pods, one claim a line, each checked.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use crate::checks::{Checks, until};
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;

/// The body of an HTTP answer, asked from the host.
async fn get(ip: &str) -> Result<String> {
    let address = format!("{ip}:80").parse()?;
    until("an answer on port 80", || async move {
        tokio::task::spawn_blocking(move || {
            let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else {
                return Ok(None);
            };
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()))
        })
        .await?
    })
    .await
}

/// A counter of the container's cgroup, by its v1 or v2 name.
fn throttled(daemon: &Daemon, pod: &str, container: &str) -> Result<u64> {
    let below = format!("berth-{}/{pod}/{container}/cpu.stat", daemon.name());
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"] {
        if let Ok(text) = std::fs::read_to_string(format!("{root}/{below}")) {
            let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            return Ok(line.context("cpu.stat has no nr_throttled")?.trim().parse()?);
        }
    }
    anyhow::bail!("no cpu.stat of the container")
}

pub(crate) async fn run(checks: &mut Checks, image: Option<&str>) -> Result<()> {
    println!("\n  Berth: pods on this machine, nothing else installed\n");
    let mut daemon = Daemon::new().await?;
    let mut done = show(checks, &mut daemon).await;
    if let (Ok(()), Some(image)) = (&done, image) {
        done = pulled(checks, &daemon, image).await;
    }
    daemon.finish(done).await
}

async fn show(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    checks.that("a daemon runs in a private place, an image is imported", true, "");

    let (first, second) = (pod("first", &daemon.path("logs")), pod("second", &daemon.path("logs")));
    let a = client.run_pod(&first).await?;
    let web = client.run(&a, &first, "web", args(&["http", "80", "first"])).await?;
    let side = client.run(&a, &first, "side", args(&["sleep", "1000"])).await?;
    checks.that("a pod with two containers", true, "");

    let heard = until("the web server", || {
        let (mut client, side) = (client.clone(), side.clone());
        async move { Ok(client.out(&side, &["get", "127.0.0.1:80"]).await.ok()) }
    })
    .await?;
    checks.that("  they share localhost", heard.trim() == "first", &heard);
    client.out(&web, &["write", "/dev/shm/note", "shared"]).await?;
    let note = client.out(&side, &["cat", "/dev/shm/note"]).await?;
    checks.that("  they share memory (/dev/shm)", note == "shared", &note);
    let pids = client.out(&side, &["pids"]).await?;
    let own = pids.contains("1 /guest sleep") && !pids.contains("http");
    checks.that("  neither sees the other's processes", own, &pids);
    client.out(&web, &["write", "/only-web", "x"]).await?;
    let seen = client.exec(&side, &["cat", "/only-web"]).await?;
    checks.that("  nor the other's files", seen.exit_code != 0, seen.exit_code);

    let ip = client.pod_ip(&a).await?;
    let answer = get(&ip).await?;
    checks.that(&format!("the host reaches the pod over the bridge at {ip}"), answer == "first", &answer);

    let b = client.run_pod(&second).await?;
    let other = client.run(&b, &second, "web", args(&["http", "80", "second"])).await?;
    let other_ip = client.pod_ip(&b).await?;
    let answer = get(&other_ip).await?;
    checks.that("a second pod listens on port 80 as well", answer == "second", &answer);
    let answer = client.out(&side, &["get", &format!("{other_ip}:80")]).await?;
    checks.that("one pod reaches the other", answer.trim() == "second", &answer);

    let greeting = client.out(&other, &["cat", "/greeting"]).await?;
    client.out(&other, &["write", "/greeting", "changed"]).await?;
    let (here, there) =
        (client.out(&other, &["cat", "/greeting"]).await?, client.out(&side, &["cat", "/greeting"]).await?);
    let copied = here == "changed" && there == greeting;
    checks.that("a written file is the container's own copy (overlay)", copied, format!("{here} / {there}"));

    limits(checks, daemon, &mut client, (&b, &second)).await?;

    daemon.import("berth.test/other:1", "another top layer").await?;
    let layers = std::fs::read_dir(daemon.path("root").join("images/layers"))?.count();
    checks.that("a second image shares its lower layer: 3 on disk, not 4", layers == 3, layers);

    survive(checks, daemon, (&a, &first)).await
}

/// `--image`: somebody else's image from its registry, with the command it brings.
async fn pulled(checks: &mut Checks, daemon: &Daemon, image: &str) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.pull(image).await.with_context(|| format!("pull of {image}"))?;
    checks.that(&format!("pulled {image}"), true, &id);
    let config = pod("pulled", &daemon.path("logs"));
    let pod = client.run_pod(&config).await?;
    let container = client.run(&pod, &config, "main", Spec { image: Some(id), ..args(&[]) }).await?;
    let status = client.status(&container).await?;
    let state = ContainerState::try_from(status.state)?;
    let ran = state == ContainerState::ContainerRunning || status.exit_code == 0;
    checks.that(&format!("  its own command: {}", state.as_str_name()), ran, format!("{status:?}"));
    let log = std::fs::read_to_string(daemon.path("logs/pulled/main.log")).unwrap_or_default();
    log.lines().take(5).for_each(|line| println!("      {line}"));
    client.remove_pod(&pod).await
}

async fn limits(
    checks: &mut Checks,
    daemon: &Daemon,
    client: &mut Client,
    (id, config): (&str, &PodSandboxConfig),
) -> Result<()> {
    let mut hungry = args(&["alloc", "200"]);
    hungry.resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() });
    let hungry = client.run(id, config, "hungry", hungry).await?;
    let status = client.ended(&hungry).await?;
    let killed = status.reason == "OOMKilled" && status.exit_code == 137;
    checks.that("32 MiB of memory end what takes 200: OOMKilled, 137", killed, format!("{status:?}"));

    let mut busy = args(&["spin", "1000"]);
    busy.resources =
        Some(LinuxContainerResources { cpu_period: 10_000, cpu_quota: 1_000, ..Default::default() });
    let busy = client.run(id, config, "busy", busy).await?;
    let count = until("throttling", || {
        let count = throttled(daemon, id, &busy);
        async move { count.map(|n| (n > 5).then_some(n)) }
    })
    .await?;
    checks.that(
        &format!("a tenth of a processor throttles what wants one ({count} times)"),
        count > 5,
        count,
    );
    client.stop(&busy, Duration::ZERO).await
}

/// Whole lines of a log.
fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(" stdout F line "))
        .count()
}

async fn survive(
    checks: &mut Checks,
    daemon: &mut Daemon,
    (id, config): (&str, &PodSandboxConfig),
) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let counter = client.run(id, config, "counter", args(&["count", "10"])).await?;
    let brief = client.run(id, config, "brief", args(&["sleep", "1"])).await?;
    let log = daemon.path("logs").join("first/counter.log");
    until("the first lines", || async { Ok((lines(&log) > 2).then_some(())) }).await?;
    daemon.kill()?;
    let before = lines(&log);
    until("the log to grow", || async { Ok((lines(&log) > before + 100).then_some(())) }).await?;
    checks.that("the daemon is killed with -9; the pod's log goes on", true, "");
    let mut client = daemon.start().await?;
    let status = client.status(&counter).await?;
    let runs = status.state == i32::from(ContainerState::ContainerRunning);
    checks.that("the next daemon adopts the pod", runs, format!("{status:?}"));
    let status = client.ended(&brief).await?;
    let known =
        status.exit_code == 0 && status.reason == "Completed" && status.finished_at > status.started_at;
    checks.that("and knows what ended meanwhile: Completed, 0", known, format!("{status:?}"));
    let numbers = std::fs::read_to_string(&log)?;
    let whole = numbers.lines().enumerate().all(|(n, line)| line.ends_with(&format!(" stdout F line {n}")));
    checks.that("no line of its log is missing", whole, "a gap");
    Ok(())
}
