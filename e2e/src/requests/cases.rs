//! The table. A field is named as the proto spells it.

use berth_cri_api::v1::*;
use tonic::Code::{self, *};

use super::{Case, There};
use crate::client::Client;
use crate::daemon::IMAGE;

/// 64 characters of an id that nothing has.
const NOBODY: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

type Cases = Vec<Case>;

/// One case: verb, request, what is wrong with it, and what has to come of it.
macro_rules! case {
    ($cases:ident, $side:ident.$verb:ident, $wrong:expr, $request:expr => $code:expr, $names:expr) => {{
        let request = $request;
        $cases.push(Case {
            rpc: stringify!($verb),
            wrong: $wrong,
            code: $code,
            names: $names,
            ask: Box::new(move |mut client: Client| {
                let request = request.clone();
                Box::pin(async move { client.$side.$verb(request).await.map(drop) })
            }),
        });
    }};
}

pub(super) fn all(there: &There) -> Cases {
    let mut cases = Vec::new();
    ids(&mut cases, there);
    sandboxes(&mut cases);
    sandbox_security(&mut cases);
    containers(&mut cases, there);
    mounts(&mut cases, there);
    security(&mut cases, there);
    limits(&mut cases, there);
    lives(&mut cases, there);
    streams(&mut cases, there);
    lists(&mut cases);
    images(&mut cases);
    cases
}

/// Ids that are empty, are paths, or name nothing.
fn ids(cases: &mut Cases, there: &There) {
    let pod = |id: &str| id.to_owned();
    for (wrong, id, code) in [
        ("no id", "", InvalidArgument),
        ("a path as id", "../../../etc", NotFound),
        ("an id with NUL", "abc\0def", NotFound),
        ("an id that nothing has", NOBODY, NotFound),
    ] {
        // What is not there needs no stopping and no removing.
        let gone = if code == NotFound { Ok } else { code };
        let text = if code == NotFound { "" } else { "pod_sandbox_id: must not be empty" };
        case!(cases, runtime.stop_pod_sandbox, wrong, StopPodSandboxRequest { pod_sandbox_id: pod(id) } => gone, text);
        case!(cases, runtime.remove_pod_sandbox, wrong, RemovePodSandboxRequest { pod_sandbox_id: pod(id) } => gone, text);
        let text = if code == NotFound { "" } else { "container_id: must not be empty" };
        case!(cases, runtime.stop_container, wrong, StopContainerRequest { container_id: pod(id), timeout: 1 } => gone, text);
        case!(cases, runtime.remove_container, wrong, RemoveContainerRequest { container_id: pod(id) } => gone, text);

        let text = "pod_sandbox_id";
        let none = if id == NOBODY { NOBODY } else { text };
        case!(cases, runtime.pod_sandbox_status, wrong,
            PodSandboxStatusRequest { pod_sandbox_id: pod(id), verbose: false } => code, none);
        case!(cases, runtime.pod_sandbox_stats, wrong, PodSandboxStatsRequest { pod_sandbox_id: pod(id) } => code, none);
        case!(cases, runtime.update_pod_sandbox_resources, wrong,
            UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod(id), ..Default::default() } => code, none);
        let request = create(there, |_| {});
        case!(cases, runtime.create_container, wrong,
            CreateContainerRequest { pod_sandbox_id: pod(id), ..request } => code, none);
        let none = if id == NOBODY { NOBODY } else { "container_id" };
        case!(cases, runtime.start_container, wrong, StartContainerRequest { container_id: pod(id) } => code, none);
        case!(cases, runtime.container_status, wrong,
            ContainerStatusRequest { container_id: pod(id), verbose: true } => code, none);
        case!(cases, runtime.container_stats, wrong, ContainerStatsRequest { container_id: pod(id) } => code, none);
        case!(cases, runtime.reopen_container_log, wrong, ReopenContainerLogRequest { container_id: pod(id) } => code, none);
        case!(cases, runtime.exec_sync, wrong,
            ExecSyncRequest { container_id: pod(id), cmd: vec!["/guest".into()], timeout: 1 } => code, none);
        case!(cases, runtime.update_container_resources, wrong,
            UpdateContainerResourcesRequest {
                container_id: pod(id),
                linux: Some(LinuxContainerResources::default()),
                ..Default::default()
            } => code, none);
    }
}

fn sandbox(change: impl FnOnce(&mut PodSandboxConfig)) -> RunPodSandboxRequest {
    let mut config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "bad".into(),
            uid: "uid-bad".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut config);
    RunPodSandboxRequest { config: Some(config), ..Default::default() }
}

fn linux(config: &mut PodSandboxConfig) -> &mut LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn context(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    context(config).namespace_options.get_or_insert_default()
}

fn metadata(config: &mut PodSandboxConfig) -> &mut PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn sandboxes(cases: &mut Cases) {
    case!(cases, runtime.run_pod_sandbox, "no config", RunPodSandboxRequest::default() => InvalidArgument, "config");
    let handler = RunPodSandboxRequest { runtime_handler: "../runc".into(), ..sandbox(|_| {}) };
    case!(cases, runtime.run_pod_sandbox, "a handler that is not there", handler => InvalidArgument, "runtime_handler");
    type Change = fn(&mut PodSandboxConfig);
    let table: &[(&'static str, &'static str, Change)] = &[
        ("no metadata", "config.metadata", |c| c.metadata = None),
        ("no name", "config.metadata.name", |c| metadata(c).name.clear()),
        ("no uid", "config.metadata.uid", |c| metadata(c).uid.clear()),
        ("no namespace", "config.metadata.namespace", |c| metadata(c).namespace.clear()),
        ("a name with NUL", "config.metadata.name", |c| metadata(c).name = "a\0b".into()),
        ("a name of 10 000 bytes", "config.metadata.name", |c| metadata(c).name = "n".repeat(10_000)),
        ("a host name of 65 bytes", "config.hostname", |c| c.hostname = "h".repeat(65)),
        ("a host name with a slash", "config.hostname", |c| c.hostname = "a/b".into()),
        ("a host name of two lines", "config.hostname", |c| c.hostname = "a\nb".into()),
        ("a relative log directory", "config.log_directory", |c| c.log_directory = "logs".into()),
        ("a log directory with NUL", "config.log_directory", |c| c.log_directory = "/a\0b".into()),
        ("labels of 10 MiB", "config.labels", |c| c.labels = [("k".into(), "v".repeat(10 << 20))].into()),
        ("annotations of 2 MiB", "config.annotations", |c| {
            c.annotations = (0..2048).map(|n| (format!("k{n}"), "v".repeat(1024))).collect();
        }),
        ("a name server that is no address", "config.dns_config.servers[0]", |c| {
            c.dns_config = Some(DnsConfig { servers: vec!["dns.example".into()], ..Default::default() });
        }),
        ("a search domain of two lines", "config.dns_config.searches[1]", |c| {
            let searches = vec!["a".into(), "b\nnameserver 6.6.6.6".into()];
            c.dns_config = Some(DnsConfig { searches, ..Default::default() });
        }),
        ("10 000 search domains", "config.dns_config.searches", |c| {
            c.dns_config = Some(DnsConfig { searches: vec!["a".into(); 10_000], ..Default::default() });
        }),
        ("a port of 70 000", "config.port_mappings[0].container_port", |c| c.port_mappings = port(70_000, 0)),
        ("a negative port", "config.port_mappings[0].container_port", |c| c.port_mappings = port(-1, 0)),
        ("a host port of 65 536", "config.port_mappings[0].host_port", |c| {
            c.port_mappings = port(80, 65_536)
        }),
        ("a host port without a port", "config.port_mappings[0].container_port", |c| {
            c.port_mappings = port(0, 8080);
        }),
        ("an unknown protocol", "config.port_mappings[0].protocol", |c| {
            c.port_mappings = vec![PortMapping { protocol: 9, container_port: 80, ..Default::default() }];
        }),
        ("a host address that is none", "config.port_mappings[0].host_ip", |c| {
            let mapping = PortMapping {
                container_port: 80,
                host_port: 18_080,
                host_ip: "local".into(),
                ..Default::default()
            };
            c.port_mappings = vec![mapping];
        }),
        ("the same host port twice", "config.port_mappings[1].host_port", |c| {
            c.port_mappings = [port(80, 18_080), port(81, 18_080)].concat();
        }),
        ("a cgroup parent that climbs", "config.linux.cgroup_parent", |c| {
            linux(c).cgroup_parent = "/kubepods/../../x".into();
        }),
        ("a sysctl outside the namespaces", "config.linux.sysctls", |c| {
            linux(c).sysctls = [("vm.swappiness".into(), "1".into())].into();
        }),
        ("a sysctl that climbs", "config.linux.sysctls", |c| {
            linux(c).sysctls = [("net/../vm.swappiness".into(), "1".into())].into();
        }),
        ("negative memory", "config.linux.resources.memory_limit_in_bytes", |c| {
            let resources = LinuxContainerResources { memory_limit_in_bytes: -5, ..Default::default() };
            linux(c).resources = Some(resources);
        }),
    ];
    for (wrong, field, change) in table {
        case!(cases, runtime.run_pod_sandbox, wrong, sandbox(change) => InvalidArgument, field);
    }
}

fn port(container_port: i32, host_port: i32) -> Vec<PortMapping> {
    vec![PortMapping { container_port, host_port, ..Default::default() }]
}

fn sandbox_security(cases: &mut Cases) {
    const OPTIONS: &str = "config.linux.security_context.namespace_options";
    type Change = fn(&mut PodSandboxConfig);
    let table: &[(&'static str, &'static str, Change)] = &[
        ("network CONTAINER", "network", |c| namespaces(c).network = NamespaceMode::Container.into()),
        ("ipc TARGET", "ipc", |c| namespaces(c).ipc = NamespaceMode::Target.into()),
        ("an unknown pid mode", "pid", |c| namespaces(c).pid = 99),
        ("a negative network mode", "network", |c| namespaces(c).network = -1),
        ("a user namespace without mappings", "userns_options", |c| userns(c, vec![])),
        ("a user namespace of overlapping mappings", "userns_options", |c| {
            userns(c, vec![mapping(0, 100_000, 1000), mapping(500, 300_000, 1000)]);
        }),
        ("a user namespace of length 0", "userns_options", |c| userns(c, vec![mapping(0, 100_000, 0)])),
        ("a user namespace with the host's processes", "userns_options", |c| {
            userns(c, vec![mapping(0, 100_000, 65_536)]);
            namespaces(c).pid = NamespaceMode::Node.into();
        }),
        ("mappings without a user namespace", "userns_options", |c| {
            userns(c, vec![mapping(0, 100_000, 65_536)]);
            namespaces(c).userns_options.get_or_insert_default().mode = NamespaceMode::Node.into();
        }),
    ];
    for (wrong, field, change) in table {
        let _ = field;
        case!(cases, runtime.run_pod_sandbox, wrong, sandbox(change) => InvalidArgument, OPTIONS);
    }
    let table: &[(&'static str, &'static str, Change)] = &[
        ("a group without a user", "config.linux.security_context.run_as_group", |c| {
            context(c).run_as_group = Some(Int64Value { value: 5 });
        }),
        ("a negative user", "config.linux.security_context.run_as_user", |c| {
            context(c).run_as_user = Some(Int64Value { value: -1 });
        }),
        ("a negative group", "config.linux.security_context.supplemental_groups", |c| {
            context(c).supplemental_groups = vec![-7];
        }),
        ("an unknown policy of groups", "config.linux.security_context.supplemental_groups_policy", |c| {
            context(c).supplemental_groups_policy = 5;
        }),
        ("an unknown kind of profile", "config.linux.security_context.seccomp.profile_type", |c| {
            context(c).seccomp = Some(SecurityProfile { profile_type: 7, ..Default::default() });
        }),
        ("a local profile without its path", "config.linux.security_context.seccomp.localhost_ref", |c| {
            context(c).seccomp = Some(localhost(""));
        }),
    ];
    for (wrong, field, change) in table {
        case!(cases, runtime.run_pod_sandbox, wrong, sandbox(change) => InvalidArgument, field);
    }
}

fn mapping(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping { host_id, container_id, length }
}

fn userns(config: &mut PodSandboxConfig, maps: Vec<IdMapping>) {
    namespaces(config).userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: maps.clone(), gids: maps });
}

fn localhost(path: &str) -> SecurityProfile {
    SecurityProfile {
        profile_type: security_profile::ProfileType::Localhost.into(),
        localhost_ref: path.into(),
    }
}

fn create(there: &There, change: impl FnOnce(&mut ContainerConfig)) -> CreateContainerRequest {
    let mut config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "bad".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
        args: vec!["true".into()],
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    };
    change(&mut config);
    CreateContainerRequest {
        pod_sandbox_id: there.pod.clone(),
        config: Some(config),
        sandbox_config: sandbox(|_| {}).config,
    }
}

type Change = fn(&mut ContainerConfig);

fn containers(cases: &mut Cases, there: &There) {
    let none = CreateContainerRequest { config: None, ..create(there, |_| {}) };
    case!(cases, runtime.create_container, "no config", none => InvalidArgument, "config");
    let table: &[(&'static str, Code, &'static str, Change)] = &[
        ("no metadata", InvalidArgument, "config.metadata", |c| c.metadata = None),
        ("no name", InvalidArgument, "config.metadata.name", |c| {
            c.metadata.get_or_insert_default().name.clear();
        }),
        ("no image", InvalidArgument, "config.image", |c| c.image = None),
        ("an empty image", InvalidArgument, "config.image.image", |c| {
            c.image.get_or_insert_default().image.clear();
        }),
        ("an image that is not there", NotFound, "berth.test/none:1", |c| {
            c.image.get_or_insert_default().image = "berth.test/none:1".into();
        }),
        ("an argument with NUL", InvalidArgument, "config.args", |c| c.args = vec!["a\0b".into()]),
        ("arguments of 3 MiB", InvalidArgument, "config.args", |c| c.args = vec!["a".repeat(100_000); 30]),
        ("a variable without a name", InvalidArgument, "config.envs[0]", |c| c.envs = env("", "x")),
        ("a variable with = in its name", InvalidArgument, "config.envs[0]", |c| c.envs = env("A=B", "x")),
        ("a variable with NUL", InvalidArgument, "config.envs[0]", |c| c.envs = env("A", "x\0y")),
        ("a working directory with NUL", InvalidArgument, "config.working_dir", |c| {
            c.working_dir = "/a\0b".into();
        }),
        ("an absolute log path", InvalidArgument, "config.log_path", |c| c.log_path = "/etc/passwd".into()),
        ("a log path that climbs", InvalidArgument, "config.log_path", |c| c.log_path = "a/../../b".into()),
        ("labels of 10 MiB", InvalidArgument, "config.labels", |c| {
            c.labels = [("k".into(), "v".repeat(10 << 20))].into();
        }),
        ("an unknown stop signal", InvalidArgument, "config.stop_signal", |c| c.stop_signal = 999),
        ("a CDI device", Unimplemented, "config.CDI_devices", |c| {
            c.cdi_devices = vec![CdiDevice { name: "vendor.com/gpu=0".into() }];
        }),
        ("a device with a relative path", InvalidArgument, "config.devices[0].host_path", |c| {
            c.devices = vec![Device { host_path: "null".into(), ..Default::default() }];
        }),
        ("a device that is not there", InvalidArgument, "config.devices: /dev/berth-none", |c| {
            let path = "/dev/berth-none".to_owned();
            c.devices =
                vec![Device { host_path: path.clone(), container_path: path, permissions: "r".into() }];
        }),
        ("unknown rights on a device", InvalidArgument, "config.devices[0].permissions", |c| {
            let path = "/dev/null".to_owned();
            c.devices =
                vec![Device { host_path: path.clone(), container_path: path, permissions: "rx".into() }];
        }),
    ];
    for (wrong, code, names, change) in table {
        case!(cases, runtime.create_container, wrong, create(there, change) => *code, names);
    }
}

fn env(key: &str, value: &str) -> Vec<KeyValue> {
    vec![KeyValue { key: key.into(), value: value.into() }]
}

fn mounts(cases: &mut Cases, there: &There) {
    type Change = fn(&mut Mount);
    let table: &[(&'static str, &'static str, Change)] = &[
        ("a relative mount point", "container_path", |m| m.container_path = "data".into()),
        ("no mount point", "container_path", |m| m.container_path.clear()),
        ("a mount point that climbs", "container_path", |m| m.container_path = "/a/../b".into()),
        ("a mount over the root", "container_path", |m| m.container_path = "/".into()),
        ("a mount over /proc/sys", "container_path", |m| m.container_path = "/proc/sys".into()),
        ("a relative source", "host_path", |m| m.host_path = "tmp".into()),
        ("a source with NUL", "host_path", |m| m.host_path = "/tmp\0".into()),
        ("an unknown propagation", "propagation", |m| m.propagation = 9),
        ("recursive read-only, but writable", "recursive_read_only", |m| m.recursive_read_only = true),
        ("an unknown mount option", "mount_options", |m| m.mount_options = vec!["dev,suid".into()]),
        ("an image and a host path", "host_path", |m| {
            m.image = Some(ImageSpec { image: IMAGE.into(), ..Default::default() });
        }),
    ];
    for (wrong, field, change) in table {
        let request = create(there, |c| {
            let mut mount =
                Mount { container_path: "/m".into(), host_path: "/tmp".into(), ..Default::default() };
            change(&mut mount);
            c.mounts = vec![mount];
        });
        let names: &'static str = format!("config.mounts[0].{field}").leak();
        case!(cases, runtime.create_container, wrong, request => InvalidArgument, names);
    }
    let many = create(there, |c| {
        let mount = Mount { container_path: "/m".into(), host_path: "/tmp".into(), ..Default::default() };
        c.mounts = vec![mount; 10_000];
    });
    case!(cases, runtime.create_container, "10 000 mounts", many => InvalidArgument, "config.mounts");
}

fn of(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn options(config: &mut ContainerConfig) -> &mut NamespaceOption {
    of(config).namespace_options.get_or_insert_default()
}

fn security(cases: &mut Cases, there: &There) {
    const CONTEXT: &str = "config.linux.security_context";
    let table: &[(&'static str, Code, &'static str, Change)] = &[
        ("privileged in a pod that is not", InvalidArgument, "privileged", |c| of(c).privileged = true),
        ("an unknown capability", InvalidArgument, "capabilities", |c| {
            of(c).capabilities.get_or_insert_default().add_capabilities =
                vec!["NET_ADMIN".into(), "FLY".into()];
        }),
        ("the host's network in a pod with its own", InvalidArgument, "namespace_options.network", |c| {
            options(c).network = NamespaceMode::Node.into();
        }),
        ("the host's processes in a pod with its own", InvalidArgument, "namespace_options.pid", |c| {
            options(c).pid = NamespaceMode::Node.into();
        }),
        ("pid TARGET without a target", InvalidArgument, "namespace_options.target_id", |c| {
            options(c).pid = NamespaceMode::Target.into();
        }),
        ("a user namespace in a pod without", InvalidArgument, "namespace_options.userns_options", |c| {
            let maps = vec![mapping(0, 100_000, 65_536)];
            options(c).userns_options =
                Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: maps.clone(), gids: maps });
        }),
        ("a group without a user", InvalidArgument, "run_as_group", |c| {
            of(c).run_as_group = Some(Int64Value { value: 5 });
        }),
        ("a user beyond 32 bits", InvalidArgument, "run_as_user", |c| {
            of(c).run_as_user = Some(Int64Value { value: 1 << 40 });
        }),
        ("a negative group", InvalidArgument, "supplemental_groups", |c| {
            of(c).supplemental_groups = vec![-1]
        }),
        ("a user and a user's name", InvalidArgument, "run_as_username", |c| {
            of(c).run_as_user = Some(Int64Value { value: 5 });
            of(c).run_as_username = "root".into();
        }),
        ("an unknown policy of groups", InvalidArgument, "supplemental_groups_policy", |c| {
            of(c).supplemental_groups_policy = -3;
        }),
        ("a masked path that climbs", InvalidArgument, "masked_paths[0]", |c| {
            of(c).masked_paths = vec!["/proc/../etc".into()];
        }),
        ("a relative read-only path", InvalidArgument, "readonly_paths[0]", |c| {
            of(c).readonly_paths = vec!["etc".into()];
        }),
        ("an unknown kind of seccomp profile", InvalidArgument, "seccomp.profile_type", |c| {
            of(c).seccomp = Some(SecurityProfile { profile_type: 7, ..Default::default() });
        }),
    ];
    for (wrong, code, field, change) in table {
        let names: &'static str = format!("{CONTEXT}.{field}").leak();
        case!(cases, runtime.create_container, wrong, create(there, change) => *code, names);
    }
    let table: &[(&'static str, Code, &'static str, Change)] = &[
        ("pid TARGET that is not there", NotFound, NOBODY, |c| {
            options(c).pid = NamespaceMode::Target.into();
            options(c).target_id = NOBODY.into();
        }),
        (
            "a user's name that the image lacks",
            InvalidArgument,
            "config.linux.security_context.run_as_username",
            |c| {
                of(c).run_as_username = "nobody-here".into();
            },
        ),
        ("a seccomp profile that is not there", InvalidArgument, "localhost_ref: /berth-none.json", |c| {
            of(c).seccomp = Some(localhost("/berth-none.json"));
        }),
        ("an AppArmor profile", Unimplemented, "apparmor", |c| of(c).apparmor = Some(localhost("p"))),
    ];
    for (wrong, code, names, change) in table {
        case!(cases, runtime.create_container, wrong, create(there, change) => *code, names);
    }
}

fn limits(cases: &mut Cases, there: &There) {
    type Change = fn(&mut LinuxContainerResources);
    let table: &[(&'static str, &'static str, Change)] = &[
        ("negative CPU shares", "cpu_shares", |r| r.cpu_shares = -1),
        ("a negative period", "cpu_period", |r| r.cpu_period = -100_000),
        ("a period of a minute", "cpu_period", |r| r.cpu_period = 60_000_000),
        ("a quota below the kernel's least", "cpu_quota", |r| r.cpu_quota = 10),
        ("negative memory", "memory_limit_in_bytes", |r| r.memory_limit_in_bytes = -4096),
        ("less swap and memory than memory", "memory_swap_limit_in_bytes", |r| {
            (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (64 << 20, 32 << 20);
        }),
        ("an unreadable set of cores", "cpuset_cpus", |r| r.cpuset_cpus = "0-".into()),
        ("cores that the host lacks", "cpuset_cpus", |r| r.cpuset_cpus = "0-4095".into()),
        ("an OOM score of 5000", "oom_score_adj", |r| r.oom_score_adj = 5000),
        ("an unreadable page size", "hugepage_limits", |r| {
            r.hugepage_limits = vec![HugepageLimit { page_size: "../x".into(), limit: 1 }];
        }),
        ("a unified key that climbs", "unified", |r| {
            r.unified = [("../memory.max".into(), "1".into())].into()
        }),
    ];
    for (wrong, field, change) in table {
        let resources = || {
            let mut resources = LinuxContainerResources::default();
            change(&mut resources);
            Some(resources)
        };
        let request = create(there, |c| c.linux.get_or_insert_default().resources = resources());
        let names: &'static str = format!("config.linux.resources.{field}").leak();
        case!(cases, runtime.create_container, wrong, request => InvalidArgument, names);
        let request = UpdateContainerResourcesRequest {
            container_id: there.running.clone(),
            linux: resources(),
            ..Default::default()
        };
        let names: &'static str = format!("linux.{field}").leak();
        case!(cases, runtime.update_container_resources, wrong, request => InvalidArgument, names);
    }
}

/// Verbs on objects that are not in the state for them.
fn lives(cases: &mut Cases, there: &There) {
    let start = |id: &String| StartContainerRequest { container_id: id.clone() };
    case!(cases, runtime.start_container, "a container that runs", start(&there.running) => FailedPrecondition, &"running");
    case!(cases, runtime.start_container, "a container that ended", start(&there.ended) => FailedPrecondition, "exited");
    let stop = StopContainerRequest { container_id: there.running.clone(), timeout: -1 };
    case!(cases, runtime.stop_container, "a negative timeout", stop => InvalidArgument, "timeout");
    let exec = |id: &String, cmd: &[&str], timeout| ExecSyncRequest {
        container_id: id.clone(),
        cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
        timeout,
    };
    let running = &there.running;
    case!(cases, runtime.exec_sync, "no command", exec(running, &[], 1) => InvalidArgument, "cmd");
    case!(cases, runtime.exec_sync, "a command with NUL", exec(running, &["a\0b"], 1) => InvalidArgument, "cmd");
    case!(cases, runtime.exec_sync, "a negative timeout", exec(running, &["/guest"], -1) => InvalidArgument, "timeout");
    let command = &["/guest", "true"];
    case!(cases, runtime.exec_sync, "a container not started", exec(&there.created, command, 1) => FailedPrecondition, "created");
    case!(cases, runtime.exec_sync, "a container that ended", exec(&there.ended, command, 1) => FailedPrecondition, "exited");
    let log = |id: &String| ReopenContainerLogRequest { container_id: id.clone() };
    case!(cases, runtime.reopen_container_log, "a container not started", log(&there.created) => FailedPrecondition, "created");
    case!(cases, runtime.reopen_container_log, "a container that ended", log(&there.ended) => FailedPrecondition, "exited");
    let cidr = |text: &str| UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr: text.into() }) }),
    };
    for (wrong, text) in [
        ("no subnet", "here"),
        ("a subnet of 99 bits", "10.1.0.0/99"),
        ("three subnets", "10.1.0.0/24,10.2.0.0/24,fd00::/64"),
    ] {
        case!(cases, runtime.update_runtime_config, wrong, cidr(text) => InvalidArgument,
            "runtime_config.network_config.pod_cidr");
    }
    let checkpoint = CheckpointContainerRequest { container_id: there.running.clone(), ..Default::default() };
    case!(cases, runtime.checkpoint_container, "not there yet", checkpoint => Unimplemented, "CheckpointContainer");
}

fn streams(cases: &mut Cases, there: &There) {
    let exec = |id: &str, change: fn(&mut ExecRequest)| {
        let cmd = vec!["/guest".into(), "true".into()];
        let mut request =
            ExecRequest { container_id: id.into(), cmd, stdout: true, stderr: true, ..Default::default() };
        change(&mut request);
        request
    };
    let running = &there.running;
    case!(cases, runtime.exec, "no id", exec("", |_| {}) => InvalidArgument, "container_id");
    case!(cases, runtime.exec, "an id that nothing has", exec(NOBODY, |_| {}) => NotFound, NOBODY);
    case!(cases, runtime.exec, "no command", exec(running, |r| r.cmd.clear()) => InvalidArgument, "cmd");
    case!(cases, runtime.exec, "a command with NUL", exec(running, |r| r.cmd = vec!["a\0b".into()])
        => InvalidArgument, "cmd");
    case!(cases, runtime.exec, "no stream", exec(running, |r| (r.stdout, r.stderr) = (false, false))
        => InvalidArgument, "stdin");
    case!(cases, runtime.exec, "a terminal and standard error", exec(running, |r| r.tty = true)
        => InvalidArgument, "stderr");
    case!(cases, runtime.exec, "a container not started", exec(&there.created, |_| {})
        => FailedPrecondition, "created");
    case!(cases, runtime.exec, "a container that ended", exec(&there.ended, |_| {}) => FailedPrecondition, "exited");

    let attach =
        |id: &str, stdout: bool| AttachRequest { container_id: id.into(), stdout, ..Default::default() };
    case!(cases, runtime.attach, "no id", attach("", true) => InvalidArgument, "container_id");
    case!(cases, runtime.attach, "an id that nothing has", attach(NOBODY, true) => NotFound, NOBODY);
    case!(cases, runtime.attach, "no stream", attach(running, false) => InvalidArgument, "stdin");
    case!(cases, runtime.attach, "a container that ended", attach(&there.ended, true) => FailedPrecondition, "exited");

    let forward = |id: &str, port: Vec<i32>| PortForwardRequest { pod_sandbox_id: id.into(), port };
    let pod = &there.pod;
    case!(cases, runtime.port_forward, "no id", forward("", vec![80]) => InvalidArgument, "pod_sandbox_id");
    case!(cases, runtime.port_forward, "an id that nothing has", forward(NOBODY, vec![80]) => NotFound, NOBODY);
    case!(cases, runtime.port_forward, "a port of 0", forward(pod, vec![80, 0]) => InvalidArgument, "port");
    case!(cases, runtime.port_forward, "a negative port", forward(pod, vec![-1]) => InvalidArgument, "port");
    case!(cases, runtime.port_forward, "a port of 65 536", forward(pod, vec![65_536]) => InvalidArgument, "port");
    case!(cases, runtime.port_forward, "10 000 ports", forward(pod, vec![80; 10_000]) => InvalidArgument, "port");
}

fn lists(cases: &mut Cases) {
    let filter = PodSandboxFilter { state: Some(PodSandboxStateValue { state: 9 }), ..Default::default() };
    let request = ListPodSandboxRequest { filter: Some(filter) };
    case!(cases, runtime.list_pod_sandbox, "an unknown state", request => InvalidArgument, "filter.state");
    let filter = ContainerFilter { state: Some(ContainerStateValue { state: 9 }), ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    case!(cases, runtime.list_containers, "an unknown state", request => InvalidArgument, "filter.state");
    // A filter that nothing matches is no error (CRI comment on ListContainers).
    for (wrong, id) in
        [("a path as id", "../../etc"), ("an id with NUL", "a\0"), ("an id that nothing has", NOBODY)]
    {
        let filter = PodSandboxFilter { id: id.into(), ..Default::default() };
        case!(cases, runtime.list_pod_sandbox, wrong, ListPodSandboxRequest { filter: Some(filter) } => Ok, "");
        let filter = ContainerFilter { id: id.into(), ..Default::default() };
        case!(cases, runtime.list_containers, wrong, ListContainersRequest { filter: Some(filter) } => Ok, "");
    }
}

fn images(cases: &mut Cases) {
    let spec = |text: &str| Some(ImageSpec { image: text.into(), ..Default::default() });
    let pull = |text: &str| PullImageRequest { image: spec(text), ..Default::default() };
    case!(cases, images.pull_image, "no image", PullImageRequest::default() => InvalidArgument, "image");
    case!(cases, images.image_status, "no image", ImageStatusRequest::default() => InvalidArgument, "image");
    case!(cases, images.remove_image, "no image", RemoveImageRequest::default() => InvalidArgument, "image");
    for (wrong, text) in [
        ("a reference with a space", "a b"),
        ("a reference in capitals", "berth.test/UPPER"),
        ("an empty tag", "berth.test/a:"),
        ("a tag alone", ":latest"),
        ("a digest that is none", "berth.test/a@sha256:zz"),
        ("a reference that climbs", "berth.test/../a"),
    ] {
        // Of a pull's errors the kubelet shows this code's alone as they are.
        case!(cases, images.pull_image, wrong, pull(text) => Unknown, "image reference");
    }
    let nul = pull("berth.test/a\0");
    case!(cases, images.pull_image, "a reference with NUL", nul => InvalidArgument, "image.image");
    case!(cases, images.pull_image, "an empty reference", pull("") => InvalidArgument, "image.image");
    let long = pull(format!("berth.test/{}", "a".repeat(5000)).leak());
    case!(cases, images.pull_image, "a reference of 5000 bytes", long => InvalidArgument, "image.image");
    let auth = AuthConfig { auth: "%%%".into(), ..Default::default() };
    let request = PullImageRequest { auth: Some(auth), ..pull("berth.test/a:1") };
    case!(cases, images.pull_image, "credentials that are no base64", request => InvalidArgument, "auth.auth");
    // What is not there is no error of a question, nor of a removal (CRI comments on both).
    let request = ImageStatusRequest { image: spec("berth.test/none:1"), verbose: false };
    case!(cases, images.image_status, "an image that is not there", request => Ok, "");
    let request = RemoveImageRequest { image: spec("berth.test/none:1") };
    case!(cases, images.remove_image, "an image that is not there", request => Ok, "");
}
