//! What a cgroup used: each file read once, only the lines that count looked at.

mod parse;

use std::path::{Path, PathBuf};

use berth_model::{
    CpuUsage, DeviceIo, GroupUsage, HugepageUsage, MemoryUsage, Pressure, SwapUsage, TaskUsage,
};

use parse::{Keyed, limit_v1, limit_v2, number};

/// `None` when the file is not there: the kernel or the host does not count it.
fn text(directory: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(file)).ok()
}

fn count(directory: &Path, file: &str) -> Option<u64> {
    text(directory, file).and_then(|text| number(&text))
}

/// kernel documentation, admin-guide/cgroup-v2.
pub(crate) fn v2(directory: &Path, offered: &[String]) -> GroupUsage {
    let cpu = text(directory, "cpu.stat").map(|text| {
        let stat = Keyed(&text);
        let nanos = |key| stat.get(key).saturating_mul(1000);
        CpuUsage {
            total: nanos("usage_usec"),
            user: nanos("user_usec"),
            system: nanos("system_usec"),
            periods: stat.get("nr_periods"),
            throttled_periods: stat.get("nr_throttled"),
            throttled: nanos("throttled_usec"),
        }
    });
    let memory = count(directory, "memory.current").map(|usage| {
        let stat = text(directory, "memory.stat").unwrap_or_default();
        let stat = Keyed(&stat);
        let events = text(directory, "memory.events").unwrap_or_default();
        MemoryUsage {
            usage,
            working_set: usage.saturating_sub(stat.get("inactive_file")),
            rss: stat.get("anon"),
            cache: stat.get("file"),
            mapped_file: stat.get("file_mapped"),
            kernel: stat.get("kernel"),
            peak: count(directory, "memory.peak").unwrap_or(0),
            faults: stat.get("pgfault"),
            major_faults: stat.get("pgmajfault"),
            limit: text(directory, "memory.max").and_then(|text| limit_v2(&text)),
            reservation: count(directory, "memory.low").filter(|low| *low > 0),
            limit_hits: Keyed(&events).get("max"),
            oom_kills: Keyed(&events).get("oom_kill"),
        }
    });
    let swap = count(directory, "memory.swap.current").map(|usage| SwapUsage {
        usage,
        limit: text(directory, "memory.swap.max").and_then(|text| limit_v2(&text)),
    });
    GroupUsage {
        cpu,
        memory,
        swap,
        tasks: tasks(directory),
        io: text(directory, "io.stat").map(|text| named(parse::io_v2(&text))).unwrap_or_default(),
        hugepages: match offered.iter().any(|controller| controller == "hugetlb") {
            true => hugepages(directory, "current", None),
            false => Vec::new(),
        },
        pressure: pressure(directory),
    }
}

/// kernel documentation, admin-guide/cgroup-v1. `bare` is the v2 directory beside the trees, which has the pressure.
pub(crate) fn v1(find: &dyn Fn(&str) -> Option<PathBuf>, bare: Option<&Path>) -> GroupUsage {
    let cpu = find("cpuacct").and_then(|directory| {
        let stat = find("cpu").and_then(|cpu| text(&cpu, "cpu.stat")).unwrap_or_default();
        let stat = Keyed(&stat);
        Some(CpuUsage {
            total: count(&directory, "cpuacct.usage")?,
            user: count(&directory, "cpuacct.usage_user").unwrap_or(0),
            system: count(&directory, "cpuacct.usage_sys").unwrap_or(0),
            periods: stat.get("nr_periods"),
            throttled_periods: stat.get("nr_throttled"),
            throttled: stat.get("throttled_time"),
        })
    });
    let group = find("memory");
    let memory = group.as_deref().and_then(memory_v1);
    let swap = group.as_deref().zip(memory.as_ref()).and_then(|(directory, memory)| {
        let both = count(directory, "memory.memsw.usage_in_bytes")?;
        let limit = text(directory, "memory.memsw.limit_in_bytes").and_then(|text| limit_v1(&text));
        Some(SwapUsage {
            usage: both.saturating_sub(memory.usage),
            limit: limit.map(|both| both.saturating_sub(memory.limit.unwrap_or(0))),
        })
    });
    let io = find("blkio").map(|directory| {
        let text = |file| text(&directory, file).unwrap_or_default();
        named(parse::io_v1(
            &text("blkio.throttle.io_service_bytes_recursive"),
            &text("blkio.throttle.io_serviced_recursive"),
        ))
    });
    GroupUsage {
        cpu,
        memory,
        swap,
        tasks: find("pids").as_deref().and_then(tasks),
        io: io.unwrap_or_default(),
        hugepages: find("hugetlb")
            .map(|directory| hugepages(&directory, "usage_in_bytes", Some("max_usage_in_bytes")))
            .unwrap_or_default(),
        pressure: bare.map(pressure).unwrap_or_default(),
    }
}

fn memory_v1(directory: &Path) -> Option<MemoryUsage> {
    let usage = count(directory, "memory.usage_in_bytes")?;
    let stat = text(directory, "memory.stat").unwrap_or_default();
    let stat = Keyed(&stat);
    let oom = text(directory, "memory.oom_control").unwrap_or_default();
    Some(MemoryUsage {
        usage,
        working_set: usage.saturating_sub(stat.get("total_inactive_file")),
        rss: stat.get("total_rss"),
        cache: stat.get("total_cache"),
        mapped_file: stat.get("total_mapped_file"),
        kernel: count(directory, "memory.kmem.usage_in_bytes").unwrap_or(0),
        peak: count(directory, "memory.max_usage_in_bytes").unwrap_or(0),
        faults: stat.get("total_pgfault"),
        major_faults: stat.get("total_pgmajfault"),
        limit: text(directory, "memory.limit_in_bytes").and_then(|text| limit_v1(&text)),
        reservation: text(directory, "memory.soft_limit_in_bytes").and_then(|text| limit_v1(&text)),
        limit_hits: count(directory, "memory.failcnt").unwrap_or(0),
        oom_kills: Keyed(&oom).get("oom_kill"),
    })
}

/// With the names below /dev (sysfs(5), `/sys/dev/block`).
fn named(mut devices: Vec<DeviceIo>) -> Vec<DeviceIo> {
    for io in &mut devices {
        let link = std::fs::read_link(format!("/sys/dev/block/{}:{}", io.major, io.minor));
        if let Some(name) = link.ok().as_deref().and_then(Path::file_name) {
            io.name = format!("/dev/{}", name.to_string_lossy());
        }
    }
    devices
}

fn tasks(directory: &Path) -> Option<TaskUsage> {
    Some(TaskUsage {
        threads: count(directory, "pids.current")?,
        threads_max: text(directory, "pids.max").and_then(|text| limit_v2(&text)),
    })
}

/// The page sizes are those the directory has files for.
fn hugepages(directory: &Path, usage: &str, peak: Option<&str>) -> Vec<HugepageUsage> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let size = |name: &str| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.')?;
        // `hugetlb.2MB.rsvd.current` counts what is reserved.
        (!size.contains('.')).then(|| size.to_owned())
    };
    let sizes = entries.filter_map(Result::ok).filter_map(|entry| size(entry.file_name().to_str()?));
    let one = |page_size: String| {
        Some(HugepageUsage {
            usage: count(directory, &format!("hugetlb.{page_size}.{usage}"))?,
            peak: peak.and_then(|peak| count(directory, &format!("hugetlb.{page_size}.{peak}"))),
            page_size,
        })
    };
    let mut found: Vec<_> = sizes.filter_map(one).collect();
    found.sort_by(|a, b| a.page_size.cmp(&b.page_size));
    found
}

fn pressure(directory: &Path) -> Pressure {
    // EOPNOTSUPP where the kernel was started without: as good as no file.
    let psi = |file| text(directory, file).and_then(|text| parse::psi(&text));
    Pressure { cpu: psi("cpu.pressure"), memory: psi("memory.pressure"), io: psi("io.pressure") }
}
