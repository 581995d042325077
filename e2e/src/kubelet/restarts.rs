//! kill -9 of the kubelet, of Berth, of both, at rest and in the middle: pods run on, nothing is started twice.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use berth_cri_api::v1::*;
use serde_json::json;

use super::logind::Logind;
use super::node::{Node, id_of, status_of};
use crate::checks::{Checks, within};

const STEADY: [&str; 3] = ["served", "volumes", "mapped"];

/// What must not change: each container's id, count of restarts and process.
async fn picture(node: &Node) -> Result<BTreeMap<String, (String, u64, i64)>> {
    let mut seen = BTreeMap::new();
    for name in STEADY {
        let pod = node.ready(name).await?;
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            let container = container["name"].as_str().context("no name")?;
            let restarts = status_of(&pod, container)["restartCount"].as_u64().context("no restartCount")?;
            let one = (id_of(&pod, container)?, restarts, node.pid(&pod, container).await?);
            seen.insert(format!("{name}/{container}"), one);
        }
    }
    Ok(seen)
}

/// The sandboxes of each pod.
async fn sandboxes(node: &Node) -> Result<BTreeMap<String, usize>> {
    let pods = node.client.clone().runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
    let mut seen = BTreeMap::new();
    for pod in pods.into_inner().items {
        *seen.entry(pod.metadata.unwrap_or_default().name).or_insert(0) += 1;
    }
    Ok(seen)
}

#[derive(Clone, Copy)]
enum Killed {
    Kubelet,
    Berth,
    Both,
}

impl Killed {
    async fn kill(self, node: &mut Node) -> Result<()> {
        match self {
            Self::Kubelet => {
                node.kill()?;
                node.start().await
            }
            Self::Berth => node.restart_daemon().await,
            Self::Both => {
                node.kill()?;
                node.restart_daemon().await?;
                node.start().await
            }
        }
    }
}

/// A new pod comes and goes: the node works.
async fn works(node: &Node, name: &str) -> Result<()> {
    node.put(name, &json!({ "containers": [{ "name": "main", "args": ["pause"] }] }))?;
    node.ready(name).await?;
    node.remove(name)?;
    node.gone(name).await
}

pub(crate) async fn check(checks: &mut Checks, node: &mut Node) {
    for (what, name, killed) in [
        ("the kubelet", "after-kubelet", Killed::Kubelet),
        ("Berth", "after-berth", Killed::Berth),
        ("both", "after-both", Killed::Both),
    ] {
        feature!(checks, &format!("kill -9 of {what}: the pods run on, a new one comes and goes"), {
            let before = picture(node).await?;
            killed.kill(node).await?;
            works(node, name).await?;
            let after = picture(node).await?;
            ensure!(after == before, "{after:?} was {before:?}");
            let sandboxes = sandboxes(node).await?;
            let two: Vec<_> = sandboxes.iter().filter(|(_, count)| **count > 1).collect();
            ensure!(two.is_empty(), "pods with two sandboxes: {two:?}");
            Ok(())
        });
        feature!(checks, "  and in the middle of pods' starts and ends", {
            let names: Vec<String> = (0..4).map(|n| format!("{name}-{n}")).collect();
            for name in &names {
                node.put(
                    name,
                    &json!({
                    "initContainers": [{ "name": "init", "args": ["true"] }],
                    "containers": [{ "name": "main", "args": ["pause"] }] }),
                )?;
            }
            let half = |node: &Node| {
                let (client, name) = (node.client.clone(), names[0].clone());
                async move {
                    let request = ListPodSandboxRequest::default();
                    let pods = client.clone().runtime.list_pod_sandbox(request).await?.into_inner();
                    let is = |pod: &PodSandbox| {
                        pod.metadata.as_ref().is_some_and(|m| m.name.starts_with(&name[..8]))
                    };
                    Ok(pods.items.iter().any(is).then_some(()))
                }
            };
            within(60, "a sandbox of the new pods", || half(node)).await?;
            killed.kill(node).await?;
            for name in &names {
                let pod = node.ready(name).await?;
                same!(status_of(&pod, "main")["restartCount"], 0);
            }
            let ready = sandboxes(node).await?;
            let two: Vec<_> = ready.iter().filter(|(_, count)| **count > 1).collect();
            ensure!(two.is_empty(), "pods with two sandboxes: {two:?}");
            for name in &names {
                node.remove(name)?;
            }
            let ending = names[0].clone();
            node.until(&ending, "on its way out", |pod| {
                pod.is_null()
                    || !pod["metadata"]["deletionTimestamp"].is_null()
                    || !super::node::condition(pod, "Ready")
            })
            .await?;
            killed.kill(node).await?;
            for name in &names {
                node.gone(name).await?;
            }
            Ok(())
        });
    }
    away(checks, node).await;
}

/// What ends while the daemon is away.
async fn away(checks: &mut Checks, node: &mut Node) {
    feature!(checks, "a container that ends while Berth is away: restarted once, with its exit code", {
        let pod = node.ready("lively").await?;
        let before = status_of(&pod, "main")["restartCount"].as_u64().context("no restartCount")?;
        let pid = i32::try_from(node.pid(&pod, "main").await?)?;
        node.daemon.kill()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        node.client = node.daemon.start().await?;
        let pod = node
            .until("lively", "restarted", |pod| {
                let main = status_of(pod, "main");
                main["restartCount"].as_u64() > Some(before) && main["ready"] == true
            })
            .await?;
        same!(status_of(&pod, "main")["restartCount"], before + 1);
        same!(status_of(&pod, "main")["lastState"]["terminated"]["exitCode"], 137);
        Ok(())
    });
    feature!(checks, "no complaint of the kubelet about its PLEG", {
        let log = std::fs::read_to_string(node.log())?;
        // It says so of itself once, before its first list.
        let is = |line: &&str| line.contains("PLEG is not healthy") && !line.contains("yet to be successful");
        let bad: Vec<_> = log.lines().filter(is).take(3).collect();
        ensure!(bad.is_empty(), "{}", bad.join("\n"));
        Ok(())
    });
}

/// The same with the kubelet listening to Berth's events.
pub(crate) async fn evented(checks: &mut Checks, node: &mut Node) {
    feature!(checks, "evented PLEG: an end is seen, a pod comes and goes, the pods run on", {
        let before = picture(node).await?;
        node.kill()?;
        node.settings = json!({ "featureGates": { "EventedPLEG": true, "PLEGOnDemandRelist": true } });
        node.start().await?;
        works(node, "evented").await?;
        node.put("short", &json!({ "containers": [{ "name": "main", "args": ["exit", "3"] }] }))?;
        node.until("short", "restarted", |pod| status_of(pod, "main")["restartCount"].as_u64() >= Some(2))
            .await?;
        node.remove("short")?;
        node.gone("short").await?;
        let after = picture(node).await?;
        ensure!(after == before, "{after:?} was {before:?}");
        node.restart_daemon().await?;
        works(node, "evented-after").await?;
        ensure!(picture(node).await? == before, "changed with the daemon's restart");
        node.kill()?;
        node.settings = json!({});
        node.start().await
    });
}

/// The pods end in their grace periods, then the machine may go; it comes back, and they do.
pub(crate) async fn shutdown(checks: &mut Checks, node: &mut Node) {
    let mut before = BTreeMap::new();
    feature!(checks, "a shutdown of the node: every pod ends, preStop runs, then the kubelet lets go", {
        before = picture(node).await?;
        let socket = node.daemon.path("bus");
        let logind = Logind::start(&socket)?;
        node.kill()?;
        node.settings = json!({ "shutdownGracePeriod": "20s", "shutdownGracePeriodCriticalPods": "5s" });
        node.bus = Some(socket);
        node.start().await?;
        let host = node.daemon.path("host/hooks");
        node.put("farewell", &json!({
            "containers": [{ "name": "main", "args": ["pause"],
                "lifecycle": { "preStop": { "exec": { "command": ["/guest", "write", "/host/farewell", "said"] } } },
                "volumeMounts": [{ "name": "host", "mountPath": "/host" }] }],
            "volumes": [{ "name": "host", "hostPath": { "path": host } }],
            "terminationGracePeriodSeconds": 10,
        }))?;
        node.ready("farewell").await?;
        let mut listener = logind.listener()?;
        listener.prepare_for_shutdown()?;
        tokio::task::spawn_blocking(move || listener.released()).await??;
        has!(super::node::read(host.join("farewell"))?, "said");
        let list = ListContainersRequest::default();
        let all = node.client.clone().runtime.list_containers(list).await?.into_inner().containers;
        let running = i32::from(ContainerState::ContainerRunning);
        let left: Vec<_> = all.iter().filter(|c| c.state == running).map(|c| &c.id).collect();
        ensure!(left.is_empty(), "still running: {left:?}");
        let pod = node.pod("farewell").await?;
        has!(pod["status"]["message"].to_string(), "shutdown");
        Ok(())
    });
    feature!(checks, "  and the boot after it: each pod comes again, in one new sandbox", {
        node.kill()?;
        (node.settings, node.bus) = (json!({}), None);
        node.remove("farewell")?;
        boot(node, &before).await
    });
}

/// Every process gone at once and another boot, as far as a test may.
pub(crate) async fn reboot(checks: &mut Checks, node: &mut Node) {
    feature!(checks, "power lost: each pod comes again, in one new sandbox", {
        let before = picture(node).await?;
        node.kill()?;
        boot(node, &before).await
    });
}

async fn boot(node: &mut Node, before: &BTreeMap<String, (String, u64, i64)>) -> Result<()> {
    node.daemon.kill()?;
    // A shutdown may have ended them all.
    if !node.daemon.shims()?.is_empty() {
        node.daemon.kill_shims()?;
    }
    let store = rusqlite::Connection::open(node.daemon.path("root/berth.db"))?;
    let rows = store.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'", [])?;
    ensure!(rows == 1, "the database has no boot id");
    drop(store);
    node.client = node.daemon.start().await?;
    node.start().await?;
    let after = within(90, "the pods to be other ones", || async {
        let after = picture(node).await?;
        let other = |(name, now): (&String, &(String, u64, i64))| {
            before.get(name).is_some_and(|then| then.0 != now.0)
        };
        Ok(after.iter().all(other).then_some(after))
    })
    .await?;
    for (name, (_, restarts, _)) in &after {
        let then = before.get(name).map(|then| then.1).unwrap_or_default();
        ensure!(*restarts == then + 1, "{name}: {restarts} restarts, {then} before");
    }
    works(node, "after-boot").await
}
