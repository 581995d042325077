//! cgroup v2: one tree (kernel documentation, admin-guide/cgroup-v2).

use std::io;
use std::path::Path;

use crate::v1::write;
use crate::writes::Writes;
use crate::{CgroupError, CgroupPath, Limits};

/// Controllers that limits are written to; enabled on the way down where the root offers them.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

pub(crate) fn make(root: &Path, offered: &[String], path: &CgroupPath) -> Result<(), CgroupError> {
    let mut directory = root.to_owned();
    for part in path.parts() {
        delegate(&directory, offered)?;
        directory.push(part);
        match crate::writes::make(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CgroupError::file("make", directory)(error)),
        }
    }
    Ok(())
}

/// Reads first: a write takes the kernel's slow lock even when it changes nothing.
fn delegate(directory: &Path, offered: &[String]) -> Result<(), CgroupError> {
    if offered.is_empty() {
        return Ok(());
    }
    let file = directory.join("cgroup.subtree_control");
    let current = std::fs::read_to_string(&file).map_err(CgroupError::file("read", &file))?;
    let here = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    let missing = WANTED.iter().filter(|c| has(&here, c) && !has(&current, c)).map(|c| format!("+{c}"));
    let missing = missing.collect::<Vec<_>>().join(" ");
    match missing.is_empty() {
        true => Ok(()),
        false => write(&file, &missing),
    }
}

/// Shares of 2..262144 to a weight of 1..10000 so that the default 1024 is the default 100: the quadratic curve that
/// runc and the kubelet agreed on in 2025.
pub(crate) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

pub(crate) fn apply(
    directory: &Path,
    offered: &[String],
    limits: &Limits,
    writes: &mut Writes,
) -> Result<(), CgroupError> {
    let need = |limit: &'static str, controller: &'static str| match offered.iter().any(|c| c == controller) {
        true => Ok(()),
        false => Err(CgroupError::NoController { limit, controller }),
    };
    let mut set = |file: &str, value: String| writes.write(&directory.join(file), &value);
    if let Some(shares) = limits.cpu_shares {
        need("cpu_shares", "cpu")?;
        set("cpu.weight", weight(shares).to_string())?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        need("cpu_quota", "cpu")?;
        let quota = limits.cpu_quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        set("cpu.max", format!("{quota} {}", limits.cpu_period.unwrap_or(100_000)))?;
    }
    for (limit, file, value) in
        [("cpuset_cpus", "cpuset.cpus", &limits.cpus), ("cpuset_mems", "cpuset.mems", &limits.mems)]
    {
        if let Some(value) = value {
            need(limit, "cpuset")?;
            set(file, value.clone())?;
        }
    }
    memory(limits, &need, &mut set)?;
    if let Some(pids) = limits.pids {
        need("pids", "pids")?;
        set("pids.max", max_or(pids))?;
    }
    for (size, bytes) in
        limits.hugepages.iter().filter(|(_, bytes)| *bytes != 0 || offered.iter().any(|c| c == "hugetlb"))
    {
        need("hugepage_limits", "hugetlb")?;
        set(&format!("hugetlb.{size}.max"), bytes.to_string())?;
    }
    for (file, value) in &limits.unified {
        set(file, value.clone())?;
    }
    match &limits.devices {
        Some(rules) => crate::v2_devices::attach(directory, rules),
        None => Ok(()),
    }
}

fn max_or(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory(
    limits: &Limits,
    need: &dyn Fn(&'static str, &'static str) -> Result<(), CgroupError>,
    set: &mut dyn FnMut(&str, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    if limits.memory.is_some() || limits.memory_and_swap.is_some() {
        need("memory_limit_in_bytes", "memory")?;
    }
    // CRI counts swap together with memory, v2 apart from it.
    if let Some(both) = limits.memory_and_swap {
        let swap = match (both, limits.memory) {
            (..0, _) => "max".to_owned(),
            (both, Some(memory)) if both >= memory => (both - memory).to_string(),
            (both, memory) => {
                let problem = format!("{both} is below the memory limit {}", memory.unwrap_or_default());
                return Err(CgroupError::Limit { limit: "memory_swap_limit_in_bytes".into(), problem });
            }
        };
        set("memory.swap.max", swap)?;
    }
    if let Some(memory) = limits.memory {
        set("memory.max", max_or(memory))?;
    }
    match limits.memory_reservation {
        Some(low) => set("memory.low", max_or(low)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_corners() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (0, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).collect::<Vec<_>>().windows(2).all(|w| weight(w[0]) <= weight(w[1])));
    }
}
