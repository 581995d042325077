//! Limits: CRI's, where zero means "not given", to the OCI form the cgroup crate takes.

use berth_model::Resources;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

use crate::{HostFacts, PlanError};

const FIELD: &str = "config.linux.resources";

pub(crate) fn check(resources: Option<&Resources>, host: &HostFacts) -> Result<(), PlanError> {
    check_as(FIELD, resources, host)
}

/// `place` is the field that holds the limits.
pub(crate) fn check_as(
    place: &str,
    resources: Option<&Resources>,
    host: &HostFacts,
) -> Result<(), PlanError> {
    resources.map_or(Ok(()), |resources| check_given(place, resources, host))
}

/// The limits a container gets when `asked` comes on top of what it has: zero and empty change nothing (CRI comments on
/// `LinuxContainerResources`). A swap limit that is not named keeps its distance from the memory limit. `linux` is the
/// field of the request.
pub fn updated_resources(
    had: Option<&Resources>,
    asked: &Resources,
    host: &HostFacts,
) -> Result<Resources, PlanError> {
    check_given("linux", asked, host)?;
    let mut new = had.cloned().unwrap_or_default();
    let given = |old: &mut i64, value: i64| *old = if value == 0 { *old } else { value };
    let swap = match (new.memory_swap_limit, new.memory_limit, asked.memory_limit) {
        (both, before, after) if both > 0 && before > 0 && after > 0 => {
            after.saturating_add(both.saturating_sub(before).max(0))
        }
        (both, ..) => both,
    };
    new.memory_swap_limit = swap;
    given(&mut new.memory_swap_limit, asked.memory_swap_limit);
    given(&mut new.memory_limit, asked.memory_limit);
    given(&mut new.cpu_period, asked.cpu_period);
    given(&mut new.cpu_quota, asked.cpu_quota);
    given(&mut new.cpu_shares, asked.cpu_shares);
    for (old, value) in
        [(&mut new.cpuset_cpus, &asked.cpuset_cpus), (&mut new.cpuset_mems, &asked.cpuset_mems)]
    {
        if !value.is_empty() {
            old.clone_from(value);
        }
    }
    for page in &asked.hugepage_limits {
        match new.hugepage_limits.iter_mut().find(|old| old.page_size == page.page_size) {
            Some(old) => old.limit = page.limit,
            None => new.hugepage_limits.push(page.clone()),
        }
    }
    new.unified.extend(asked.unified.clone());
    check_given("linux", &new, host)?;
    Ok(new)
}

/// Limits for a cgroup that lives: no word about devices, which stay as they are.
pub fn cgroup_limits(resources: &Resources) -> LinuxResources {
    to_oci(Some(resources), Vec::new())
}

fn check_given(place: &str, r: &Resources, host: &HostFacts) -> Result<(), PlanError> {
    let at_least = |name: &str, value: i64, least: i64| match value >= least {
        true => Ok(()),
        false => Err(PlanError::invalid(format!("{place}.{name}"), format!("{value} is below {least}"))),
    };
    at_least("cpu_period", r.cpu_period, 0)?;
    // The kernel's own bounds (sched-bwc: a period of 1 ms to 1 s, a quota of at least 1 ms).
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        let problem = format!("{} is not from 1000 to 1000000 microseconds", r.cpu_period);
        return Err(PlanError::invalid(format!("{place}.cpu_period"), problem));
    }
    if (1..1_000).contains(&r.cpu_quota) {
        let problem = format!("{} is below 1000 microseconds", r.cpu_quota);
        return Err(PlanError::invalid(format!("{place}.cpu_quota"), problem));
    }
    at_least("cpu_quota", r.cpu_quota, -1)?;
    at_least("cpu_shares", r.cpu_shares, 0)?;
    at_least("memory_limit_in_bytes", r.memory_limit, 0)?;
    at_least("memory_swap_limit_in_bytes", r.memory_swap_limit, -1)?;
    if r.memory_limit > 0 && r.memory_swap_limit > 0 && r.memory_swap_limit < r.memory_limit {
        let problem = "memory plus swap is less than memory_limit_in_bytes";
        return Err(PlanError::invalid(format!("{place}.memory_swap_limit_in_bytes"), problem));
    }
    for (n, page) in r.hugepage_limits.iter().enumerate() {
        // It becomes part of a file's name.
        let digits = page.page_size.trim_end_matches(char::is_alphabetic);
        let unit = &page.page_size[digits.len()..];
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !number || !["KB", "MB", "GB"].contains(&unit) || page.page_size.len() > 16 {
            let field = format!("{place}.hugepage_limits[{n}].page_size");
            return Err(PlanError::invalid(field, format!("{:?} is no page size", page.page_size)));
        }
    }
    if !(-1000..=1000).contains(&r.oom_score_adj) {
        return Err(PlanError::invalid(format!("{place}.oom_score_adj"), "must be from -1000 to 1000"));
    }
    for (name, list, last) in
        [("cpuset_cpus", &r.cpuset_cpus, host.last_cpu), ("cpuset_mems", &r.cpuset_mems, host.last_node)]
    {
        let refuse = |problem: String| Err(PlanError::invalid(format!("{place}.{name}"), problem));
        match numbers(list) {
            None => return refuse(format!("{list:?} is no list of numbers")),
            Some(most) if most > last.unwrap_or(u32::MAX) => {
                return refuse(format!("{list:?} goes beyond the host's last, {}", last.unwrap_or_default()));
            }
            Some(_) => {}
        }
    }
    if !host.cgroup_v2 && !r.unified.is_empty() {
        return Err(PlanError::invalid(format!("{place}.unified"), "this host has no cgroup v2 controllers"));
    }
    for (name, value) in &r.unified {
        let refuse = |problem| Err(PlanError::invalid(format!("{place}.unified[{name:?}]"), problem));
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

/// The highest number of a list in cpuset(7)'s list format; 0 for an empty one, `None` for what is none.
fn numbers(list: &str) -> Option<u32> {
    if list.is_empty() {
        return Some(0);
    }
    let mut most = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok());
        let (first, last) = (digits(first)??, digits(last)??);
        if first > last {
            return None;
        }
        most = most.max(last);
    }
    Some(most)
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
    fn an_update_changes_what_it_names() {
        let host = HostFacts::default();
        let had = Resources {
            cpu_quota: 20_000,
            cpu_period: 50_000,
            memory_limit: 100,
            memory_swap_limit: 130,
            oom_score_adj: 5,
            ..Default::default()
        };
        let update = |asked: Resources| updated_resources(Some(&had), &asked, &host);
        assert_eq!(update(Resources::default()).unwrap(), had);
        let new = update(Resources { cpu_quota: -1, memory_limit: 300, ..Default::default() }).unwrap();
        assert_eq!((new.cpu_quota, new.cpu_period, new.oom_score_adj), (-1, 50_000, 5));
        assert_eq!((new.memory_limit, new.memory_swap_limit), (300, 330), "as much swap as before");
        let new =
            update(Resources { memory_limit: 50, memory_swap_limit: 50, ..Default::default() }).unwrap();
        assert_eq!((new.memory_limit, new.memory_swap_limit), (50, 50));
        let text = update(Resources { memory_swap_limit: 60, ..Default::default() }).unwrap_err().to_string();
        assert!(text.starts_with("linux.memory_swap_limit_in_bytes"), "{text}");
        let bad = Resources { cpu_period: 5, ..Default::default() };
        assert!(update(bad).unwrap_err().to_string().starts_with("linux.cpu_period"));
        let first = updated_resources(None, &Resources { cpu_shares: 7, ..Default::default() }, &host);
        assert_eq!(first.unwrap().cpu_shares, 7);
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

    #[test]
    fn lists_of_numbers() {
        for (list, most) in [("", Some(0)), ("0", Some(0)), ("0-3,6", Some(6)), ("5,1-2", Some(5))] {
            assert_eq!(numbers(list), most, "{list}");
        }
        for list in ["0-", "-1", "a", "1,,2", "3-1", "0-3:1/2", "+1", "99999999999"] {
            assert_eq!(numbers(list), None, "{list}");
        }
    }
}
