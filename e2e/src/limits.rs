//! Limits to the letter: what a request says is in the kernel's files, on hosts with control groups v1 as well as v2, when a
//! container starts and when its limits change; what cannot be held is refused and leaves everything as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use crate::checks::Checks;
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;

const MIB: i64 = 1 << 20;

/// The control groups of a container's first process.
struct Groups {
    v2: bool,
    lines: Vec<(String, String)>,
}

impl Groups {
    async fn of(client: &mut Client, id: &str) -> Result<(Self, u32)> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
        let info = client.runtime.container_status(request).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose info")?)?;
        let pid = info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("no pid")?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let line = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
        };
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Ok((Self { v2, lines: text.lines().filter_map(line).collect() }, pid))
    }

    fn directory(&self, controller: &str) -> Result<PathBuf> {
        let wanted = |names: &str| names.split(',').any(|name| name == controller);
        let line =
            self.lines.iter().find(|(names, _)| if self.v2 { names.is_empty() } else { wanted(names) });
        let (_, path) = line.with_context(|| format!("no hierarchy of {controller}"))?;
        let root = if self.v2 { "/sys/fs/cgroup".into() } else { format!("/sys/fs/cgroup/{controller}") };
        Ok(PathBuf::from(format!("{root}{path}")))
    }

    /// A file of the version that the host has; `v1` and `v2` name it on each.
    fn read(&self, controller: &str, v1: &str, v2: &str) -> Result<String> {
        let path = self.directory(controller)?.join(if self.v2 { v2 } else { v1 });
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// Every limit of the lane, as text.
    fn all(&self) -> Result<Vec<(&'static str, String)>> {
        let mut all = vec![
            ("shares", self.read("cpu", "cpu.shares", "cpu.weight")?),
            ("cpus", self.read("cpuset", "cpuset.cpus", "cpuset.cpus")?),
            ("memory nodes", self.read("cpuset", "cpuset.mems", "cpuset.mems")?),
            ("memory", self.read("memory", "memory.limit_in_bytes", "memory.max")?),
        ];
        if self.v2 {
            all.push(("quota", self.read("cpu", "", "cpu.max")?));
            all.push(("swap", self.read("memory", "", "memory.swap.max")?));
        } else {
            let quota = self.read("cpu", "cpu.cfs_quota_us", "")?;
            all.push(("quota", format!("{quota} {}", self.read("cpu", "cpu.cfs_period_us", "")?)));
            // A kernel without swap accounting has no such file.
            if self.directory("memory")?.join("memory.memsw.limit_in_bytes").exists() {
                all.push(("swap", self.read("memory", "memory.memsw.limit_in_bytes", "")?));
            }
        }
        Ok(all)
    }
}

fn limited(words: &[&str], resources: LinuxContainerResources) -> Spec {
    Spec { resources: Some(resources), ..args(words) }
}

async fn update(client: &mut Client, id: &str, linux: LinuxContainerResources) -> Result<(), tonic::Status> {
    let request =
        UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
    client.runtime.update_container_resources(request).await.map(drop)
}

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &daemon).await;
    daemon.finish(done).await
}

async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("limits", &daemon.path("logs"));
    let id = client.run_pod(&config).await?;
    let asked = LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 50_000,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 96 * MIB,
        oom_score_adj: 700,
        ..Default::default()
    };
    let main = client.run(&id, &config, "main", limited(&["sleep", "1000"], asked.clone())).await?;
    let (groups, pid) = Groups::of(&mut client, &main).await?;
    for (what, found) in groups.all()? {
        // v2's weight as the curve has it on which 1024 shares are 100; its swap without the memory.
        let wanted = match (what, groups.v2) {
            ("shares", false) => "512".to_owned(),
            ("shares", true) => "59".into(),
            ("cpus" | "memory nodes", _) => "0".into(),
            ("memory", _) => (64 * MIB).to_string(),
            ("quota", _) => "50000 50000".into(),
            (_, false) => (96 * MIB).to_string(),
            (_, true) => (32 * MIB).to_string(),
        };
        checks.that(&format!("{what} of a new container"), found == wanted, &found);
    }
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    checks.that("its OOM score", score.trim() == "700", &score);
    let told = client.status(&main).await?.resources.and_then(|r| r.linux).unwrap_or_default();
    checks.that("its status says the same", told == asked, format!("{told:?}"));

    changed(checks, &mut client, &main, &groups).await?;
    whole(checks, &mut client, &main, &groups).await?;
    huge(checks, &mut client, &id, &config).await?;
    if groups.v2 {
        unified(checks, &mut client, &id, &config).await?;
    } else {
        let refused = LinuxContainerResources {
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let error = client.create(&id, &config, "unified", limited(&["true"], refused)).await.err();
        let text = error.map(|error| format!("{error:#}")).unwrap_or_default();
        checks.that("unified limits are refused without v2", text.contains("linux.resources.unified"), text);
    }
    client.remove_pod(&id).await
}

/// One limit after the other; the rest stays.
async fn changed(checks: &mut Checks, client: &mut Client, id: &str, groups: &Groups) -> Result<()> {
    type Change = fn(&mut LinuxContainerResources);
    let table: &[(&str, &str, &str, Change)] = &[
        ("shares", "2048", "174", |r| r.cpu_shares = 2048),
        ("quota", "30000 50000", "30000 50000", |r| r.cpu_quota = 30_000),
        ("quota", "30000 100000", "30000 100000", |r| r.cpu_period = 100_000),
        ("quota", "-1 100000", "max 100000", |r| r.cpu_quota = -1),
        ("memory", "134217728", "134217728", |r| r.memory_limit_in_bytes = 128 * MIB),
        ("memory", "50331648", "50331648", |r| r.memory_limit_in_bytes = 48 * MIB),
        ("swap", "104857600", "54525952", |r| r.memory_swap_limit_in_bytes = 100 * MIB),
        ("swap", "-1", "max", |r| r.memory_swap_limit_in_bytes = -1),
    ];
    for (what, v1, v2, change) in table {
        let before = groups.all()?;
        let Some(_) = before.iter().find(|(name, _)| name == what) else { continue };
        let mut resources = LinuxContainerResources::default();
        change(&mut resources);
        update(client, id, resources).await?;
        let wanted = if groups.v2 { *v2 } else { *v1 };
        let mut held = true;
        let after = groups.all()?;
        for ((name, now), (_, then)) in after.iter().zip(&before) {
            // An unlimited swap is a number as large as the kernel counts. Swap keeps its distance from memory.
            let unlimited = *v1 == "-1" && now.len() > 15;
            let moved = *name == "swap" && *what == "memory";
            held &= if name == what { now == wanted || unlimited } else { now == then || moved };
        }
        checks.that(&format!("{what} changed to {wanted}, alone"), held, format!("{after:?}"));
    }
    Ok(())
}

/// A change that the kernel refuses in its middle is none.
async fn whole(checks: &mut Checks, client: &mut Client, id: &str, groups: &Groups) -> Result<()> {
    if groups.v2 {
        // There a group may ask for more than it gets, so the kernel refuses nothing of this.
        return Ok(());
    }
    let above = groups.directory("cpuset")?;
    let above = above.parent().context("a container's group lies in its pod's")?;
    std::fs::write(above.join("cpuset.cpus"), "0")?;
    let (before, status) = (groups.all()?, client.status(id).await?.resources);
    let beyond = LinuxContainerResources {
        cpu_shares: 300,
        memory_limit_in_bytes: 200 * MIB,
        cpuset_cpus: "1".into(),
        ..Default::default()
    };
    let refused = update(client, id, beyond).await.err();
    let text = refused.map(|status| status.message().to_owned()).unwrap_or_default();
    checks.that("CPUs that the pod does not have are refused", text.contains("cpuset.cpus"), &text);
    let same = groups.all()? == before && client.status(id).await?.resources == status;
    checks.that("  and the rest of that change is undone", same, format!("{:?}", groups.all()?));
    Ok(())
}

async fn huge(checks: &mut Checks, client: &mut Client, pod: &str, config: &PodSandboxConfig) -> Result<()> {
    let pages = |limit| LinuxContainerResources {
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit }],
        ..Default::default()
    };
    // The kubelet names every size with 0, also where there is no controller.
    let none = client.run(pod, config, "no-huge", limited(&["sleep", "1000"], pages(0))).await;
    checks.note("huge pages of 0 bytes", none.as_ref().map(|_| ()).map_err(|error| format!("{error:#}")));
    let none = none?;
    let (groups, _) = Groups::of(client, &none).await?;
    let controller = match groups.v2 {
        true => std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?.contains("hugetlb"),
        false => Path::new("/sys/fs/cgroup/hugetlb").exists(),
    };
    let id = client.create(pod, config, "huge", limited(&["sleep", "1000"], pages(4 << 20))).await?;
    let started = client.start(&id).await;
    if controller {
        started?;
        let (groups, _) = Groups::of(client, &id).await?;
        let limit = groups.read("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")?;
        checks.that("two huge pages", limit == (4 << 20).to_string(), limit);
    } else {
        let text = started.err().map(|error| format!("{error:#}")).unwrap_or_default();
        checks.that("huge pages without the controller are refused", text.contains("hugepage_limits"), text);
    }
    Ok(())
}

/// What only v2 has, by its files' names.
async fn unified(
    checks: &mut Checks,
    client: &mut Client,
    pod: &str,
    config: &PodSandboxConfig,
) -> Result<()> {
    let with = |extra: &[(&str, &str)]| LinuxContainerResources {
        memory_limit_in_bytes: 32 * MIB,
        memory_swap_limit_in_bytes: 32 * MIB,
        unified: extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let asked = with(&[("memory.high", "16777216"), ("pids.max", "50")]);
    let id = client.run(pod, config, "unified", limited(&["sleep", "1000"], asked)).await?;
    let (groups, _) = Groups::of(client, &id).await?;
    let found = (groups.read("memory", "", "memory.high")?, groups.read("pids", "", "pids.max")?);
    checks.that("limits by the names of v2", found == ("16777216".into(), "50".into()), format!("{found:?}"));
    update(
        client,
        &id,
        LinuxContainerResources {
            unified: [("pids.max".to_owned(), "60".to_owned())].into(),
            ..Default::default()
        },
    )
    .await?;
    let found = groups.read("pids", "", "pids.max")?;
    checks.that("  changed", found == "60", &found);

    // One process goes over the limit: alone it dies, or with its whole group, as the container asks.
    for (name, group, together) in [("alone", "0", false), ("together", "1", true)] {
        let asked = with(&[("memory.oom.group", group)]);
        let id = client.run(pod, config, name, limited(&["sleep", "1000"], asked)).await?;
        // The exec's end may come before or with its container's.
        let _ = client.exec(&id, &["hold", "100"]).await;
        if together {
            let status = client.ended(&id).await?;
            checks.that("out of memory, all of a group end", status.reason == "OOMKilled", status.reason);
        } else {
            let status = client.status(&id).await?;
            let runs = status.state == i32::from(ContainerState::ContainerRunning);
            checks.that("out of memory, one process ends and the others run on", runs, status.reason);
            client.stop(&id, Duration::ZERO).await?;
        }
    }
    Ok(())
}
