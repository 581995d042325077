//! What can be refused when a container is created, so that its start has no surprise left.

use berth_model::{ContainerConfig, Mount, NamespaceMode, ProfileKind, Propagation, SandboxConfig};
use oci_spec::image::ImageConfiguration;

use crate::error::plain;
use crate::{HostFacts, PlanError, ResolvedUser, caps, command, spec};

/// Linux: PATH_MAX.
const PATH: usize = 4096;
/// The shim gets one descriptor for each in a single packet, so there is a bound well below the kernel's.
const MOUNTS: usize = 200;
/// What execve(2) takes in arguments and environment together; what exceeds it fails at the start anyway.
const ARGUMENTS: usize = 2 * 1024 * 1024;
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
    if container.mounts.len() > MOUNTS {
        return Err(PlanError::invalid("config.mounts", format!("more than {MOUNTS}")));
    }
    for (n, mount) in container.mounts.iter().enumerate() {
        check_mount(&format!("config.mounts[{n}]"), mount, host)?;
    }
    for (n, device) in container.devices.iter().enumerate() {
        let absolute = |path: &str| path.starts_with('/') && !path.contains('\0') && path.len() <= PATH;
        if !absolute(&device.host_path) {
            return Err(PlanError::invalid(
                format!("config.devices[{n}].host_path"),
                "must be an absolute path",
            ));
        }
        if !device.container_path.is_empty() && !absolute(&device.container_path) {
            return Err(PlanError::invalid(
                format!("config.devices[{n}].container_path"),
                "must be an absolute path",
            ));
        }
        if !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(PlanError::invalid(
                format!("config.devices[{n}].permissions"),
                "must be some of r, w and m",
            ));
        }
    }
    if !container.cdi_devices.is_empty() {
        return Err(PlanError::unsupported("config.CDI_devices", "CDI devices are not supported yet"));
    }
    namespaces(sandbox, container)?;
    security(container, host)?;
    crate::resources::check(container.resources.as_ref(), host)
}

fn log_path(path: &str) -> Result<(), PlanError> {
    plain("config.log_path", path, PATH)?;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
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
    let size: usize = argv.iter().map(|arg| arg.len() + 1).sum();
    let env: usize = container.envs.iter().map(|e| e.key.len() + e.value.len() + 2).sum();
    match size + env > ARGUMENTS {
        true => Err(PlanError::invalid("config.args", "arguments and environment are more than 2 MiB")),
        false => Ok(()),
    }
}

fn check_mount(field: &str, mount: &Mount, host: &HostFacts) -> Result<(), PlanError> {
    let at = |part: &str| format!("{field}.{part}");
    plain(&at("container_path"), &mount.container_path, PATH)?;
    plain(&at("host_path"), &mount.host_path, PATH)?;
    if mount.container_path.is_empty() {
        return Err(PlanError::invalid(at("container_path"), "must not be empty"));
    }
    if mount.container_path.split('/').any(|part| part == "..") {
        return Err(PlanError::invalid(at("container_path"), "contains \"..\""));
    }
    if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return Err(PlanError::unsupported(at("image"), "image volumes are not supported yet"));
    }
    if !mount.host_path.starts_with('/') {
        return Err(PlanError::invalid(at("host_path"), "must be an absolute path"));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(PlanError::unsupported(at("uidMappings"), "idmapped mounts are not supported yet"));
    }
    if !mount.mount_options.is_empty() {
        return Err(PlanError::unsupported(at("mount_options"), "mount options are not supported yet"));
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

fn namespaces(sandbox: &SandboxConfig, container: &ContainerConfig) -> Result<(), PlanError> {
    let field = |part: &str| format!("{CONTEXT}.namespace_options.{part}");
    let (of_pod, own) = (&sandbox.security.namespaces, &container.security.namespaces);
    for (kind, pod, mode) in [("network", of_pod.network, own.network), ("ipc", of_pod.ipc, own.ipc)] {
        if pod != mode {
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
        // The sandbox made no pid namespace to share.
        NamespaceMode::Pod if of_pod.pid != NamespaceMode::Pod => {
            Err(PlanError::invalid(field("pid"), format!("is Pod while the sandbox has {:?}", of_pod.pid)))
        }
        NamespaceMode::Node if of_pod.pid != NamespaceMode::Node => {
            Err(PlanError::invalid(field("pid"), format!("is Node while the sandbox has {:?}", of_pod.pid)))
        }
        _ => match &own.userns {
            Some(userns) if userns.mode == NamespaceMode::Pod => {
                Err(PlanError::unsupported(field("userns_options"), "user namespaces are not supported yet"))
            }
            _ => Ok(()),
        },
    }
}

fn security(container: &ContainerConfig, host: &HostFacts) -> Result<(), PlanError> {
    let security = &container.security;
    caps::sets(security, host)?;
    spec::seccomp_choice(security)?;
    for (kind, paths) in
        [("masked_paths", &security.masked_paths), ("readonly_paths", &security.readonly_paths)]
    {
        for (n, path) in paths.iter().enumerate() {
            let field = format!("{CONTEXT}.{kind}[{n}]");
            plain(&field, path, PATH)?;
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return Err(PlanError::invalid(field, "must be an absolute path without \"..\""));
            }
        }
    }
    // Honoured or refused, never ignored.
    if let Some(profile) = &security.apparmor
        && profile.kind == ProfileKind::Localhost
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

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::{Device, ImageSpec, Resources, SecurityProfile};

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
    fn bad_containers_name_their_field() {
        refused("config.log_path", |c| c.log_path = "../x".into());
        refused("config.log_path", |c| c.log_path = "/x".into());
        refused("config.command", |c| c.command.clear());
        refused("config.args", |c| c.args = vec!["a\0b".into()]);
        refused("config.args", |c| c.args = vec!["a".repeat(3 << 20)]);
        refused("config.mounts[0].container_path", |c| c.mounts = mount(|m| m.container_path.clear()));
        refused("config.mounts[0].container_path", |c| {
            c.mounts = mount(|m| m.container_path = "/a/../b".into())
        });
        refused("config.mounts[0].host_path", |c| c.mounts = mount(|m| m.host_path = "rel".into()));
        refused("config.mounts[0].recursive_read_only", |c| {
            c.mounts = mount(|m| m.recursive_read_only = true)
        });
        refused("config.mounts[0].image", |c| {
            c.mounts = mount(|m| m.image = Some(ImageSpec { image: "x".into(), ..Default::default() }));
        });
        refused("config.mounts", |c| c.mounts = vec![mount(|_| {}).remove(0); MOUNTS + 1]);
        refused("config.devices[0].host_path", |c| c.devices = vec![Device::default()]);
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
        refused("resources.memory_limit_in_bytes", |c| {
            c.resources = Some(Resources { memory_limit: -1, ..Default::default() });
        });
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
