//! Limits: CRI's, where zero means "not given", to the OCI form the cgroup crate takes.

use berth_model::Resources;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

use crate::{HostFacts, PlanError};

const FIELD: &str = "config.linux.resources";

pub(crate) fn check(resources: Option<&Resources>, host: &HostFacts) -> Result<(), PlanError> {
    let Some(r) = resources else { return Ok(()) };
    let at_least = |name: &str, value: i64, least: i64| match value >= least {
        true => Ok(()),
        false => Err(PlanError::invalid(format!("{FIELD}.{name}"), format!("{value} is below {least}"))),
    };
    at_least("cpu_period", r.cpu_period, 0)?;
    // The kernel's own bounds (sched-bwc: a period of 1 ms to 1 s, a quota of at least 1 ms).
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        let problem = format!("{} is not from 1000 to 1000000 microseconds", r.cpu_period);
        return Err(PlanError::invalid(format!("{FIELD}.cpu_period"), problem));
    }
    if (1..1_000).contains(&r.cpu_quota) {
        let problem = format!("{} is below 1000 microseconds", r.cpu_quota);
        return Err(PlanError::invalid(format!("{FIELD}.cpu_quota"), problem));
    }
    at_least("cpu_quota", r.cpu_quota, -1)?;
    at_least("cpu_shares", r.cpu_shares, 0)?;
    at_least("memory_limit_in_bytes", r.memory_limit, 0)?;
    at_least("memory_swap_limit_in_bytes", r.memory_swap_limit, -1)?;
    if r.memory_limit > 0 && r.memory_swap_limit > 0 && r.memory_swap_limit < r.memory_limit {
        let problem = "memory plus swap is less than memory_limit_in_bytes";
        return Err(PlanError::invalid(format!("{FIELD}.memory_swap_limit_in_bytes"), problem));
    }
    for (n, page) in r.hugepage_limits.iter().enumerate() {
        // It becomes part of a file's name.
        let digits = page.page_size.trim_end_matches(char::is_alphabetic);
        let unit = &page.page_size[digits.len()..];
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !number || !["KB", "MB", "GB"].contains(&unit) || page.page_size.len() > 16 {
            let field = format!("{FIELD}.hugepage_limits[{n}].page_size");
            return Err(PlanError::invalid(field, format!("{:?} is no page size", page.page_size)));
        }
    }
    if !(-1000..=1000).contains(&r.oom_score_adj) {
        return Err(PlanError::invalid(format!("{FIELD}.oom_score_adj"), "must be from -1000 to 1000"));
    }
    for (name, list) in [("cpuset_cpus", &r.cpuset_cpus), ("cpuset_mems", &r.cpuset_mems)] {
        if !list.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-') {
            return Err(PlanError::invalid(
                format!("{FIELD}.{name}"),
                format!("{list:?} is no list of numbers"),
            ));
        }
    }
    if !host.cgroup_v2 && !r.unified.is_empty() {
        return Err(PlanError::invalid(format!("{FIELD}.unified"), "this host has no cgroup v2 controllers"));
    }
    for (name, value) in &r.unified {
        let refuse = |problem| Err(PlanError::invalid(format!("{FIELD}.unified[{name:?}]"), problem));
        let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let controller = name.split('.').next().unwrap_or_default();
        if controller.is_empty() || !name.contains('.') || !name.chars().all(ok) || name.len() > 255 {
            return refuse("is no cgroup file");
        }
        // What a cgroup is and who lives in it, instead of what a controller allows.
        if controller == "cgroup" && !name.starts_with("cgroup.max.") {
            return refuse("is not a limit");
        }
        if value.contains('\0') || value.len() > 4096 {
            return refuse("has a value with a NUL byte or of more than 4096 bytes");
        }
    }
    Ok(())
}

/// The limits with the device rules. `oom_score_adj` is the process's, not the cgroup's.
pub(crate) fn to_oci(resources: Option<&Resources>, devices: Vec<LinuxDeviceCgroup>) -> LinuxResources {
    let mut built = LinuxResourcesBuilder::default().devices(devices);
    if let Some(r) = resources {
        let mut cpu = LinuxCpuBuilder::default();
        if r.cpu_shares > 0 {
            cpu = cpu.shares(r.cpu_shares.unsigned_abs());
        }
        if r.cpu_quota != 0 {
            cpu = cpu.quota(r.cpu_quota);
        }
        if r.cpu_period > 0 {
            cpu = cpu.period(r.cpu_period.unsigned_abs());
        }
        if !r.cpuset_cpus.is_empty() {
            cpu = cpu.cpus(r.cpuset_cpus.clone());
        }
        if !r.cpuset_mems.is_empty() {
            cpu = cpu.mems(r.cpuset_mems.clone());
        }
        let mut memory = LinuxMemoryBuilder::default();
        if r.memory_limit > 0 {
            memory = memory.limit(r.memory_limit);
        }
        if r.memory_swap_limit != 0 {
            memory = memory.swap(r.memory_swap_limit);
        }
        let pages = r.hugepage_limits.iter().filter_map(|page| {
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default().page_size(page.page_size.clone()).limit(limit).build().ok()
        });
        built = built.hugepage_limits(pages.collect::<Vec<_>>());
        built = built.unified(r.unified.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
        if let (Ok(cpu), Ok(memory)) = (cpu.build(), memory.build()) {
            built = built.cpu(cpu).memory(memory);
        }
    }
    built.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::HugepageLimit;

    #[test]
    fn zero_means_not_given() {
        let oci = to_oci(Some(&Resources::default()), Vec::new());
        let cpu = oci.cpu().clone().unwrap();
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (None, None, None));
        assert_eq!(oci.memory().unwrap().limit(), None);
        let some = Resources {
            cpu_quota: -1,
            cpu_shares: 2,
            memory_limit: 5,
            memory_swap_limit: 6,
            ..Default::default()
        };
        let oci = to_oci(Some(&some), Vec::new());
        assert_eq!(
            (oci.cpu().as_ref().unwrap().quota(), oci.cpu().as_ref().unwrap().shares()),
            (Some(-1), Some(2))
        );
        assert_eq!((oci.memory().unwrap().limit(), oci.memory().unwrap().swap()), (Some(5), Some(6)));
    }

    #[test]
    fn bad_limits() {
        let bad = |r: Resources, cgroup_v2| {
            check(Some(&r), &HostFacts { cgroup_v2, ..HostFacts::default() }).unwrap_err().to_string()
        };
        assert!(bad(Resources { oom_score_adj: 1001, ..Default::default() }, true).contains("oom_score_adj"));
        assert!(
            bad(Resources { cpuset_cpus: "a".into(), ..Default::default() }, true).contains("cpuset_cpus")
        );
        let unified =
            |name: &str| Resources { unified: [(name.into(), "1".into())].into(), ..Default::default() };
        assert!(bad(unified("memory.high"), false).contains("unified"));
        assert!(bad(unified("../x.y"), true).contains("unified"));
        assert!(bad(unified("cgroup.procs"), true).contains("not a limit"));
        let page = |size: &str| Resources {
            hugepage_limits: vec![HugepageLimit { page_size: size.into(), limit: 1 }],
            ..Default::default()
        };
        for size in ["", "MB", "2", "../2MB", "2MB/x", "2XB", "²MB"] {
            assert!(bad(page(size), true).contains("hugepage_limits[0].page_size"), "{size}");
        }
        check(Some(&page("2MB")), &HostFacts::default()).unwrap();
        for (quota, period, field) in [
            (999, 0, "cpu_quota"),
            (-2, 0, "cpu_quota"),
            (0, 999, "cpu_period"),
            (0, 1_000_001, "cpu_period"),
        ] {
            let r = Resources { cpu_quota: quota, cpu_period: period, ..Default::default() };
            assert!(bad(r, true).contains(field), "{quota} {period}");
        }
        let swap = Resources { memory_limit: 2, memory_swap_limit: 1, ..Default::default() };
        assert!(bad(swap, true).contains("memory_swap_limit_in_bytes"));
    }
}
