//! cgroup v1: a tree for each controller (kernel documentation, admin-guide/cgroup-v1).

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::hierarchy::Tree;
use crate::writes::Writes;
use crate::{CgroupError, CgroupPath, Limits};

/// Makes the directories of a path. A new cpuset is empty and nothing can join it, so it takes its parent's.
pub(crate) fn make(tree: &Tree, path: &CgroupPath) -> Result<(), CgroupError> {
    let cpuset = tree.controllers.iter().any(|c| c == "cpuset");
    let mut directory = tree.root.clone();
    for part in path.parts() {
        let parent = directory.clone();
        directory.push(part);
        match crate::writes::make(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CgroupError::file("make", directory)(error)),
        }
        if cpuset {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&parent.join(file), &directory.join(file))?;
            }
        }
    }
    Ok(())
}

fn inherit(from: &Path, to: &Path) -> Result<(), CgroupError> {
    let current = std::fs::read_to_string(to).map_err(CgroupError::file("read", to))?;
    if !current.trim().is_empty() {
        return Ok(());
    }
    let value = std::fs::read_to_string(from).map_err(CgroupError::file("read", from))?;
    write(to, value.trim())
}

pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(|source| CgroupError::Write {
        value: value.into(),
        path: path.into(),
        source,
    })
}

/// Where a controller's directory is, if the host has it.
type Find<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;

fn need(find: Find<'_>, limit: &'static str, controller: &'static str) -> Result<PathBuf, CgroupError> {
    find(controller).ok_or(CgroupError::NoController { limit, controller })
}

pub(crate) fn apply(find: Find<'_>, limits: &Limits, writes: &mut Writes) -> Result<(), CgroupError> {
    if !limits.unified.is_empty() {
        return Err(CgroupError::OnlyV2 { limit: "unified" });
    }
    if let Some(shares) = limits.cpu_shares {
        let file = need(find, "cpu_shares", "cpu")?.join("cpu.shares");
        writes.write(&file, &shares.clamp(2, 262_144).to_string())?;
    }
    cpu_quota(find, limits, writes)?;
    if let Some(cpus) = &limits.cpus {
        writes.write(&need(find, "cpuset_cpus", "cpuset")?.join("cpuset.cpus"), cpus)?;
    }
    if let Some(mems) = &limits.mems {
        writes.write(&need(find, "cpuset_mems", "cpuset")?.join("cpuset.mems"), mems)?;
    }
    memory(find, limits, writes)?;
    if let Some(pids) = limits.pids {
        let value = if pids < 0 { "max".to_owned() } else { pids.to_string() };
        writes.write(&need(find, "pids", "pids")?.join("pids.max"), &value)?;
    }
    for (size, bytes) in &limits.hugepages {
        // The kubelet names every page size with 0 where a pod has none: nothing to hold without the controller.
        let Some(directory) = find("hugetlb").or_else(|| (*bytes != 0).then(PathBuf::new)) else { continue };
        if directory.as_os_str().is_empty() {
            return Err(CgroupError::NoController { limit: "hugepage_limits", controller: "hugetlb" });
        }
        writes.write(&directory.join(format!("hugetlb.{size}.limit_in_bytes")), &bytes.to_string())?;
    }
    match (&limits.devices, find("devices")) {
        (Some(rules), Some(directory)) => devices(&directory, rules),
        (Some(_), None) => Err(CgroupError::NoController { limit: "devices", controller: "devices" }),
        (None, _) => Ok(()),
    }
}

/// The period first; where the kernel refuses because of the old quota, the other way round.
fn cpu_quota(find: Find<'_>, limits: &Limits, writes: &mut Writes) -> Result<(), CgroupError> {
    if limits.cpu_quota.is_none() && limits.cpu_period.is_none() {
        return Ok(());
    }
    let directory = need(find, "cpu_quota", "cpu")?;
    let (period, quota) = (directory.join("cpu.cfs_period_us"), directory.join("cpu.cfs_quota_us"));
    let mut set = |path: &Path, value: &Option<String>| match value {
        Some(value) => writes.write(path, value),
        None => Ok(()),
    };
    let asked_period = limits.cpu_period.map(|p| p.to_string());
    let asked_quota = limits.cpu_quota.map(|q| q.max(-1).to_string());
    if set(&period, &asked_period).is_ok() {
        return set(&quota, &asked_quota);
    }
    set(&quota, &asked_quota)?;
    set(&period, &asked_period)
}

/// memory+swap must never be below memory: raise it first, lower it last.
fn memory(find: Find<'_>, limits: &Limits, writes: &mut Writes) -> Result<(), CgroupError> {
    if limits.memory.is_none() && limits.memory_and_swap.is_none() && limits.memory_reservation.is_none() {
        return Ok(());
    }
    let directory = need(find, "memory_limit_in_bytes", "memory")?;
    let (plain, both) =
        (directory.join("memory.limit_in_bytes"), directory.join("memory.memsw.limit_in_bytes"));
    let mut set = |path: &Path, value: Option<i64>| {
        value.map_or(Ok(()), |value| writes.write(path, &value.max(-1).to_string()))
    };
    // Kernels without swap accounting have no memsw files: then there is no swap to limit.
    let swap = limits.memory_and_swap.filter(|_| both.exists());
    if set(&plain, limits.memory).is_ok() {
        set(&both, swap)?;
    } else {
        set(&both, swap)?;
        set(&plain, limits.memory)?;
    }
    set(&directory.join("memory.soft_limit_in_bytes"), limits.memory_reservation)
}

fn devices(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    for rule in rules {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        for line in device_lines(rule) {
            write(&directory.join(file), &line)?;
        }
    }
    Ok(())
}

/// `type major:minor access`; all types together is the single letter the kernel has for everything.
fn device_lines(rule: &LinuxDeviceCgroup) -> Vec<String> {
    let number = |value: Option<i64>| value.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    let access = rule.access().clone().unwrap_or_else(|| "rwm".into());
    let kinds: &[char] = match rule.typ() {
        Some(LinuxDeviceType::B) => &['b'],
        Some(LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P) => &['c'],
        _ if major == "*" && minor == "*" && access == "rwm" => return vec!["a".into()],
        _ => &['b', 'c'],
    };
    kinds.iter().map(|kind| format!("{kind} {major}:{minor} {access}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    #[test]
    fn device_rules_as_the_kernel_takes_them() {
        let rule = |kind, major: i64, minor: i64, access: &str| {
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(kind)
                .major(major)
                .minor(minor)
                .access(access.to_owned())
                .build()
                .unwrap()
        };
        assert_eq!(device_lines(&rule(LinuxDeviceType::A, -1, -1, "rwm")), ["a"]);
        assert_eq!(device_lines(&rule(LinuxDeviceType::C, 1, 3, "rw")), ["c 1:3 rw"]);
        assert_eq!(device_lines(&rule(LinuxDeviceType::C, 136, -1, "rwm")), ["c 136:* rwm"]);
        assert_eq!(device_lines(&rule(LinuxDeviceType::A, -1, -1, "m")), ["b *:* m", "c *:* m"]);
    }
}
