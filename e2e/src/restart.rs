//! The daemon killed while idle and in the middle of each verb: afterwards a retry succeeds and nothing is left over.

use std::time::Duration;

use anyhow::Result;
use berth_cri_api::v1::*;

use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;
use crate::image;
use crate::registry::Registry;

/// Moments after the request at which the daemon dies; a verb takes some milliseconds.
const MOMENTS: [u64; 8] = [0, 1, 2, 4, 7, 11, 16, 25];

pub(crate) async fn run(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = all(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn all(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let before = Footprint::take(daemon)?;
    idle(checks, daemon).await?;
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        for verb in ["run", "create", "start", "stop", "stop-pod", "remove"] {
            let name = format!("{verb}-{number}");
            let result = cut(daemon, verb, &name, Duration::from_millis(moment)).await;
            let result = result.and(clear(daemon).await);
            checks.note(&format!("killed {moment} ms into {verb}: a retry succeeds, the pod goes"), result);
        }
    }
    exec(checks, daemon).await?;
    images(checks, daemon).await?;
    reboot(checks, daemon).await?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    checks.that("no pod is left in the list", pods.is_empty(), format!("{} pods", pods.len()));
    let containers =
        client.runtime.list_containers(ListContainersRequest::default()).await?.into_inner().containers;
    checks.that("nor a container", containers.is_empty(), format!("{} containers", containers.len()));
    checks.note("nor a directory, a row or a descriptor", given_back(daemon, &before).await);
    Ok(())
}

async fn idle(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let config = pod("idle", &daemon.path("logs"));
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&config).await?;
    let runs = client.run(&id, &config, "runs", args(&["sleep", "1000"])).await?;
    let made = client.create(&id, &config, "made", args(&["sleep", "1000"])).await?;
    let fails = client.run(&id, &config, "fails", args(&["exit", "3"])).await?;
    client.ended(&fails).await?;
    let ip = client.pod_ip(&id).await?;
    daemon.kill()?;
    let mut client = daemon.start().await?;
    let state =
        |s: &ContainerStatus| ContainerState::try_from(s.state).map_or("?", |s| s.as_str_name()).to_owned();
    for (what, id, expected) in [
        ("running", &runs, "CONTAINER_RUNNING"),
        ("created", &made, "CONTAINER_CREATED"),
        ("exited", &fails, "CONTAINER_EXITED"),
    ] {
        let status = client.status(id).await?;
        checks.that(
            &format!("killed while idle: a {what} container is still {what}"),
            state(&status) == expected,
            state(&status),
        );
    }
    let code = client.status(&fails).await?.exit_code;
    checks.that("its exit code is kept", code == 3, code);
    let still = client.pod_ip(&id).await?;
    checks.that("the pod keeps its address", still == ip && !ip.is_empty(), still);
    client.start(&made).await?;
    checks.that("what was created before can be started", true, "");
    let again = client.run_pod(&config).await?;
    checks.that("the same RunPodSandbox gives the same pod", again == id, again);
    client.remove_pod(&id).await
}

/// Nobody is left to hear what an ExecSync of a dead daemon says: its process ends, the container does not.
async fn exec(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let config = pod("exec", &daemon.path("logs"));
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&config).await?;
    let container = client.run(&id, &config, "main", args(&["sleep", "1000"])).await?;
    let call = {
        let (mut client, container) = (client.clone(), container.clone());
        tokio::spawn(async move { client.exec(&container, &["sleep", "3000"]).await.is_ok() })
    };
    let sees = |client: &Client, what: bool| {
        let (mut client, container) = (client.clone(), container.clone());
        async move { Ok((client.out(&container, &["pids"]).await?.contains("sleep 3000") == what).then_some(())) }
    };
    until("the exec to run", || sees(&client, true)).await?;
    daemon.kill()?;
    let answered = call.await?;
    let client = daemon.start().await?;
    checks.that("killed in an ExecSync: its caller hears of an error", !answered, "an answer");
    checks.note(
        "  its process ends",
        until("the exec's end", || sees(&client, false)).await.map_err(|e| format!("{e:#}")),
    );
    let status = client.clone().status(&container).await?;
    let runs = status.state == i32::from(ContainerState::ContainerRunning);
    checks.that("  the container runs", runs, format!("{status:?}"));
    client.clone().remove_pod(&id).await
}

/// Pulls and removals of images, cut off at any moment: the same again succeeds. What is left over shows at the end.
async fn images(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let registry = Registry::start(false).await?;
    let archive = daemon.path("pulled.tar");
    let name = format!("{}/lane/big:1", registry.host());
    // Not to be compressed, so that the pull takes as long as it must.
    image::write_bytes(&archive, "lane/big:1", &noise(24 << 20))?;
    registry.push(&archive, "lane/big:1")?;
    for moment in [5, 20, 60, 120, 200, 300] {
        let mut client = Client::connect(&daemon.socket()).await?;
        let first = {
            let (mut client, name) = (client.clone(), name.clone());
            tokio::spawn(async move { client.pull(&name).await.is_ok() })
        };
        tokio::time::sleep(Duration::from_millis(moment)).await;
        daemon.kill()?;
        first.await?;
        client = daemon.start().await?;
        let again = client.pull(&name).await;
        checks.note(&format!("killed {moment} ms into a pull: a retry succeeds"), again.as_ref().map(drop));
        let removal = {
            let (mut client, name) = (client.clone(), name.clone());
            tokio::spawn(async move { client.remove_image(&name).await.is_ok() })
        };
        tokio::time::sleep(Duration::from_millis(moment / 10)).await;
        daemon.kill()?;
        removal.await?;
        let again = daemon.start().await?.remove_image(&name).await;
        checks.note(&format!("killed {} ms into its removal: a retry succeeds", moment / 10), again);
    }
    Ok(())
}

/// Bytes without a pattern, always the same (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// What a boot does, as far as a test may: every process of ours gone at once, another boot id in the kernel than in the
/// database.
async fn reboot(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let config = pod("boot", &daemon.path("logs"));
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&config).await?;
    let runs = client.run(&id, &config, "runs", args(&["sleep", "1000"])).await?;
    daemon.kill()?;
    daemon.kill_shims()?;
    let store = rusqlite::Connection::open(daemon.path("root/berth.db"))?;
    let rows = store.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'", [])?;
    anyhow::ensure!(rows == 1, "the database has no boot id");
    drop(store);
    let mut client = daemon.start().await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
    let not_ready = status.state == i32::from(PodSandboxState::SandboxNotready);
    checks.that("a new boot: the pod is not ready", not_ready, format!("{status:?}"));
    let status = client.status(&runs).await?;
    let unknown = status.state == i32::from(ContainerState::ContainerExited)
        && (status.exit_code, status.reason.as_str()) == (255, "Unknown");
    checks.that("  its container is exited: Unknown, 255", unknown, format!("{status:?}"));
    client.remove_pod(&id).await?;
    let id = client.run_pod(&config).await?;
    client.run(&id, &config, "runs", args(&["sleep", "1000"])).await?;
    checks.that("  the images are intact: the pod runs again", true, "");
    client.remove_pod(&id).await
}

/// Sends a verb, kills the daemon, starts it again, and does what a kubelet would: the same once more.
async fn cut(daemon: &mut Daemon, verb: &str, name: &str, moment: Duration) -> Result<()> {
    let config = pod(name, &daemon.path("logs"));
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = match verb {
        "run" => None,
        _ => Some(client.run_pod(&config).await?),
    };
    let container = match (verb, &before) {
        ("start" | "stop" | "stop-pod" | "remove", Some(id)) => {
            let made = client.create(id, &config, "c", args(&["sleep", "1000"])).await?;
            if verb != "start" {
                client.start(&made).await?;
            }
            Some(made)
        }
        _ => None,
    };
    let request = {
        let (mut client, config, verb) = (client.clone(), config.clone(), verb.to_owned());
        let (before, container) = (before.clone(), container.clone());
        tokio::spawn(async move {
            once(&mut client, &verb, &config, before.as_deref(), container.as_deref()).await
        })
    };
    tokio::time::sleep(moment).await;
    daemon.kill()?;
    // Whatever the first call says: it may have ended, been cut off, or never arrived.
    let _ = request.await?;
    let mut client = daemon.start().await?;
    match verb {
        // A start that came through is no error of the second one's caller; it finds the container running.
        "start" => {
            let id = container.clone().unwrap_or_default();
            if client.status(&id).await?.state == i32::from(ContainerState::ContainerCreated) {
                client.start(&id).await?;
            }
            let running = client.status(&id).await?.state == i32::from(ContainerState::ContainerRunning);
            anyhow::ensure!(running, "the container does not run");
        }
        _ => once(&mut client, verb, &config, before.as_deref(), container.as_deref()).await?,
    }
    Ok(())
}

/// At most the one pod is there, and it can be removed.
async fn clear(daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let count = pods.len();
    for pod in pods {
        client.remove_pod(&pod.id).await?;
    }
    anyhow::ensure!(count <= 1, "{count} pods are listed");
    Ok(())
}

async fn once(
    client: &mut Client,
    verb: &str,
    config: &PodSandboxConfig,
    pod: Option<&str>,
    container: Option<&str>,
) -> Result<()> {
    let (pod, container) = (pod.unwrap_or_default(), container.unwrap_or_default());
    match verb {
        "run" => drop(client.run_pod(config).await?),
        "create" => drop(client.create(pod, config, "c", args(&["sleep", "1000"])).await?),
        "start" => client.start(container).await?,
        "stop" => client.stop(container, Duration::from_secs(1)).await?,
        "stop-pod" => {
            let request = StopPodSandboxRequest { pod_sandbox_id: pod.into() };
            client.runtime.stop_pod_sandbox(request).await?;
        }
        _ => client.remove_pod(pod).await?,
    }
    Ok(())
}
