use berth_cri_api::v1;
use berth_model::{
    ContainerFilter, ContainerStats, FsUsage, GroupUsage, InterfaceUsage, LifeEvent, LifeEventKind, Psi,
    SandboxFilter, SandboxStats, Stall,
};

use super::{container_status, sandbox_status, to_map};

/// The interface whose traffic stands for the pod's (CRI comment on `default_interface`).
const DEFAULT_INTERFACE: &str = "eth0";

fn number(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn stall(stall: Stall) -> Option<v1::PsiData> {
    Some(v1::PsiData { total: stall.total, avg10: stall.avg10, avg60: stall.avg60, avg300: stall.avg300 })
}

fn psi(psi: Option<Psi>) -> Option<v1::PsiStats> {
    psi.map(|psi| v1::PsiStats { full: stall(psi.full), some: stall(psi.some) })
}

fn cpu(group: &GroupUsage, timestamp: i64, nano_cores: Option<u64>) -> Option<v1::CpuUsage> {
    group.cpu.map(|cpu| v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: number(cpu.total),
        usage_nano_cores: nano_cores.and_then(number),
        psi: psi(group.pressure.cpu),
    })
}

fn memory(group: &GroupUsage, timestamp: i64) -> Option<v1::MemoryUsage> {
    group.memory.map(|memory| v1::MemoryUsage {
        timestamp,
        working_set_bytes: number(memory.working_set),
        available_bytes: memory.limit.and_then(|limit| number(limit.saturating_sub(memory.working_set))),
        usage_bytes: number(memory.usage),
        rss_bytes: number(memory.rss),
        page_faults: number(memory.faults),
        major_page_faults: number(memory.major_faults),
        psi: psi(group.pressure.memory),
    })
}

fn swap(group: &GroupUsage, timestamp: i64) -> Option<v1::SwapUsage> {
    group.swap.map(|swap| v1::SwapUsage {
        timestamp,
        swap_available_bytes: swap.limit.and_then(|limit| number(limit.saturating_sub(swap.usage))),
        swap_usage_bytes: number(swap.usage),
    })
}

fn io(group: &GroupUsage, timestamp: i64) -> Option<v1::IoUsage> {
    group.pressure.io.map(|io| v1::IoUsage { timestamp, psi: psi(Some(io)) })
}

pub(crate) fn filesystem(usage: FsUsage, timestamp: i64) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint }),
        used_bytes: number(usage.used_bytes),
        inodes_used: number(usage.inodes_used),
    }
}

pub(crate) fn container_stats(stats: ContainerStats) -> v1::ContainerStats {
    let group = stats.group.unwrap_or_default();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: stats.id.to_string(),
            metadata: Some(v1::ContainerMetadata {
                name: stats.metadata.name,
                attempt: stats.metadata.attempt,
            }),
            labels: to_map(stats.labels),
            annotations: to_map(stats.annotations),
        }),
        cpu: cpu(&group, stats.at, stats.nano_cores),
        memory: memory(&group, stats.at),
        writable_layer: stats.layer.map(|layer| filesystem(layer.usage, layer.at)),
        swap: swap(&group, stats.at),
        io: io(&group, stats.at),
    }
}

fn interface(usage: &InterfaceUsage) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: usage.name.clone(),
        rx_bytes: number(usage.received.bytes),
        rx_errors: number(usage.received.errors),
        tx_bytes: number(usage.sent.bytes),
        tx_errors: number(usage.sent.errors),
    }
}

/// The default interface stands apart and is not listed a second time.
fn network(interfaces: &[InterfaceUsage], timestamp: i64) -> Option<v1::NetworkUsage> {
    let default = interfaces.iter().find(|i| i.name == DEFAULT_INTERFACE).or(interfaces.first())?;
    let others = interfaces.iter().filter(|i| i.name != default.name);
    Some(v1::NetworkUsage {
        timestamp,
        default_interface: Some(interface(default)),
        interfaces: others.map(interface).collect(),
    })
}

pub(crate) fn sandbox_stats(stats: SandboxStats) -> v1::PodSandboxStats {
    let group = stats.group.unwrap_or_default();
    let metadata = stats.metadata;
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: stats.id.to_string(),
            metadata: Some(v1::PodSandboxMetadata {
                name: metadata.name,
                uid: metadata.uid,
                namespace: metadata.namespace,
                attempt: metadata.attempt,
            }),
            labels: to_map(stats.labels),
            annotations: to_map(stats.annotations),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cpu(&group, stats.at, stats.nano_cores),
            memory: memory(&group, stats.at),
            network: network(&stats.interfaces, stats.at),
            process: stats
                .processes
                .map(|p| v1::ProcessUsage { timestamp: stats.at, process_count: number(p.processes) }),
            containers: stats.containers.into_iter().map(container_stats).collect(),
            io: io(&group, stats.at),
        }),
        windows: None,
    }
}

pub(crate) fn container_stats_filter(given: Option<v1::ContainerStatsFilter>) -> ContainerFilter {
    let given = given.unwrap_or_default();
    let labels = given.label_selector.into_iter().collect();
    ContainerFilter { id: given.id, state: None, sandbox_id: given.pod_sandbox_id, labels }
}

pub(crate) fn sandbox_stats_filter(given: Option<v1::PodSandboxStatsFilter>) -> SandboxFilter {
    let given = given.unwrap_or_default();
    SandboxFilter { id: given.id, state: None, labels: given.label_selector.into_iter().collect() }
}

pub(crate) fn life_event(event: &LifeEvent) -> v1::ContainerEventResponse {
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: match event.kind {
            LifeEventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
            LifeEventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
            LifeEventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
            LifeEventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
        }
        .into(),
        created_at: event.at,
        pod_sandbox_status: Some(sandbox_status(event.sandbox.clone())),
        containers_statuses: event.containers.iter().cloned().map(container_status).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::Traffic;

    #[test]
    fn the_default_interface_is_named_once() {
        let one = |name: &str, bytes| InterfaceUsage {
            name: name.into(),
            received: Traffic { bytes, ..Traffic::default() },
            ..InterfaceUsage::default()
        };
        assert!(network(&[], 1).is_none());
        let both = network(&[one("net1", 1), one("eth0", 2)], 5).unwrap();
        assert_eq!(both.default_interface.unwrap().rx_bytes.unwrap().value, 2);
        assert_eq!(both.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["net1"]);
        assert_eq!(network(&[one("ens3", 4)], 5).unwrap().default_interface.unwrap().name, "ens3");
    }

    #[test]
    fn what_is_unlimited_has_nothing_available() {
        use berth_model::{MemoryUsage, SwapUsage};
        let group = |limit| GroupUsage {
            memory: Some(MemoryUsage { working_set: 30, limit, ..MemoryUsage::default() }),
            swap: Some(SwapUsage { usage: 30, limit }),
            ..GroupUsage::default()
        };
        for (limit, left) in [(None, None), (Some(100), Some(70)), (Some(10), Some(0))] {
            let available = memory(&group(limit), 1).unwrap().available_bytes.map(|n| n.value);
            let swapped = swap(&group(limit), 1).unwrap().swap_available_bytes.map(|n| n.value);
            assert_eq!((available, swapped), (left, left), "{limit:?}");
        }
    }
}
