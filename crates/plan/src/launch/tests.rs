use super::*;
use crate::{HostFacts, PodFiles, RecordedSpec, ResolvedUser, container_spec};
use berth_ids::{ContainerId, SandboxId};
use berth_model::{ContainerConfig, Mount as Asked, SandboxConfig};
use oci_spec::image::ImageConfiguration;

struct Rig {
    sandbox: SandboxConfig,
    container: ContainerConfig,
    host: HostFacts,
    shm: bool,
    host_devices: bool,
    target: Option<ContainerId>,
    devices: Vec<crate::RequestedDevice>,
    image: ImageConfiguration,
}

impl Default for Rig {
    fn default() -> Self {
        Self {
            sandbox: SandboxConfig {
                log_directory: "/logs".into(),
                hostname: "pod".into(),
                ..Default::default()
            },
            container: ContainerConfig { command: vec!["/app".into(), "x".into()], ..Default::default() },
            host: HostFacts::default(),
            shm: true,
            host_devices: true,
            target: None,
            devices: Vec::new(),
            image: ImageConfiguration::default(),
        }
    }
}

impl Rig {
    fn plan(&self) -> (Spec, ContainerPlan) {
        let inputs = ContainerInputs {
            sandbox_id: &SandboxId::from_bytes([1; 32]),
            container_id: &ContainerId::from_bytes([2; 32]),
            sandbox: &self.sandbox,
            container: &self.container,
            image: &self.image,
            user: &ResolvedUser { uid: 5, gid: 6, groups: vec![6, 7], home: "/".into(), name: String::new() },
            files: &PodFiles {
                hostname: "/s/hostname".into(),
                hosts: "/s/hosts".into(),
                resolv_conf: "/s/resolv".into(),
            },
            host: &self.host,
            cgroup_path: "/kube/c",
            seccomp: Some(CompiledFilter { bytes: vec![1; 8], flags: 2 }),
            devices: &self.devices,
            target_pid_container: self.target.clone(),
            privileged_host_devices: self.host_devices,
            sandbox_has_shm: self.shm,
        };
        let spec = container_spec(&inputs).unwrap();
        let plan = container_plan(&spec, &inputs).unwrap();
        (spec, plan)
    }
}

fn targets(plan: &ContainerPlan) -> Vec<String> {
    plan.launch.mounts.iter().map(|m| m.target.to_string_lossy().into_owned()).collect()
}

fn at<'a>(plan: &'a ContainerPlan, target: &str) -> &'a MountStep {
    plan.launch.mounts.iter().find(|m| m.target.to_bytes() == target.as_bytes()).unwrap()
}

#[test]
fn a_plain_container() {
    let (spec, plan) = Rig::default().plan();
    assert_eq!(plan.launch.argv, [c"/app".to_owned(), c"x".to_owned()]);
    let expected = [
        "/proc",
        "/dev",
        "/sys",
        "/dev/pts",
        "/dev/mqueue",
        "/dev/shm",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/sys/fs/cgroup",
    ];
    assert_eq!(targets(&plan), expected);
    assert!(at(&plan, "/sys").attrs.readonly && at(&plan, "/sys/fs/cgroup").attrs.readonly);
    assert!(!at(&plan, "/etc/hosts").attrs.readonly);
    let identity = &plan.launch.identity;
    assert_eq!((identity.uid, identity.gid, identity.groups.as_slice()), (5, 6, &[6, 7][..]));
    assert_eq!((identity.seccomp.len(), identity.seccomp_flags), (8, 2));
    assert_eq!(identity.caps.inheritable, 0);
    assert_eq!(plan.fds[usize::from(plan.launch.rootfs.0)], FdSource::Rootfs);
    assert_eq!(plan.launch.stdio.log, LogTarget::Discard);
    let rules = plan.resources.devices().clone().unwrap();
    assert!(!rules[0].allow() && rules[0].access().as_deref() == Some("rwm"));
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["process"]["args"], serde_json::json!(["/app", "x"]));
    assert_eq!(json["linux"]["cgroupsPath"], "/kube/c");
}

#[test]
fn pid_namespaces() {
    let mut rig = Rig::default();
    for (mode, expected) in [
        (NamespaceMode::Pod, PidNamespace::Pod),
        (NamespaceMode::Container, PidNamespace::New),
        (NamespaceMode::Node, PidNamespace::Host),
    ] {
        rig.container.security.namespaces.pid = mode;
        assert_eq!(rig.plan().1.launch.pid_namespace, expected);
    }
    rig.container.security.namespaces.pid = NamespaceMode::Pod;
    for (of_sandbox, expected) in
        [(NamespaceMode::Node, PidNamespace::Host), (NamespaceMode::Container, PidNamespace::New)]
    {
        rig.sandbox.security.namespaces.pid = of_sandbox;
        assert_eq!(rig.plan().1.launch.pid_namespace, expected);
    }
    rig.container.security.namespaces.pid = NamespaceMode::Target;
    rig.target = Some(ContainerId::from_bytes([3; 32]));
    let plan = rig.plan().1;
    let PidNamespace::Join(fd) = plan.launch.pid_namespace else { panic!("joins nothing") };
    assert_eq!(plan.fds[usize::from(fd.0)], FdSource::TargetPid(ContainerId::from_bytes([3; 32])));
}

#[test]
fn requested_mounts_replace_and_nest() {
    let mut rig = Rig::default();
    let ask = |target: &str, source: &str| Asked {
        container_path: target.into(),
        host_path: source.into(),
        ..Default::default()
    };
    rig.container.mounts = vec![ask("/a/b/", "/1"), ask("/a", "/2"), ask("/etc/hosts", "/3")];
    rig.container.mounts[1].readonly = true;
    rig.container.log_path = "c.log".into();
    let (_, plan) = rig.plan();
    let order = targets(&plan);
    let place = |target: &str| order.iter().position(|t| t == target).unwrap();
    assert!(place("/a") < place("/a/b"));
    assert_eq!(order.iter().filter(|t| *t == "/etc/hosts").count(), 1);
    assert!(at(&plan, "/a").attrs.readonly && !at(&plan, "/a").attrs.recursive_readonly);
    assert!(!at(&plan, "/a/b").attrs.readonly);
    let MountKind::Bind(fd) = at(&plan, "/a").kind else { panic!("no bind") };
    let FdSource::Bind { source, missing, .. } = &plan.fds[usize::from(fd.0)] else { panic!("no source") };
    assert_eq!((source.to_str(), *missing), (Some("/2"), MissingSource::CreateDirectory));
    let LogTarget::File(fd) = plan.launch.stdio.log else { panic!("no log") };
    assert_eq!(plan.fds[usize::from(fd.0)], FdSource::Log);
}

#[test]
fn privileged_opens_up() {
    let mut rig = Rig::default();
    rig.container.security.privileged = true;
    rig.container.security.masked_paths = vec!["/proc/kcore".into()];
    rig.host.host_devices = vec![crate::HostDevice {
        path: "/dev/fuse".into(),
        character: true,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
    }];
    let (_, plan) = rig.plan();
    assert!(plan.launch.masked_paths.is_empty());
    assert!(!at(&plan, "/sys").attrs.readonly);
    assert!(plan.launch.devices.iter().any(|d| d.path.as_c_str() == c"/dev/fuse"));
    assert!(plan.resources.devices().clone().unwrap().iter().all(|rule| rule.allow()));
    assert_eq!(plan.launch.identity.caps.bounding, (1 << 41) - 1);

    // Where the node's owner says so: as privileged as before, but for devices.
    rig.host_devices = false;
    let (_, plan) = rig.plan();
    assert!(!at(&plan, "/sys").attrs.readonly);
    assert!(plan.launch.devices.iter().all(|d| d.path.as_c_str() != c"/dev/fuse"));
    let rules = plan.resources.devices().clone().unwrap();
    assert!(!rules[0].allow() && rules[0].access().as_deref() == Some("rwm"));
    assert_eq!(plan.launch.identity.caps.bounding, (1 << 41) - 1);
}

#[test]
fn image_volumes_get_a_directory_unless_mounted_over() {
    let json = serde_json::json!({"architecture": "amd64", "os": "linux",
        "config": {"Volumes": {"/data": {}, "/over": {}, "/../etc": {}, "/": {}, "//proc/": {}, "/sys/x": {},
            "/dev": {}, "/etc/hosts": {}}},
        "rootfs": {"type": "layers", "diff_ids": []}, "history": []});
    let mut rig = Rig { image: serde_json::from_value(json).unwrap(), ..Rig::default() };
    rig.container.mounts =
        vec![Asked { container_path: "/over".into(), host_path: "/h".into(), ..Default::default() }];
    let (_, plan) = rig.plan();
    assert_eq!(plan.volumes, ["/data"]);
    let MountKind::Bind(fd) = at(&plan, "/data").kind else { panic!("no bind") };
    assert_eq!(plan.fds[usize::from(fd.0)], FdSource::Volume { index: 0 });
}

#[test]
fn a_requested_dev_is_left_alone() {
    let mut rig = Rig::default();
    rig.container.mounts =
        vec![Asked { container_path: "/dev/".into(), host_path: "/dev".into(), ..Default::default() }];
    let (_, plan) = rig.plan();
    assert!(plan.launch.devices.is_empty() && plan.launch.symlinks.is_empty());
    let in_dev: Vec<_> = targets(&plan).into_iter().filter(|t| t.starts_with("/dev")).collect();
    assert_eq!(in_dev, ["/dev"]);
    assert!(matches!(at(&plan, "/dev").kind, MountKind::Bind(_)));
}

#[test]
fn requested_devices_are_made_and_allowed() {
    let node = crate::HostDevice {
        path: "/dev/x".into(),
        character: false,
        major: 7,
        minor: 3,
        mode: 0o640,
        uid: 1,
        gid: 2,
    };
    let rig =
        Rig { devices: vec![crate::RequestedDevice { node, permissions: "r".into() }], ..Rig::default() };
    let (_, plan) = rig.plan();
    let made = plan.launch.devices.iter().find(|d| d.path.as_c_str() == c"/dev/x").unwrap();
    assert_eq!((made.character, made.major, made.minor, made.mode, made.uid), (false, 7, 3, 0o640, 1));
    let rules = plan.resources.devices().clone().unwrap();
    let last = rules.last().unwrap();
    assert_eq!(
        (last.allow(), last.major(), last.minor(), last.access().as_deref()),
        (true, Some(7), Some(3), Some("r"))
    );
}

#[test]
fn execs_are_who_the_container_is() {
    let (spec, plan) = Rig::default().plan();
    let security = berth_model::ContainerSecurity::default();
    let id = ContainerId::from_bytes([2; 32]);
    let filter = CompiledFilter { bytes: vec![1; 8], flags: 2 };
    // As a daemon after this one reads it.
    let text = serde_json::to_string(&RecordedSpec::of(&spec).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    let spec: RecordedSpec = serde_json::from_str(&text).unwrap();
    let exec = |tty| {
        let command = ["ls".to_owned(), "-l".to_owned()];
        crate::exec_plan(&id, &spec, &security, &command, tty, Some(filter.clone()), &HostFacts::default())
    };
    let plain = exec(false).unwrap();
    assert_eq!((plain.identity, plain.rlimits), (plan.launch.identity, plan.launch.rlimits));
    assert_eq!((plain.env, plain.cwd), (plan.launch.env, plan.launch.cwd));
    assert_eq!(plain.argv, [c"ls".to_owned(), c"-l".to_owned()]);
    assert!(exec(true).unwrap().env.contains(&c"TERM=xterm".to_owned()));
}

#[test]
fn the_spec_of_a_plain_container_is_this() {
    let (spec, _) = Rig::default().plan();
    let mut found = serde_json::to_value(&spec).unwrap();
    // Sets, written in any order.
    for (_, set) in found["process"]["capabilities"].as_object_mut().unwrap() {
        set.as_array_mut().unwrap().sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    let expected: serde_json::Value = serde_json::from_str(include_str!("plain.json")).unwrap();
    let text = serde_json::to_string_pretty(&found).unwrap();
    assert_eq!(found, expected, "{text}");
}
