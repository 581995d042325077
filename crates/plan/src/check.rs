//! What can be refused when a container is created, so that its start has no surprise left.

use berth_model::{
    ContainerConfig, Mount, NamespaceMode, ProfileKind, Propagation, SandboxConfig, SelinuxOptions,
};
use oci_spec::image::ImageConfiguration;

use crate::error::plain;
use crate::{HostFacts, PlanError, ResolvedUser, caps, command, devices, mounts, spec};

/// Linux: PATH_MAX.
const PATH: usize = 4096;
/// Of the request and of the image's volumes together: the shim gets one descriptor for each in a single packet, which
/// carries 253 (SCM_MAX_FD); the rest is for the pod's files and the control groups.
const MOUNTS: usize = 220;
const DEVICES: usize = 1024;
/// Linux: MAX_ARG_STRLEN, the closing NUL included.
const ARGUMENT: usize = 128 * 1024;
/// Elements of one list that the shim reads.
const COUNT: usize = 65_536;
/// What execve(2) takes in arguments and environment together; what exceeds it fails at the start anyway.
const ARGUMENTS: usize = 2 * 1024 * 1024;
/// Read-only reports of the kernel that tools like lxcfs replace; nothing is ever written to them.
const PROC_FILES: [&str; 7] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];
const CONTEXT: &str = "config.linux.security_context";

/// Refuses what cannot be carried out. Looks at nothing but its arguments.
pub fn validate_container(
    sandbox: &SandboxConfig,
    container: &ContainerConfig,
    image: &ImageConfiguration,
    host: &HostFacts,
) -> Result<(), PlanError> {
    plain("config.metadata.name", &container.metadata.name, PATH)?;
    log_path(&container.log_path)?;
    arguments(container, image)?;
    command::env(sandbox, container, image, &ResolvedUser::default())?;
    plain("config.working_dir", &container.working_dir, PATH)?;
    mounts(container, image, host)?;
    devices(container)?;
    if !container.cdi_devices.is_empty() {
        return Err(PlanError::unsupported("config.CDI_devices", "CDI devices are not supported yet"));
    }
    namespaces(sandbox, container)?;
    security(sandbox, container, host)?;
    crate::resources::check(container.resources.as_ref(), host)
}

fn log_path(path: &str) -> Result<(), PlanError> {
    plain("config.log_path", path, PATH)?;
    if path.starts_with('/') || climbs(path) {
        return Err(PlanError::invalid(
            "config.log_path",
            "must be relative and stay inside the log directory",
        ));
    }
    Ok(())
}

fn arguments(container: &ContainerConfig, image: &ImageConfiguration) -> Result<(), PlanError> {
    let argv = command::argv(container, image)?;
    if argv.iter().any(|arg| arg.contains('\0')) {
        return Err(PlanError::invalid("config.args", "contains a NUL byte"));
    }
    if let Some(long) = argv.iter().find(|arg| arg.len() >= ARGUMENT) {
        let problem = format!("one of {} bytes; execve(2) takes {}", long.len(), ARGUMENT - 1);
        return Err(PlanError::invalid("config.args", problem));
    }
    for (n, env) in container.envs.iter().enumerate() {
        if env.key.len() + env.value.len() + 1 >= ARGUMENT {
            let problem = format!("is longer than the {} bytes that execve(2) takes", ARGUMENT - 1);
            return Err(PlanError::invalid(format!("config.envs[{n}]"), problem));
        }
    }
    if argv.len() > COUNT || container.envs.len() > COUNT {
        return Err(PlanError::invalid("config.args", format!("more than {COUNT} arguments or variables")));
    }
    let size: usize = argv.iter().map(|arg| arg.len() + 1).sum();
    let env: usize = container.envs.iter().map(|e| e.key.len() + e.value.len() + 2).sum();
    match size + env > ARGUMENTS {
        true => Err(PlanError::invalid("config.args", "arguments and environment are more than 2 MiB")),
        false => Ok(()),
    }
}

fn mounts(
    container: &ContainerConfig,
    image: &ImageConfiguration,
    host: &HostFacts,
) -> Result<(), PlanError> {
    if container.mounts.len() + mounts::volumes(image, container).len() > MOUNTS {
        let problem = format!("with the image's volumes more than {MOUNTS}");
        return Err(PlanError::invalid("config.mounts", problem));
    }
    for (n, mount) in container.mounts.iter().enumerate() {
        check_mount(&format!("config.mounts[{n}]"), mount, host)?;
    }
    Ok(())
}

fn devices(container: &ContainerConfig) -> Result<(), PlanError> {
    if container.devices.len() > DEVICES {
        return Err(PlanError::invalid("config.devices", format!("more than {DEVICES}")));
    }
    for (n, device) in container.devices.iter().enumerate() {
        let refuse = |part, problem| Err(PlanError::invalid(format!("config.devices[{n}].{part}"), problem));
        let absolute = |path: &str| path.starts_with('/') && !path.contains('\0') && path.len() <= PATH;
        let (source, target) = (&device.host_path, &device.container_path);
        if !absolute(source) {
            return refuse("host_path", "must be an absolute path");
        }
        if !target.is_empty() && (!absolute(target) || climbs(target)) {
            return refuse("container_path", "must be an absolute path without \"..\"");
        }
        if devices::is_default(&mounts::clean(target)) && mounts::clean(source) != mounts::clean(target) {
            return refuse("container_path", "is a device that every container has");
        }
        if !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return refuse("permissions", "must be some of r, w and m");
        }
    }
    Ok(())
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn check_mount(field: &str, mount: &Mount, host: &HostFacts) -> Result<(), PlanError> {
    let at = |part: &str| format!("{field}.{part}");
    plain(&at("container_path"), &mount.container_path, PATH)?;
    plain(&at("host_path"), &mount.host_path, PATH)?;
    if !mount.container_path.starts_with('/') || climbs(&mount.container_path) {
        return Err(PlanError::invalid(at("container_path"), "must be an absolute path without \"..\""));
    }
    let target = mounts::clean(&mount.container_path);
    if target == "/" {
        return Err(PlanError::invalid(at("container_path"), "is the container's root itself"));
    }
    // What stands over parts of /proc would make lies of the writes that set a container up (CVE-2023-27561); only
    // the host's own may replace the whole.
    let in_proc = mounts::within(&target, "/proc") && !PROC_FILES.contains(&target.as_str());
    if in_proc && !(target == "/proc" && mounts::clean(&mount.host_path) == "/proc") {
        return Err(PlanError::invalid(at("container_path"), "nothing can be mounted over /proc"));
    }
    if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        image_mount(&at, mount)?;
    } else if !mount.host_path.starts_with('/') {
        return Err(PlanError::invalid(at("host_path"), "must be an absolute path"));
    }
    if let Some(other) = mount.mount_options.iter().find(|o| !mounts::OPTIONS.contains(&o.as_str())) {
        let problem = format!("{other:?} is none of {}", mounts::OPTIONS.join(", "));
        return Err(PlanError::invalid(at("mount_options"), problem));
    }
    if mount.selinux_relabel && host.selinux {
        return Err(PlanError::unsupported(at("selinux_relabel"), "SELinux labels are not supported yet"));
    }
    if mount.recursive_read_only {
        // CRI comment on `recursive_read_only`.
        if !mount.readonly {
            return Err(PlanError::invalid(at("recursive_read_only"), "needs readonly"));
        }
        if mount.propagation != Propagation::Private {
            return Err(PlanError::invalid(at("recursive_read_only"), "needs PROPAGATION_PRIVATE"));
        }
        if !host.recursive_readonly {
            return Err(PlanError::RecursiveReadOnly { field: field.to_owned() });
        }
    }
    Ok(())
}

/// CRI comments on `image` and `image_sub_path`.
fn image_mount(at: &impl Fn(&str) -> String, mount: &Mount) -> Result<(), PlanError> {
    if !mount.host_path.is_empty() {
        return Err(PlanError::invalid(at("host_path"), "must be empty with an image"));
    }
    if !mount.readonly {
        return Err(PlanError::invalid(at("readonly"), "must be true with an image"));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(PlanError::invalid(at("uidMappings"), "an image is mapped as its pod is"));
    }
    plain(&at("image_sub_path"), &mount.image_sub_path, PATH)?;
    match mount.image_sub_path.starts_with('/') || climbs(&mount.image_sub_path) {
        true => Err(PlanError::invalid(at("image_sub_path"), "must be relative and without \"..\"")),
        false => Ok(()),
    }
}

fn namespaces(sandbox: &SandboxConfig, container: &ContainerConfig) -> Result<(), PlanError> {
    let field = |part: &str| format!("{CONTEXT}.namespace_options.{part}");
    let (of_pod, own) = (&sandbox.security.namespaces, &container.security.namespaces);
    // A request that says nothing says POD, on the wire: then it gets what its sandbox has. More than that is refused.
    for (kind, pod, mode) in [("network", of_pod.network, own.network), ("ipc", of_pod.ipc, own.ipc)] {
        if pod != mode && mode != NamespaceMode::Pod {
            return Err(PlanError::invalid(
                field(kind),
                format!("is {mode:?} while the sandbox has {pod:?}"),
            ));
        }
    }
    match own.pid {
        NamespaceMode::Target if own.target_id.is_empty() => {
            Err(PlanError::invalid(field("target_id"), "must be given with pid TARGET"))
        }
        NamespaceMode::Node if of_pod.pid != NamespaceMode::Node => {
            Err(PlanError::invalid(field("pid"), format!("is Node while the sandbox has {:?}", of_pod.pid)))
        }
        _ => crate::userns::validate_container(sandbox, container),
    }
}

fn security(sandbox: &SandboxConfig, container: &ContainerConfig, host: &HostFacts) -> Result<(), PlanError> {
    let security = &container.security;
    // CRI comment on the sandbox's `privileged`.
    if security.privileged && !sandbox.security.privileged {
        return Err(PlanError::invalid(
            format!("{CONTEXT}.privileged"),
            "needs a sandbox that is privileged as well",
        ));
    }
    caps::sets(security, host)?;
    spec::seccomp_choice(security)?;
    for (kind, paths) in
        [("masked_paths", &security.masked_paths), ("readonly_paths", &security.readonly_paths)]
    {
        if paths.len() > COUNT {
            return Err(PlanError::invalid(format!("{CONTEXT}.{kind}"), format!("more than {COUNT}")));
        }
        for (n, path) in paths.iter().enumerate() {
            let field = format!("{CONTEXT}.{kind}[{n}]");
            plain(&field, path, PATH)?;
            if !path.starts_with('/') || climbs(path) {
                return Err(PlanError::invalid(field, "must be an absolute path without \"..\""));
            }
        }
    }
    // Honoured or refused, never ignored: a program that was to be confined must not run as it likes.
    if let Some(profile) = &security.apparmor
        && profile.kind != ProfileKind::Unconfined
    {
        let problem = if host.apparmor {
            "AppArmor profiles are not supported yet"
        } else {
            "this host has no AppArmor"
        };
        return Err(PlanError::unsupported(format!("{CONTEXT}.apparmor"), problem));
    }
    match &security.selinux {
        Some(label) if host.selinux && *label != berth_model::SelinuxOptions::default() => {
            Err(PlanError::unsupported(
                format!("{CONTEXT}.selinux_options"),
                "SELinux labels are not supported yet",
            ))
        }
        _ => Ok(()),
    }
}

/// What a container gets less of than it asks for, which is no reason to refuse it.
pub fn warnings(container: &ContainerConfig, host: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    let labelled = container.security.selinux.as_ref().is_some_and(|l| *l != SelinuxOptions::default());
    if labelled && !host.selinux {
        // Network add-ons bring labels for hosts of every kind; where nothing is labelled none of them is missing.
        warnings.push(format!("{CONTEXT}.selinux_options: this host has no SELinux, no label is set"));
    }
    let missing = caps::missing(&container.security, host);
    if !missing.is_empty() {
        let missing = missing.join(", ");
        warnings.push(format!("{CONTEXT}.capabilities: this host cannot give {missing}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::{CdiDevice, Device, EnvVar, ImageSpec, Resources, SecurityProfile};

    fn refused(field: &str, change: impl FnOnce(&mut ContainerConfig)) {
        let mut config = ContainerConfig { command: vec!["/app".into()], ..Default::default() };
        change(&mut config);
        let sandbox = SandboxConfig::default();
        let checked =
            validate_container(&sandbox, &config, &ImageConfiguration::default(), &HostFacts::default());
        let error = checked.expect_err(field).to_string();
        assert!(error.contains(field), "{error} lacks {field}");
    }

    fn mount(change: impl FnOnce(&mut Mount)) -> Vec<Mount> {
        let mut mount = Mount { container_path: "/c".into(), host_path: "/h".into(), ..Default::default() };
        change(&mut mount);
        vec![mount]
    }

    #[test]
    fn what_is_given_less_of_is_said() {
        let mut config = ContainerConfig::default();
        let host = HostFacts { cap_bounding: !(1 << 24), ..HostFacts::default() };
        assert_eq!(warnings(&config, &host), Vec::<String>::new());
        config.security.selinux = Some(SelinuxOptions { level: "s0".into(), ..Default::default() });
        config.security.capabilities.add = vec!["SYS_RESOURCE".into(), "CHOWN".into()];
        let said = warnings(&config, &host);
        assert!(said[0].contains("selinux_options"), "{said:?}");
        assert!(said[1].contains("CAP_SYS_RESOURCE") && !said[1].contains("CHOWN"), "{said:?}");
        config.security.capabilities.drop = vec!["SYS_RESOURCE".into()];
        let labelled = HostFacts { selinux: true, ..host };
        assert_eq!(warnings(&config, &labelled), Vec::<String>::new());
    }

    #[test]
    fn recursive_read_only_begins_as_cri_says() {
        let mut config = ContainerConfig { command: vec!["/app".into()], ..Default::default() };
        config.mounts = mount(|m| (m.readonly, m.recursive_read_only) = (true, true));
        let host = HostFacts { recursive_readonly: false, ..HostFacts::default() };
        let checked =
            validate_container(&SandboxConfig::default(), &config, &ImageConfiguration::default(), &host);
        let said = checked.unwrap_err().to_string();
        assert!(said.starts_with("RROUnsupported: config.mounts[0]"), "{said}");
    }

    #[test]
    fn bad_containers_name_their_field() {
        refused("config.log_path", |c| c.log_path = "../x".into());
        refused("config.log_path", |c| c.log_path = "/x".into());
        refused("config.command", |c| c.command.clear());
        refused("config.args", |c| c.args = vec!["a\0b".into()]);
        refused("config.args", |c| c.args = vec!["a".repeat(3 << 20)]);
        refused("config.args", |c| c.args = vec!["a".repeat(ARGUMENT)]);
        refused("config.args", |c| c.args = vec!["a".into(); COUNT]);
        refused("config.envs[0]", |c| {
            c.envs = vec![EnvVar { key: "A".into(), value: vec![b'a'; ARGUMENT] }];
        });
        for path in ["", "rel", "/", "/./", "/a\0", "/proc", "/proc/sys/x", "//proc/self"] {
            refused("config.mounts[0].container_path", |c| {
                c.mounts = mount(|m| m.container_path = path.into());
            });
        }
        refused("config.mounts[0].container_path", |c| {
            c.mounts = mount(|m| m.container_path = "/a/../b".into())
        });
        refused("config.mounts[0].host_path", |c| c.mounts = mount(|m| m.host_path = "rel".into()));
        refused("config.mounts[0].recursive_read_only", |c| {
            c.mounts = mount(|m| m.recursive_read_only = true)
        });
        refused("config.mounts[0].host_path", |c| {
            c.mounts = mount(|m| m.image = Some(ImageSpec { image: "x".into(), ..Default::default() }));
        });
        let image = |m: &mut Mount| {
            m.image = Some(ImageSpec { image: "x".into(), ..Default::default() });
            (m.host_path, m.readonly) = (String::new(), true);
        };
        refused("config.mounts[0].readonly", |c| {
            c.mounts = mount(|m| (image(m), m.readonly = false).1);
        });
        for path in ["/abs", "../up", "a/../../b"] {
            refused("config.mounts[0].image_sub_path", |c| {
                c.mounts = mount(|m| (image(m), m.image_sub_path = path.into()).1);
            });
        }
        for option in ["exec", "bind", "mode=777", ""] {
            refused("config.mounts[0].mount_options", |c| {
                c.mounts = mount(|m| m.mount_options = vec![option.into()]);
            });
        }
        refused("config.mounts", |c| c.mounts = vec![mount(|_| {}).remove(0); MOUNTS + 1]);
        refused("config.devices[0].host_path", |c| c.devices = vec![Device::default()]);
        for path in ["x", "/dev/../x", "/dev/null"] {
            refused("config.devices[0].container_path", |c| {
                c.devices = vec![Device {
                    host_path: "/dev/x".into(),
                    container_path: path.into(),
                    ..Default::default()
                }];
            });
        }
        refused("config.CDI_devices", |c| c.cdi_devices = vec![CdiDevice { name: "v/c=d".into() }]);
        refused("security_context.privileged", |c| c.security.privileged = true);
        refused("capabilities.drop_capabilities[0]", |c| c.security.capabilities.drop = vec!["X".into()]);
        refused("seccomp.localhost_ref", |c| {
            let profile = SecurityProfile { kind: ProfileKind::Localhost, localhost_ref: "rel".into() };
            c.security.seccomp = Some(profile);
        });
        refused("config.devices[0].permissions", |c| {
            c.devices =
                vec![Device { host_path: "/dev/x".into(), permissions: "rx".into(), ..Default::default() }];
        });
        refused("namespace_options.network", |c| c.security.namespaces.network = NamespaceMode::Node);
        refused("namespace_options.pid", |c| c.security.namespaces.pid = NamespaceMode::Node);
        refused("namespace_options.target_id", |c| c.security.namespaces.pid = NamespaceMode::Target);
        refused("masked_paths[0]", |c| c.security.masked_paths = vec!["proc".into()]);
        refused("security_context.apparmor", |c| {
            let profile = SecurityProfile { kind: ProfileKind::Localhost, localhost_ref: "x".into() };
            c.security.apparmor = Some(profile);
        });
        refused("security_context.apparmor", |c| {
            c.security.apparmor = Some(SecurityProfile::default());
        });
        refused("resources.memory_limit_in_bytes", |c| {
            c.resources = Some(Resources { memory_limit: -1, ..Default::default() });
        });
    }

    #[test]
    fn what_is_not_said_is_the_sandboxs() {
        let container = ContainerConfig { command: vec!["/app".into()], ..Default::default() };
        let mut sandbox = SandboxConfig::default();
        let (image, host) = (ImageConfiguration::default(), HostFacts::default());
        for mode in [NamespaceMode::Node, NamespaceMode::Pod, NamespaceMode::Container] {
            sandbox.security.namespaces.pid = mode;
            if mode != NamespaceMode::Container {
                (sandbox.security.namespaces.network, sandbox.security.namespaces.ipc) = (mode, mode);
            }
            validate_container(&sandbox, &container, &image, &host).unwrap();
        }
    }

    #[test]
    fn mounts_over_proc() {
        let sandbox = SandboxConfig::default();
        for (target, source) in
            [("/proc", "/proc/"), ("/proc/cpuinfo", "/x"), ("/process", "/x"), ("/dev", "/dev")]
        {
            let container = ContainerConfig {
                command: vec!["/app".into()],
                mounts: mount(|m| (m.container_path, m.host_path) = (target.into(), source.into())),
                ..Default::default()
            };
            let image = ImageConfiguration::default();
            validate_container(&sandbox, &container, &image, &HostFacts::default()).unwrap();
        }
    }

    #[test]
    fn recursive_readonly_has_cris_own_error() {
        let config = ContainerConfig {
            command: vec!["/app".into()],
            mounts: mount(|m| (m.readonly, m.recursive_read_only) = (true, true)),
            ..Default::default()
        };
        let check = |recursive_readonly| {
            let host = HostFacts { recursive_readonly, ..HostFacts::default() };
            validate_container(&SandboxConfig::default(), &config, &ImageConfiguration::default(), &host)
        };
        check(true).unwrap();
        assert!(check(false).unwrap_err().to_string().starts_with("RROUnsupported"));
    }
}
