//! The OCI runtime spec of a container.

use std::path::PathBuf;

use berth_model::{ContainerConfig, ContainerSecurity, NamespaceMode, ProfileKind, SandboxConfig};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

use crate::{ContainerInputs, PlanError, SeccompChoice, caps, command, devices, mounts, resources};

/// Open files a container starts with. A soft limit of a million makes programs that close every descriptor crawl
/// (containerd issue 9660); the hard one leaves room to ask for more.
const NOFILE_SOFT: u64 = 1024;
const NOFILE_HARD: u64 = 524_288;

/// Everything a container is, in the form people and other runtimes read.
pub fn container_spec(inputs: &ContainerInputs<'_>) -> Result<Spec, PlanError> {
    build(inputs)?.map_err(|error| PlanError::invalid("config", format!("no OCI spec can be made: {error}")))
}

fn build(inputs: &ContainerInputs<'_>) -> Result<Result<Spec, OciSpecError>, PlanError> {
    let (container, security) = (inputs.container, &inputs.container.security);
    let sets = caps::sets(security, inputs.host)?;
    let args = command::argv(container, inputs.image)?;
    let env = command::env(inputs.sandbox, container, inputs.image, inputs.user)?;
    let list = |set: u64| -> oci_spec::runtime::Capabilities {
        // A name the library does not know yet is left out of the text; the plan works on bits.
        caps::names(set)
            .iter()
            .filter_map(|name| serde_json::from_value::<Capability>(name.as_str().into()).ok())
            .collect()
    };
    let privileged = security.privileged;
    let with = || {
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(list(sets.bounding))
            .permitted(list(sets.permitted))
            .effective(list(sets.effective))
            .inheritable(list(sets.inheritable))
            .ambient(list(sets.ambient))
            .build()?;
        let user = UserBuilder::default()
            .uid(inputs.user.uid)
            .gid(inputs.user.gid)
            .additional_gids(inputs.user.groups.clone())
            .umask(0o022_u32)
            .build()?;
        let mut process = ProcessBuilder::default()
            .terminal(container.tty)
            .user(user)
            .args(args)
            .env(env)
            .cwd(PathBuf::from(command::cwd(container, inputs.image)))
            .capabilities(capabilities)
            .rlimits(rlimits(inputs)?)
            .no_new_privileges(security.no_new_privs);
        if let Some(given) = &container.resources {
            process = process.oom_score_adj(i32::try_from(given.oom_score_adj).unwrap_or_default());
        }
        let mut linux = LinuxBuilder::default()
            .namespaces(namespaces(inputs)?)
            .devices(devices::nodes(inputs))
            .resources(resources::to_oci(container.resources.as_ref(), devices::rules(inputs)))
            .cgroups_path(PathBuf::from(inputs.cgroup_path))
            .masked_paths(if privileged { Vec::new() } else { security.masked_paths.clone() })
            .readonly_paths(if privileged { Vec::new() } else { security.readonly_paths.clone() });
        if let Some(propagation) = rootfs_propagation(inputs) {
            linux = linux.rootfs_propagation(propagation.to_owned());
        }
        let mut annotations = std::collections::HashMap::new();
        annotations.insert("io.kubernetes.cri.sandbox-id".to_owned(), inputs.sandbox_id.to_string());
        let mut spec = SpecBuilder::default()
            .version("1.2.0".to_owned())
            .root(
                RootBuilder::default()
                    .path(PathBuf::from("rootfs"))
                    .readonly(security.readonly_rootfs)
                    .build()?,
            )
            .process(process.build()?)
            .mounts(mounts::all(inputs))
            .annotations(annotations)
            .linux(linux.build()?)
            .build()?;
        // The library's default is a name of its own; the pod's is set in the pod's namespace, not in the container.
        spec.set_hostname(None);
        Ok(spec)
    };
    Ok(with())
}

fn rlimits(inputs: &ContainerInputs<'_>) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let hard = NOFILE_HARD.min(inputs.host.nofile_hard);
    let nofile = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(NOFILE_SOFT.min(hard))
        .hard(hard)
        .build()?;
    Ok(vec![nofile])
}

/// Whose process ids a container sees. A request that says nothing says POD, on the wire; then what its sandbox has is
/// meant, also where that is not a namespace of the pod's.
pub(crate) fn pid_mode(sandbox: &SandboxConfig, container: &ContainerConfig) -> NamespaceMode {
    match (container.security.namespaces.pid, sandbox.security.namespaces.pid) {
        (NamespaceMode::Pod, NamespaceMode::Node) => NamespaceMode::Node,
        (NamespaceMode::Pod, NamespaceMode::Container | NamespaceMode::Target) => NamespaceMode::Container,
        (own, _) => own,
    }
}

/// Those the container has to itself; what it shares with its pod it is born into.
fn namespaces(inputs: &ContainerInputs<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let new = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)?, new(LinuxNamespaceType::Cgroup)?];
    if pid_mode(inputs.sandbox, inputs.container) == NamespaceMode::Container {
        namespaces.push(new(LinuxNamespaceType::Pid)?);
    }
    Ok(namespaces)
}

/// Mounts that propagate need a root that does (runc and CRI-O raise it likewise).
fn rootfs_propagation(inputs: &ContainerInputs<'_>) -> Option<&'static str> {
    use berth_model::Propagation::{Bidirectional, HostToContainer};
    let has = |wanted| inputs.container.mounts.iter().any(|m| m.propagation == wanted);
    match (has(Bidirectional), has(HostToContainer)) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}

/// CRI: no profile means unconfined, and so does privileged.
pub fn seccomp_choice(security: &ContainerSecurity) -> Result<SeccompChoice, PlanError> {
    let Some(profile) = security.seccomp.as_ref().filter(|_| !security.privileged) else {
        return Ok(SeccompChoice::Unconfined);
    };
    match profile.kind {
        ProfileKind::Unconfined => Ok(SeccompChoice::Unconfined),
        ProfileKind::RuntimeDefault => Ok(SeccompChoice::RuntimeDefault),
        ProfileKind::Localhost => {
            let path = profile.localhost_ref.as_str();
            let path = path.strip_prefix("localhost/").unwrap_or(path);
            if !path.starts_with('/') || path.contains('\0') {
                let field = "config.linux.security_context.seccomp.localhost_ref";
                return Err(PlanError::invalid(field, format!("{path:?} is no absolute path")));
            }
            Ok(SeccompChoice::Localhost(path.into()))
        }
    }
}
