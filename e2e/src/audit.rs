//! What is on the machine, so that a lane can show that it left nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

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
        cgroups(&mut seen);
        processes(&mut seen);
        Ok(Self { seen })
    }
}

/// What is there now and was not before, once it stops getting less.
pub(crate) async fn settled(before: &Snapshot) -> Result<Vec<String>> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let now = Snapshot::take()?;
        let more: Vec<String> = now.seen.difference(&before.seen).cloned().collect();
        if more.is_empty() || Instant::now() > end {
            return Ok(more);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
