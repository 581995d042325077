//! What is on the machine, so that a lane can show that it left nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::daemon::Daemon;

pub(crate) struct Snapshot {
    seen: BTreeSet<String>,
}

fn lines(path: &str, kind: &str, name: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(name).map(|name| format!("{kind} {name}")).collect()
}

/// Cgroup directories of ours: the machine's own come and go.
fn cgroups(found: &mut BTreeSet<String>) {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.filter_map(Result::ok) {
        for root in [hierarchy.path(), hierarchy.path().join("..")] {
            let Ok(entries) = std::fs::read_dir(root) else { continue };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("berth") {
                    found.insert(format!("cgroup {}/{name}", hierarchy.file_name().to_string_lossy()));
                }
            }
        }
    }
}

/// Network namespaces that a process lives in. One that is only held by a descriptor is the holder's: see [`Footprint`].
fn namespaces(found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.filter_map(Result::ok) {
        if let Ok(namespace) = std::fs::read_link(entry.path().join("ns/net")) {
            found.insert(format!("network namespace {}", namespace.display()));
        }
    }
}

fn processes(found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.filter_map(Result::ok) {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let program = command.split('\0').next().unwrap_or_default();
        if program.ends_with("berth") || program.ends_with("berth-shim") || program == "/guest" {
            found.insert(format!("process {} {program}", entry.file_name().to_string_lossy()));
        }
    }
}

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        let mut seen = lines("/proc/self/mountinfo", "mount", |l| l.split(' ').nth(4).map(str::to_owned));
        seen.extend(lines("/proc/net/dev", "link", |l| {
            l.split_once(':').map(|(name, _)| name.trim().to_owned())
        }));
        seen.extend(lines("/proc/net/fib_trie", "address", |l| {
            l.trim().strip_prefix("|-- ").map(str::to_owned)
        }));
        namespaces(&mut seen);
        cgroups(&mut seen);
        processes(&mut seen);
        tables(&mut seen);
        Ok(Self { seen })
    }
}

/// nf_tables tables. The demo runs on machines without nft(8) too; the lanes install it.
fn tables(found: &mut BTreeSet<String>) {
    let Ok(answer) = std::process::Command::new("nft").args(["list", "tables"]).output() else { return };
    found.extend(String::from_utf8_lossy(&answer.stdout).lines().map(str::to_owned));
}

/// What an instance keeps by itself: directories, rows, descriptors. The number of each kind of row; the names of the
/// rest, network namespaces among them, since the daemon or a shim holds each by a descriptor.
#[derive(Debug)]
pub(crate) struct Footprint {
    kept: BTreeSet<String>,
    rows: Vec<(String, i64)>,
}

impl Footprint {
    pub(crate) fn take(daemon: &Daemon) -> Result<Self> {
        let mut kept = BTreeSet::new();
        for top in [
            "state",
            "state/pods",
            "state/plugins",
            "root",
            "root/images",
            "root/images/layers",
            "root/images/containers",
            "root/images/leases",
            "root/images/partial",
        ] {
            let Ok(entries) = std::fs::read_dir(daemon.path(top)) else { continue };
            for entry in entries {
                kept.insert(format!("{top}/{}", entry?.file_name().to_string_lossy()));
            }
        }
        for entry in std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().context("no daemon runs")?))? {
            let target = std::fs::read_link(entry?.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            // Connections come and go with clients and registries.
            if !["socket:", "pipe:", "/proc/", ""].iter().any(|kind| target.split('[').next() == Some(*kind))
            {
                kept.insert(format!("descriptor {target}"));
            }
        }
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(daemon.path("root/berth.db"), flags)?;
        let mut rows = Vec::new();
        for table in ["sandboxes", "containers", "layers", "images"] {
            let count = store.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
            rows.push((table.to_owned(), count));
        }
        // They come with the first pod of their kind and stay; what is in them is looked at where it is theirs.
        for stays in ["state/pods", "state/plugins", "state/plugins/bridges", "root/cni"] {
            kept.remove(stays);
        }
        Ok(Self { kept, rows })
    }

    fn more_than(&self, before: &Self) -> Vec<String> {
        let rows = self.rows.iter().zip(&before.rows).filter(|((_, now), (_, then))| now > then);
        let rows = rows.map(|((table, now), (_, then))| format!("{} rows more of {table}", now - then));
        self.kept.difference(&before.kept).cloned().chain(rows).collect()
    }
}

/// The kernel clears namespaces and groups in its own time, more of it where there are more and the machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing more is kept than before, once it stops getting less.
pub(crate) async fn given_back(daemon: &Daemon, before: &Footprint) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let more = Footprint::take(daemon).map_err(|error| format!("{error:#}"))?.more_than(before);
        if more.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(more.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is there now, was not before, and counts, once it stops getting less.
pub(crate) async fn settled(before: &Snapshot, counts: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = Snapshot::take()?;
        let more: Vec<String> =
            now.seen.difference(&before.seen).filter(|what| counts(what)).cloned().collect();
        if more.is_empty() || Instant::now() > end {
            return Ok(more);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
