use super::*;
use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResourcesBuilder};
use std::process::{Child, Command};

/// A cgroup of this test's own in every hierarchy; gone at its end, whatever happens.
struct Own(Cgroup, Cgroup);

impl Own {
    fn new(name: &str, limits: &Limits) -> Self {
        Self::of(&Cgroups::detect().unwrap(), name, limits)
    }

    fn of(cgroups: &Cgroups, name: &str, limits: &Limits) -> Self {
        let top = format!("/berth-test-{}-{name}", std::process::id());
        let inner = CgroupPath::new(&format!("{top}/inner")).unwrap();
        let parent = cgroups.open(&CgroupPath::new(&top).unwrap());
        Self(cgroups.create(&inner, limits).unwrap(), parent)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.1.kill(Duration::from_secs(5)).unwrap();
        self.1.remove(Duration::from_secs(5)).unwrap();
    }
}

/// A process in the cgroup.
fn member(cgroup: &Cgroup) -> Child {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    for file in cgroup.procs_files().unwrap() {
        berth_sys::fd::write(&file, child.id().to_string().as_bytes()).unwrap();
    }
    child
}

#[test]
fn a_cgroup_lives_and_goes() {
    let own = Own::new("life", &Limits::default());
    let mut child = member(&own.0);
    assert_eq!(own.0.pids(), [child.id() as i32]);
    assert!(own.0.remove(Duration::from_millis(20)).is_err(), "removed with a process in it");
    own.0.kill(Duration::from_secs(5)).unwrap();
    child.wait().unwrap();
    own.0.remove(Duration::from_secs(5)).unwrap();
    own.0.remove(Duration::from_secs(5)).unwrap();
    assert!(own.0.pids().is_empty());
}

#[test]
fn limits_are_in_the_files() {
    let limits = Limits {
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        memory: Some(64 << 20),
        pids: Some(33),
        ..Limits::default()
    };
    let own = Own::new("limits", &limits);
    let read = |controller: &str, v1: &str, v2: &str| {
        let path = match own.0.cgroups.kind() {
            Kind::V2 => own.0.v2().unwrap().join(v2),
            _ => own.0.v1_of(controller).unwrap().join(v1),
        };
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "33");
    if own.0.cgroups.kind() != Kind::V2 {
        assert_eq!(read("cpu", "cpu.shares", ""), "512");
        assert_eq!(
            (read("cpu", "cpu.cfs_quota_us", ""), read("cpu", "cpu.cfs_period_us", "")),
            ("20000".into(), "50000".into())
        );
    }
}

#[test]
fn a_refused_limit_leaves_nothing() {
    let cgroups = Cgroups::detect().unwrap();
    let path = CgroupPath::new(&format!("/berth-test-{}-refused", std::process::id())).unwrap();
    let limits = Limits { cpus: Some("9999".into()), ..Limits::default() };
    cgroups.create(&path, &limits).unwrap_err();
    assert!(cgroups.open(&path).directories().iter().all(|directory| !directory.exists()));
}

#[test]
fn an_execs_leaf_is_killed_alone() {
    leaf_is_killed_alone(&Own::new("leaf", &Limits::default()));
}

#[test]
fn also_where_there_is_no_v2_tree() {
    let mut cgroups = Cgroups::detect().unwrap();
    if cgroups.kind() == Kind::V2 {
        return;
    }
    cgroups.v2 = None;
    leaf_is_killed_alone(&Own::of(&cgroups, "v1-leaf", &Limits::default()));
}

fn leaf_is_killed_alone(own: &Own) {
    let leaf = own.0.exec_leaf("exec-1").unwrap();
    let mut other = member(&own.0);
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    for file in &leaf.procs_files {
        berth_sys::fd::write(file, child.id().to_string().as_bytes()).unwrap();
    }
    leaf.kill_and_remove(Duration::from_secs(5)).unwrap();
    child.wait().unwrap();
    assert_eq!(other.try_wait().unwrap(), None, "the container's own process was killed too");
    own.0.kill(Duration::from_secs(5)).unwrap();
    other.wait().unwrap();
}

#[test]
fn device_programs_load_and_attach() {
    let own = Own::new("devices", &Limits::default());
    let Some(v2) = own.0.v2() else { return };
    let rule = |allow, kind, major: i64, access: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .major(major)
            .access(access.to_owned())
            .build()
            .unwrap()
    };
    let rules = [
        rule(false, LinuxDeviceType::A, -1, "rwm"),
        rule(true, LinuxDeviceType::C, 1, "rwm"),
        rule(true, LinuxDeviceType::B, 7, "r"),
    ];
    crate::v2_devices::attach(&v2, &rules).unwrap();
    let resources = LinuxResourcesBuilder::default().devices(rules.to_vec()).build().unwrap();
    assert!(Limits::from_oci(&resources).unwrap().devices.is_some());
}

#[test]
fn usage_is_counted() {
    let own = Own::new("usage", &Limits { memory: Some(256 << 20), pids: Some(44), ..Limits::default() });
    let files = own.0.procs_files().unwrap();
    let script = "read go; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read end";
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    for file in &files {
        berth_sys::fd::write(file, child.id().to_string().as_bytes()).unwrap();
    }
    use std::io::{BufRead as _, Write as _};
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    assert_eq!(own.0.processes(), [child.id() as i32]);
    let usage = own.0.usage().unwrap();
    let cpu = usage.cpu.unwrap();
    assert!(cpu.total > 1_000_000, "{cpu:?}");
    let memory = usage.memory.unwrap();
    assert_eq!(memory.limit, Some(256 << 20));
    assert!(memory.usage > 0 && memory.working_set <= memory.usage, "{memory:?}");
    let tasks = usage.tasks.unwrap();
    assert_eq!((tasks.threads, tasks.threads_max), (1, Some(44)));
    // The parent's counts hold its children's.
    assert!(own.1.usage().unwrap().cpu.unwrap().total >= cpu.total);
    drop(stdin);
    child.wait().unwrap();
    assert!(own.0.cgroups.open(&CgroupPath::new("/berth-test-none").unwrap()).usage().is_none());
}

#[test]
fn an_update_is_all_or_nothing() {
    let memory = |bytes| Limits {
        memory: Some(bytes),
        memory_and_swap: Some(bytes),
        cpu_quota: Some(bytes >> 10),
        cpu_period: Some(100_000),
        ..Limits::default()
    };
    let own = Own::new("update", &memory(64 << 20));
    let now = || own.0.usage().unwrap().memory.unwrap().limit;
    for bytes in [128 << 20, 32 << 20, 64 << 20] {
        own.0.update(&memory(bytes)).unwrap();
        assert_eq!(now(), Some(bytes as u64));
    }
    // The pids limit is the last to be written, and this one no kernel takes; before it all others were.
    let refused =
        Limits { cpus: Some("0".into()), hugepages: Vec::new(), pids: Some(i64::MAX), ..memory(32 << 20) };
    own.0.update(&refused).unwrap_err();
    assert_eq!(now(), Some(64 << 20));
    let quota = match own.0.cgroups.kind() {
        Kind::V2 => std::fs::read_to_string(own.0.v2().unwrap().join("cpu.max")).unwrap(),
        _ => std::fs::read_to_string(own.0.v1_of("cpu").unwrap().join("cpu.cfs_quota_us")).unwrap(),
    };
    assert_eq!(quota.split_whitespace().next(), Some("65536"));
}
