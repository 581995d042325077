use super::*;
use berth_ids::{ContainerId, SandboxId};
use berth_model::{
    ContainerMetadata, CpuUsage, DeviceIo, HugepageUsage, MemoryUsage, Pressure, Resources, SandboxMetadata,
    SwapUsage, TaskUsage,
};
use std::collections::{BTreeMap, BTreeSet};

/// A pod that uses everything.
fn full() -> SandboxStats {
    let group = GroupUsage {
        cpu: Some(CpuUsage { total: 5 * SECOND, ..CpuUsage::default() }),
        memory: Some(MemoryUsage::default()),
        swap: Some(SwapUsage::default()),
        tasks: Some(TaskUsage::default()),
        io: vec![DeviceIo { name: "/dev/sda".into(), ..DeviceIo::default() }],
        hugepages: vec![HugepageUsage { page_size: "2MB".into(), usage: 1, peak: Some(2) }],
        pressure: Pressure {
            cpu: Some(Psi::default()),
            memory: Some(Psi::default()),
            io: Some(Psi::default()),
        },
    };
    let processes = ProcessUsage { open_files_limit: Some(1024), ..ProcessUsage::default() };
    let container = ContainerStats {
        id: ContainerId::from_bytes([2; 32]),
        metadata: ContainerMetadata { name: "app".into(), attempt: 0 },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        image: "img:1".into(),
        cgroup_path: "kubepods/pod1/c".into(),
        started_at: 3 * SECOND as i64,
        resources: Some(Resources { cpu_quota: 20_000, ..Resources::default() }),
        at: 9 * SECOND as i64,
        group: Some(group.clone()),
        nano_cores: None,
        layer: Some(LayerUsage::default()),
        processes: Some(processes),
        log_dropped: Some(3),
    };
    SandboxStats {
        id: SandboxId::from_bytes([1; 32]),
        metadata: SandboxMetadata { name: "web".into(), namespace: "ns".into(), ..Default::default() },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_path: "/kubepods/pod1".into(),
        at: 9 * SECOND as i64,
        group: Some(group),
        nano_cores: None,
        processes: Some(processes),
        interfaces: vec![InterfaceUsage { name: "eth0".into(), ..InterfaceUsage::default() }],
        containers: vec![container],
    }
}

#[test]
fn what_is_described_is_reported_and_the_labels_fit() {
    let described: BTreeMap<String, usize> =
        descriptors().into_iter().map(|d| (d.name, d.label_keys.len())).collect();
    assert_eq!(described.len(), ALL.len(), "a name twice");
    let pod = of_sandbox(&full());
    let metrics: Vec<_> =
        pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|c| &c.metrics)).collect();
    for metric in &metrics {
        assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{metric:?}");
        assert_eq!(metric.timestamp, 9 * SECOND as i64);
    }
    let reported: BTreeSet<&String> = metrics.iter().map(|metric| &metric.name).collect();
    let missing: Vec<_> = described.keys().filter(|name| !reported.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Prometheus takes a series once.
    let series: BTreeSet<_> = metrics.iter().map(|metric| (&metric.name, &metric.label_values)).collect();
    assert_eq!(series.len(), metrics.len());
}

#[test]
fn labels_name_the_object() {
    let pod = of_sandbox(&full());
    let cpu = |metrics: &[v1::Metric]| metrics.iter().find(|m| m.name == CPU_USAGE.name).cloned().unwrap();
    let one = cpu(&pod.container_metrics[0].metrics);
    assert_eq!(one.value.unwrap().value, 5);
    let id = ContainerId::from_bytes([2; 32]).to_string();
    assert_eq!(one.label_values, ["app", "/kubepods/pod1/c", "img:1", &id, "ns", "web"]);
    assert_eq!(cpu(&pod.metrics).label_values, ["", "/kubepods/pod1", "", "", "ns", "web"]);
}
