//! The metrics of ListPodSandboxMetrics, by the names and labels that cAdvisor gave them: dashboards and alerts read
//! on. Values are whole numbers (CRI `Metric.value`), so times are in full seconds.

mod families;

use berth_cri_api::v1;
use berth_model::{ContainerStats, GroupUsage, InterfaceUsage, LayerUsage, ProcessUsage, Psi, SandboxStats};

use families::*;

const SECOND: u64 = 1_000_000_000;

/// Labels every metric has, before its own.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What ListPodSandboxMetrics can report.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    let one = |family: &Family| v1::MetricDescriptor {
        name: family.name.into(),
        help: family.help.into(),
        label_keys: LABELS.iter().chain(family.labels).map(|label| (*label).to_owned()).collect(),
    };
    ALL.iter().map(one).collect()
}

/// Metrics of one object, all under its labels.
struct Sheet {
    labels: Vec<String>,
    at: i64,
    metrics: Vec<v1::Metric>,
}

impl Sheet {
    /// `own`: the values of the family's own labels, in their order.
    fn put(&mut self, family: &Family, own: &[&str], value: u64) {
        let own = own.iter().map(|value| (*value).to_owned());
        self.metrics.push(v1::Metric {
            name: family.name.into(),
            timestamp: self.at,
            metric_type: family.kind.into(),
            label_values: self.labels.iter().cloned().chain(own).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }

    fn group(&mut self, group: &GroupUsage) {
        if let Some(cpu) = group.cpu {
            self.put(&CPU_USAGE, &[], cpu.total / SECOND);
            self.put(&CPU_USER, &[], cpu.user / SECOND);
            self.put(&CPU_SYSTEM, &[], cpu.system / SECOND);
            self.put(&CPU_PERIODS, &[], cpu.periods);
            self.put(&CPU_THROTTLED_PERIODS, &[], cpu.throttled_periods);
            self.put(&CPU_THROTTLED, &[], cpu.throttled / SECOND);
        }
        if let Some(memory) = group.memory {
            self.put(&MEMORY_USAGE, &[], memory.usage);
            self.put(&MEMORY_WORKING_SET, &[], memory.working_set);
            self.put(&MEMORY_RSS, &[], memory.rss);
            self.put(&MEMORY_CACHE, &[], memory.cache);
            self.put(&MEMORY_MAPPED, &[], memory.mapped_file);
            self.put(&MEMORY_KERNEL, &[], memory.kernel);
            self.put(&MEMORY_PEAK, &[], memory.peak);
            self.put(&MEMORY_FAILCNT, &[], memory.limit_hits);
            self.put(&MEMORY_SWAP, &[], group.swap.map_or(0, |swap| swap.usage));
            self.put(&OOM_EVENTS, &[], memory.oom_kills);
            for scope in ["container", "hierarchy"] {
                self.put(&MEMORY_FAILURES, &["pgfault", scope], memory.faults);
                self.put(&MEMORY_FAILURES, &["pgmajfault", scope], memory.major_faults);
            }
        }
        self.io(group);
        for page in &group.hugepages {
            self.put(&HUGETLB_USAGE, &[&page.page_size], page.usage);
            if let Some(peak) = page.peak {
                self.put(&HUGETLB_PEAK, &[&page.page_size], peak);
            }
        }
        if let Some(tasks) = group.tasks {
            self.put(&THREADS, &[], tasks.threads);
            self.put(&THREADS_MAX, &[], tasks.threads_max.unwrap_or(0));
        }
        let pressure = &group.pressure;
        for (waiting, stalled, psi) in [
            (&PRESSURE_CPU_WAITING, &PRESSURE_CPU_STALLED, pressure.cpu),
            (&PRESSURE_MEMORY_WAITING, &PRESSURE_MEMORY_STALLED, pressure.memory),
            (&PRESSURE_IO_WAITING, &PRESSURE_IO_STALLED, pressure.io),
        ] {
            if let Some(Psi { some, full }) = psi {
                self.put(waiting, &[], some.total / SECOND);
                self.put(stalled, &[], full.total / SECOND);
            }
        }
    }

    fn io(&mut self, group: &GroupUsage) {
        for io in &group.io {
            let (major, minor) = (io.major.to_string(), io.minor.to_string());
            self.put(&BLKIO, &[&io.name, &major, &minor, "Read"], io.read_bytes);
            self.put(&BLKIO, &[&io.name, &major, &minor, "Write"], io.write_bytes);
            self.put(&FS_READ_BYTES, &[&io.name], io.read_bytes);
            self.put(&FS_WRITE_BYTES, &[&io.name], io.write_bytes);
            self.put(&FS_READS, &[&io.name], io.reads);
            self.put(&FS_WRITES, &[&io.name], io.writes);
        }
    }

    fn processes(&mut self, usage: &ProcessUsage) {
        self.put(&PROCESSES, &[], usage.processes);
        self.put(&DESCRIPTORS, &[], usage.descriptors);
        self.put(&SOCKETS, &[], usage.sockets);
        if let Some(limit) = usage.open_files_limit {
            self.put(&ULIMITS, &["max_open_files"], limit);
        }
    }

    fn layer(&mut self, layer: &LayerUsage) {
        let fs = &layer.filesystem;
        self.put(&FS_USAGE, &[&fs.device], layer.usage.used_bytes);
        self.put(&FS_LIMIT, &[&fs.device], fs.size);
        self.put(&FS_INODES, &[&fs.device], fs.inodes);
        self.put(&FS_INODES_FREE, &[&fs.device], fs.inodes_free);
    }

    fn interface(&mut self, usage: &InterfaceUsage) {
        let name = [usage.name.as_str()];
        for (traffic, families) in [(usage.received, &RECEIVED), (usage.sent, &SENT)] {
            let values = [traffic.bytes, traffic.packets, traffic.errors, traffic.dropped];
            for (family, value) in families.iter().zip(values) {
                self.put(family, &name, value);
            }
        }
    }

    /// What it was given; 0 is unlimited (as cAdvisor has it).
    fn given(&mut self, stats: &ContainerStats) {
        let given = stats.resources.clone().unwrap_or_default();
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        // The kernel's defaults where nothing was asked for.
        self.put(&SPEC_CPU_PERIOD, &[], positive(given.cpu_period).unwrap_or(100_000));
        self.put(&SPEC_CPU_SHARES, &[], positive(given.cpu_shares).unwrap_or(1024));
        if let Some(quota) = positive(given.cpu_quota) {
            self.put(&SPEC_CPU_QUOTA, &[], quota);
        }
        let memory = stats.group.as_ref().and_then(|group| group.memory);
        let swap = stats.group.as_ref().and_then(|group| group.swap);
        self.put(&SPEC_MEMORY_LIMIT, &[], memory.and_then(|memory| memory.limit).unwrap_or(0));
        self.put(&SPEC_MEMORY_RESERVATION, &[], memory.and_then(|memory| memory.reservation).unwrap_or(0));
        self.put(&SPEC_MEMORY_SWAP, &[], swap.and_then(|swap| swap.limit).unwrap_or(0));
        self.put(&START_TIME, &[], stats.started_at.unsigned_abs() / SECOND);
        self.put(&LAST_SEEN, &[], stats.at.unsigned_abs() / SECOND);
    }
}

fn id(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

/// A ready sandbox with its running containers.
pub(crate) fn of_sandbox(stats: &SandboxStats) -> v1::PodSandboxMetrics {
    let pod = |container: &str, path: &str, image: &str, name: &str| {
        let (namespace, pod) = (&stats.metadata.namespace, &stats.metadata.name);
        [container, &id(path), image, name, namespace, pod].map(str::to_owned).to_vec()
    };
    let mut sheet = Sheet { labels: pod("", &stats.cgroup_path, "", ""), at: stats.at, metrics: Vec::new() };
    if let Some(group) = &stats.group {
        sheet.group(group);
    }
    if let Some(processes) = &stats.processes {
        sheet.processes(processes);
    }
    stats.interfaces.iter().for_each(|interface| sheet.interface(interface));
    let container = |stats: &ContainerStats| {
        let name = stats.id.to_string();
        let labels = pod(&stats.metadata.name, &stats.cgroup_path, &stats.image, &name);
        let mut sheet = Sheet { labels, at: stats.at, metrics: Vec::new() };
        if let Some(group) = &stats.group {
            sheet.group(group);
        }
        if let Some(processes) = &stats.processes {
            sheet.processes(processes);
        }
        if let Some(layer) = &stats.layer {
            sheet.layer(layer);
        }
        if let Some(dropped) = stats.log_dropped {
            sheet.put(&LOG_DROPPED, &[], dropped);
        }
        sheet.given(stats);
        v1::ContainerMetrics { container_id: name, metrics: sheet.metrics }
    };
    v1::PodSandboxMetrics {
        pod_sandbox_id: stats.id.to_string(),
        metrics: sheet.metrics,
        container_metrics: stats.containers.iter().map(container).collect(),
    }
}

#[cfg(test)]
mod tests;
