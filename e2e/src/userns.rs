//! Pods with a user namespace of their own: root inside is nobody outside, and everything else works as without.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use crate::checks::{Checks, until};
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;
use crate::pty::Pty;

/// Host ids of the pod's 0 to 65535.
const BASE: u32 = 700_000;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &mut daemon).await;
    daemon.finish(done).await
}

fn map(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping { host_id, container_id, length }
}

fn mapped(name: &str, daemon: &Daemon, maps: &[IdMapping]) -> PodSandboxConfig {
    let userns = UserNamespace { mode: NamespaceMode::Pod.into(), uids: maps.to_vec(), gids: maps.to_vec() };
    let options = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(userns),
        ..Default::default()
    };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    PodSandboxConfig { linux: Some(linux), ..pod(name, &daemon.path("logs")) }
}

fn options(config: &mut PodSandboxConfig) -> Result<&mut NamespaceOption> {
    let security = config.linux.as_mut().and_then(|l| l.security_context.as_mut());
    security.and_then(|s| s.namespace_options.as_mut()).context("no namespace options")
}

async fn pid_of(client: &mut Client, container: &str) -> Result<i64> {
    let request = ContainerStatusRequest { container_id: container.into(), verbose: true };
    let info = client.runtime.container_status(request).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose info")?)?;
    info["pid"].as_i64().context("no pid")
}

async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let status = client.runtime.status(StatusRequest::default()).await?.into_inner();
    let able = status.runtime_handlers.iter().all(|h| h.features.as_ref().is_some_and(|f| f.user_namespaces));
    checks.that("the handlers say that they have user namespaces", able, format!("{status:?}"));
    refusals(checks, daemon, &mut client).await?;
    inside(checks, daemon, &mut client).await?;
    shared(checks, daemon, &mut client).await?;
    host_network(checks, daemon, &mut client).await?;
    streams(checks, daemon, &mut client).await
}

async fn refusals(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let node = NamespaceMode::Node;
    let good = [map(0, BASE, 65536)];
    let with = |change: fn(&mut NamespaceOption, NamespaceMode)| -> Result<PodSandboxConfig> {
        let mut config = mapped("bad", daemon, &good);
        change(options(&mut config)?, node);
        Ok(config)
    };
    for (what, config, field) in [
        (
            "two mappings of one id",
            mapped("bad", daemon, &[map(0, 1000, 10), map(0, 2000, 10)]),
            "uids[1].container_id",
        ),
        ("root is not mapped", mapped("bad", daemon, &[map(1, 1000, 10)]), "userns_options.uids"),
        ("root is the host's root", mapped("bad", daemon, &[map(0, 0, 10)]), "uids[0].host_id"),
        ("no mapping", mapped("bad", daemon, &[]), "userns_options.uids"),
        ("with the host's IPC", with(|o, node| o.ipc = node.into())?, "namespace_options.ipc"),
        ("with the host's processes", with(|o, node| o.pid = node.into())?, "namespace_options.pid"),
    ] {
        let said = client.run_pod(&config).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
        checks.that(&format!("refused, with its field: {what}"), said.contains(field), said);
    }
    Ok(())
}

async fn inside(checks: &mut Checks, daemon: &mut Daemon, client: &mut Client) -> Result<()> {
    let maps = [map(0, BASE, 65536)];
    let mut config = mapped("mapped", daemon, &maps);
    if let Some(linux) = &mut config.linux {
        linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
        linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    }
    let id = client.run_pod(&config).await?;

    let volume = daemon.path("volume");
    std::fs::create_dir_all(&volume)?;
    std::fs::write(volume.join("of-root"), "x")?;
    let plain = daemon.path("plain");
    std::fs::create_dir_all(&plain)?;
    let mount = |host: &std::path::Path, target: &str| Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: target.into(),
        ..Default::default()
    };
    let mut spec = args(&["sleep", "1000"]);
    spec.mounts = vec![
        Mount { uid_mappings: maps.to_vec(), gid_mappings: maps.to_vec(), ..mount(&volume, "/volume") },
        mount(&plain, "/plain"),
    ];
    let main = client.run(&id, &config, "main", spec).await?;

    let seen = client.out(&main, &["cat", "/proc/self/uid_map", "/proc/self/gid_map"]).await?;
    let line = format!("0 {BASE} 65536");
    let lines: Vec<String> =
        seen.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    checks.that("ids are mapped, also for an exec", lines == [line.clone(), line], &seen);
    let pid = pid_of(client, &main).await?;
    let outside = std::fs::metadata(format!("/proc/{pid}/root/proc/1"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uids = format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}");
    checks.that("root inside is nobody outside: the process", status.contains(&uids), &status);
    checks.that("  and its /proc", outside.uid() == BASE, outside.uid());
    for kind in ["net", "ipc", "uts", "mnt", "pid", "cgroup"] {
        // What a namespace's owner may do tells whose it is: entering from the host is for root alone, so ask the kernel.
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/{kind}"))?;
        let owner = berth_sys::userns::owner_of(std::os::fd::AsFd::as_fd(&namespace))?;
        let (owner, pods) =
            (std::fs::File::from(owner).metadata()?, std::fs::metadata(format!("/proc/{pid}/ns/user"))?);
        checks.that(
            &format!("  its user namespace owns the {kind} namespace"),
            owner.ino() == pods.ino(),
            owner.ino(),
        );
    }

    for (what, path, expected) in [
        ("an image's file is root's inside", "/guest", "0 0 100755"),
        ("  a volume's with mappings as well", "/volume/of-root", "0 0 100644"),
        ("  one without is nobody's", "/plain", "65534 65534"),
        ("  the pod's files are root's", "/etc/hosts", "0 0 100644"),
        ("  and its shared memory", "/dev/shm", "0 0 41777"),
    ] {
        let seen = client.out(&main, &["stat", path]).await?;
        checks.that(what, seen.starts_with(expected), &seen);
    }
    for path in ["/new", "/volume/new", "/dev/shm/new", "/guest-copy"] {
        client.out(&main, &["write", path, "text"]).await?;
    }
    let written = std::fs::metadata(volume.join("new"))?;
    checks.that("written to the volume: root's on disk", written.uid() == 0, written.uid());
    let upper = daemon.path("root/images/containers").join(&main).join("fs/new");
    let upper = std::fs::metadata(upper)?;
    checks.that("written to the root: the mapped root's on disk", upper.uid() == BASE, upper.uid());
    let refused = client.exec(&main, &["write", "/plain/new", "text"]).await?;
    checks.that("written to somebody else's directory: refused", refused.exit_code == 1, refused.exit_code);
    client.out(&main, &["chown", "/new", "33"]).await?;

    for path in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"] {
        let seen = client.out(&main, &["stat", path]).await?;
        checks.that(&format!("{path} is a device"), seen.contains(" 20666 "), &seen);
    }
    client.out(&main, &["write", "/dev/null", "text"]).await?;
    let mounts = client.out(&main, &["cat", "/proc/self/mounts"]).await?;
    let kinds = ["proc /proc", "sysfs /sys", "devpts /dev/pts", "mqueue /dev/mqueue", "cgroup"];
    checks.that(
        "proc, sysfs, devpts, mqueue and cgroups are there",
        kinds.iter().all(|k| mounts.contains(k)),
        &mounts,
    );
    let port = client.out(&main, &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).await?;
    let rmid = client.out(&main, &["cat", "/proc/sys/kernel/shm_rmid_forced"]).await?;
    checks.that("sysctls of both its namespaces are set", (port.trim(), rmid.trim()) == ("7", "1"), port);
    let host = client.out(&main, &["cat", "/proc/sys/kernel/hostname"]).await?;
    checks.that("it has its name", host.trim() == "mapped", host);
    let written = client.exec(&main, &["write", "/proc/sys/kernel/core_pattern", "x"]).await?;
    checks.that("the host's sysctls are out of reach", written.exit_code == 1, written.exit_code);

    let mut user = args(&["sleep", "1000"]);
    user.security.run_as_user = Some(Int64Value { value: 33 });
    user.security.supplemental_groups = vec![77];
    user.security.no_new_privs = true;
    let user = client.run(&id, &config, "user", user).await?;
    let pid = pid_of(client, &user).await?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let expected = format!("Groups:\t{} {} {}", BASE + 33, BASE + 50, BASE + 77);
    checks.that("another user, and its groups", status.contains(&expected), &status);
    client.out(&user, &["write", "/dev/stdout", "by", "path"]).await?;

    let mut unmapped = args(&["true"]);
    unmapped.security.run_as_user = Some(Int64Value { value: 65536 });
    let said = client.create(&id, &config, "unmapped", unmapped).await.err();
    let said = said.map(|e| format!("{e:#}")).unwrap_or_default();
    checks.that("a user that is not mapped: refused", said.contains("run_as_user"), said);

    daemon.kill()?;
    *client = daemon.start().await?;
    let again = client.run(&id, &config, "after-restart", args(&["stat", "/guest"])).await?;
    client.ended(&again).await?;
    let log = std::fs::read_to_string(daemon.path("logs/mapped/after-restart.log"))?;
    checks.that(
        "a container after the daemon's restart is mapped as well",
        log.contains(" 0 0 100755"),
        &log,
    );
    client.out(&main, &["true"]).await?;
    client.remove_pod(&id).await
}

async fn shared(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let mut config = mapped("together", daemon, &[map(0, BASE, 1000), map(1000, BASE + 5000, 64536)]);
    options(&mut config)?.pid = NamespaceMode::Pod.into();
    let id = client.run_pod(&config).await?;
    let spec = |seconds: &str| {
        let mut spec: Spec = args(&["sleep", seconds]);
        spec.security.namespace_options = None;
        spec
    };
    let first = client.run(&id, &config, "first", spec("1000")).await?;
    let second = client.run(&id, &config, "second", spec("2000")).await?;
    let seen = client.out(&second, &["pids"]).await?;
    checks.that("a shared pid namespace, two lines of mappings", seen.contains("sleep 1000"), &seen);
    let debug = Spec {
        security: LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption {
                pid: NamespaceMode::Target.into(),
                target_id: first,
                ..Default::default()
            }),
            ..Default::default()
        },
        ..spec("3000")
    };
    let debug = client.run(&id, &config, "debug", debug).await?;
    let seen = client.out(&debug, &["pids"]).await?;
    checks.that("  and one joined by TARGET", seen.contains("sleep 2000"), &seen);
    client.remove_pod(&id).await
}

async fn host_network(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let mut config = mapped("host-net", daemon, &[map(0, BASE, 65536)]);
    options(&mut config)?.network = NamespaceMode::Node.into();
    let id = client.run_pod(&config).await?;
    let mut spec = args(&["sleep", "1000"]);
    spec.security.namespace_options = None;
    let main = client.run(&id, &config, "main", spec).await?;
    let inside = client.out(&main, &["link", "/proc/self/ns/net"]).await?;
    let host = std::fs::read_link("/proc/self/ns/net")?;
    checks.that("with the host's network", inside.trim() == host.to_string_lossy(), &inside);
    let seen = client.out(&main, &["ls", "/sys/class/net"]).await?;
    checks.that("  whose interfaces are in /sys", seen.contains("lo"), &seen);
    client.remove_pod(&id).await
}

/// Terminals are of the pod's devpts, and pipes are given to whom the program runs as.
async fn streams(checks: &mut Checks, daemon: &Daemon, client: &mut Client) -> Result<()> {
    let config = mapped("streams", daemon, &[map(0, BASE, 65536)]);
    let id = client.run_pod(&config).await?;
    let mut spec = args(&["sleep", "1000"]);
    spec.security.run_as_user = Some(Int64Value { value: 33 });
    let main = client.run(&id, &config, "main", spec).await?;
    let mut pty = Pty::start(&daemon.typed(&["exec", "-it", &main, "/guest", "talk"])?, 90, 20)?;
    pty.expect("a terminal").await?;
    pty.send("size\rexit 3\r")?;
    let code = pty.ended().await?;
    let holds = code == Some(3) && pty.seen().contains("size 90 20");
    checks.that("exec at a terminal", holds, format!("{code:?} {}", pty.seen()));
    let said = daemon.typed(&["exec", &main, "/guest", "stat", "/proc/self/fd/1"])?.output()?;
    checks.that("exec over pipes", said.status.success(), String::from_utf8_lossy(&said.stderr));
    // To open it anew is for its owner alone.
    let said = daemon.typed(&["exec", &main, "/guest", "write", "/dev/stdout", "anew"])?.output()?;
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    checks.that("  whose owner is the program's user", out == "anew", format!("{out} {err}"));
    let mut spec = args(&["talk"]);
    (spec.tty, spec.stdin) = (true, true);
    let talks = client.run(&id, &config, "talks", spec).await?;
    let mut pty = Pty::start(&daemon.typed(&["attach", &talks])?, 90, 20)?;
    until("the attach", || async {
        let seen = pty.seen().contains("said here");
        if !seen {
            std::io::Write::write_all(&mut pty.keys(), b"here\r")?;
        }
        Ok(seen.then_some(()))
    })
    .await?;
    pty.send("exit 4\r")?;
    let code = pty.ended().await?;
    checks.that("attach to a terminal", code == Some(4), format!("{code:?} {}", pty.seen()));
    client.remove_pod(&id).await
}
