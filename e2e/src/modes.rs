//! The crictl lane's pods of other kinds: the host's namespaces, shared and joined ones, privileged, a parent cgroup of the
//! caller's, a profile of the node's, a log that is rotated.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::security_profile::ProfileType;
use berth_cri_api::v1::*;

use crate::checks::{Checks, until};
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;

/// By itself, for machines without crictl.
pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &daemon).await;
    daemon.finish(done).await
}

pub(crate) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let client = &mut client;
    host_namespaces(checks, daemon, client).await?;
    pid_namespaces(checks, daemon, client).await?;
    privileged(checks, daemon, client).await?;
    cgroup_parent(checks, daemon, client).await?;
    localhost_profile(checks, daemon, client).await?;
    rotation(checks, daemon, client).await
}

fn spaces(network: NamespaceMode, ipc: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption { network: network.into(), ipc: ipc.into(), pid: pid.into(), ..Default::default() }
}

/// A pod and what its containers are to say of their namespaces.
fn with_spaces(name: &str, logs: &Path, spaces: &NamespaceOption) -> (PodSandboxConfig, Spec) {
    let security =
        LinuxSandboxSecurityContext { namespace_options: Some(spaces.clone()), ..Default::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    let mut spec = args(&["sleep", "1000"]);
    spec.security.namespace_options = Some(spaces.clone());
    (PodSandboxConfig { linux: Some(linux), ..pod(name, logs) }, spec)
}

fn of_host(kind: &str) -> Result<String> {
    Ok(std::fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned())
}

async fn host_namespaces(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    use NamespaceMode::{Container, Node, Pod};
    for (name, kind, spaces) in [
        ("host-net", "net", spaces(Node, Pod, Container)),
        ("host-ipc", "ipc", spaces(Pod, Node, Container)),
        ("host-pid", "pid", spaces(Pod, Pod, Node)),
    ] {
        let (config, spec) = with_spaces(name, &daemon.path("logs"), &spaces);
        let id = client.run_pod(&config).await?;
        let container = client.run(&id, &config, "main", spec).await?;
        let mut same = Vec::new();
        for kind in ["net", "ipc", "pid"] {
            let inside = client.out(&container, &["link", &format!("/proc/self/ns/{kind}")]).await?;
            if inside.trim() == of_host(kind)? {
                same.push(kind);
            }
        }
        checks.that(
            &format!("{name}: it shares the host's {kind} and nothing else"),
            same == [kind],
            format!("{same:?}"),
        );
        if kind == "net" {
            let ip = client.pod_ip(&id).await?;
            checks.that("  and has no address of its own", ip.is_empty(), ip);
        }
        client.remove_pod(&id).await?;
    }
    Ok(())
}

async fn pid_namespaces(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    use NamespaceMode::{Container, Pod, Target};
    let (config, spec) = with_spaces("shared-pid", &daemon.path("logs"), &spaces(Pod, Pod, Pod));
    let id = client.run_pod(&config).await?;
    let first = client.run(&id, &config, "first", spec.clone()).await?;
    let second = client
        .run(&id, &config, "second", Spec { args: vec!["sleep".into(), "2000".into()], ..spec })
        .await?;
    let seen = client.out(&second, &["pids"]).await?;
    checks.that("a shared pid namespace: each sees the other", seen.contains("sleep 1000"), &seen);
    client.stop(&first, std::time::Duration::ZERO).await?;
    let seen = client.out(&second, &["pids"]).await?;
    checks.that(
        "  one ends, the other does not",
        !seen.contains("sleep 1000") && seen.contains("sleep 2000"),
        &seen,
    );
    client.remove_pod(&id).await?;

    let (config, spec) = with_spaces("target", &daemon.path("logs"), &spaces(Pod, Pod, Container));
    let id = client.run_pod(&config).await?;
    let target = client.run(&id, &config, "target", spec.clone()).await?;
    let mut debugger = spec;
    let mut joined = spaces(Pod, Pod, Target);
    joined.target_id = target.clone();
    debugger.security.namespace_options = Some(joined);
    let debugger = client.run(&id, &config, "debugger", debugger).await?;
    let inside = client.out(&debugger, &["link", "/proc/self/ns/pid"]).await?;
    let theirs = client.out(&target, &["link", "/proc/self/ns/pid"]).await?;
    checks.that("a container in another's pid namespace (TARGET)", inside == theirs, &inside);
    client.remove_pod(&id).await
}

async fn privileged(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let mut config = pod("privileged", &daemon.path("logs"));
    let security = LinuxSandboxSecurityContext { privileged: true, ..Default::default() };
    config.linux = Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    let id = client.run_pod(&config).await?;
    let mut spec = args(&["sleep", "1000"]);
    spec.security.privileged = true;
    let container = client.run(&id, &config, "main", spec).await?;
    let inside = client.out(&container, &["cat", "/proc/self/status"]).await?;
    let outside = std::fs::read_to_string("/proc/self/status")?;
    let line = |text: &str, name: &str| text.lines().find(|l| l.starts_with(name)).map(str::to_owned);
    let all = line(&inside, "CapEff:").map(|l| l.replace("CapEff", "CapBnd")) == line(&outside, "CapBnd:");
    checks.that("privileged: every capability of the host", all, &inside);
    checks.that("  no filter", inside.contains("Seccomp:\t0"), &inside);
    let devices = client.out(&container, &["ls", "/dev"]).await?;
    checks.that("  the host's devices", devices.lines().any(|name| name == "kmsg"), &devices);
    client.remove_pod(&id).await
}

async fn cgroup_parent(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let parent = format!("/berth-{}/callers-own", daemon.name());
    let mut config = pod("parent", &daemon.path("logs"));
    config.linux = Some(LinuxPodSandboxConfig { cgroup_parent: parent.clone(), ..Default::default() });
    let id = client.run_pod(&config).await?;
    let container = client.run(&id, &config, "main", args(&["sleep", "1000"])).await?;
    let request = ContainerStatusRequest { container_id: container.clone(), verbose: true };
    let info = client.runtime.container_status(request).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose info")?)?;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", info["pid"]))?;
    // The hierarchies nobody gave a controller to count as well: whoever walks any of them finds the pod.
    let below = groups.lines().all(|line| line.ends_with(&format!("{parent}/{container}")));
    checks.that("a parent cgroup of the caller's, in every hierarchy", below, &groups);
    client.remove_pod(&id).await?;
    let left = groups.lines().filter_map(|line| line.split(':').nth(1));
    let mut removed = true;
    for controllers in left {
        let name = controllers.split(',').next_back().unwrap_or_default();
        let name = name.strip_prefix("name=").unwrap_or(if name.is_empty() { "unified" } else { name });
        for root in [format!("/sys/fs/cgroup/{name}"), "/sys/fs/cgroup".into()] {
            // Given by the caller, so the caller's to remove: it must be there, and empty.
            match std::fs::remove_dir(format!("{root}{parent}")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => removed = false,
                _ => {}
            }
        }
    }
    checks.that("  which is empty afterwards", removed, "a cgroup that could not be removed");
    Ok(())
}

async fn localhost_profile(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let profile = daemon.path("no-listing.json");
    let rule = serde_json::json!({ "names": ["getdents64"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 });
    std::fs::write(
        &profile,
        serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }).to_string(),
    )?;
    let config = pod("localhost", &daemon.path("logs"));
    let id = client.run_pod(&config).await?;
    let mut spec = args(&["sleep", "1000"]);
    spec.security.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: profile.to_string_lossy().into_owned(),
    });
    let container = client.run(&id, &config, "main", spec).await?;
    let refused = client.exec(&container, &["ls", "/"]).await?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    checks.that(
        "a seccomp profile of the node's",
        refused.exit_code == 1 && text.contains("os error 13"),
        text,
    );
    client.out(&container, &["cat", "/greeting"]).await?;
    client.remove_pod(&id).await
}

async fn rotation(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let config = pod("rotated", &daemon.path("logs"));
    let id = client.run_pod(&config).await?;
    let container = client.run(&id, &config, "main", args(&["count", "1"])).await?;
    let (log, old) = (daemon.path("logs/rotated/main.log"), daemon.path("logs/rotated/main.log.1"));
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    until("lines before", || async { Ok((lines(&log) > 20).then_some(())) }).await?;
    std::fs::rename(&log, &old)?;
    client
        .runtime
        .reopen_container_log(ReopenContainerLogRequest { container_id: container.clone() })
        .await?;
    until("lines after", || async { Ok((lines(&log) > 20).then_some(())) }).await?;
    client.stop(&container, std::time::Duration::ZERO).await?;
    let text = std::fs::read_to_string(&old)? + &std::fs::read_to_string(&log)?;
    let missing = text.lines().enumerate().find(|(n, line)| !line.ends_with(&format!(" F line {n}")));
    checks.that("a rotated log: no line missing, none twice", missing.is_none(), format!("{missing:?}"));
    let mode = |path: &str| std::fs::metadata(daemon.path(path)).map(|m| m.permissions().mode() & 0o777);
    let (above, directory, file) = (mode("logs")?, mode("logs/rotated")?, mode("logs/rotated/main.log")?);
    let modes = format!("{above:o} {directory:o} {file:o}");
    checks.that("  log collectors reach it: 755 and 640", modes == "755 755 640", &modes);
    client.remove_pod(&id).await
}
