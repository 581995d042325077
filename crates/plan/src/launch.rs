//! The spec, flattened to what the cloned child executes.

use std::ffi::CString;
use std::path::PathBuf;

use berth_model::NamespaceMode;
use berth_shim_wire::{
    FdIndex, Identity, LaunchPlan, LogTarget, MountAttrs, MountKind, MountStep, PidNamespace, Propagation,
    Rlimit, Stdio,
};
use oci_spec::runtime::{LinuxResources, Mount, PosixRlimitType, Spec};

use crate::recorded::{Limit, Process};
use crate::{
    CompiledFilter, ContainerInputs, ContainerPlan, FdSource, Idmap, MissingSource, PlanError, caps, devices,
    mounts, spec, userns,
};

pub(crate) fn text(field: &str, text: &str) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError::invalid(field, "contains a NUL byte"))
}

pub(crate) fn texts(field: &str, list: &[String]) -> Result<Vec<CString>, PlanError> {
    list.iter().map(|one| text(field, one)).collect()
}

/// Collects descriptor requests and numbers them.
#[derive(Default)]
struct Requests(Vec<FdSource>);

impl Requests {
    fn add(&mut self, source: FdSource) -> FdIndex {
        self.0.push(source);
        // The number of mounts is bounded far below 2^16.
        FdIndex((self.0.len() - 1) as u16)
    }
}

/// The plan of a container whose spec [`crate::container_spec`] made of the same inputs.
pub fn container_plan(spec: &Spec, inputs: &ContainerInputs<'_>) -> Result<ContainerPlan, PlanError> {
    let (container, security) = (inputs.container, &inputs.container.security);
    let linux = spec.linux().as_ref().ok_or_else(|| PlanError::invalid("spec.linux", "is missing"))?;
    let process = spec.process().as_ref().ok_or_else(|| PlanError::invalid("spec.process", "is missing"))?;
    let common = Process::from(process);
    let mut fds = Requests::default();
    let rootfs = fds.add(FdSource::Rootfs);
    let volumes = mounts::volumes(inputs.image, inputs.container);
    let mut steps = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        steps.push(step(mount, inputs, &volumes, &mut fds)?);
    }
    let has_log = !inputs.sandbox.log_directory.is_empty() && !container.log_path.is_empty();
    let log = if has_log { LogTarget::File(fds.add(FdSource::Log)) } else { LogTarget::Discard };
    let pid_namespace = match (spec::pid_mode(inputs.sandbox, container), &inputs.target_pid_container) {
        (NamespaceMode::Container, _) => PidNamespace::New,
        (NamespaceMode::Pod, _) => PidNamespace::Pod,
        (NamespaceMode::Node, _) => PidNamespace::Host,
        (NamespaceMode::Target, Some(target)) => {
            PidNamespace::Join(fds.add(FdSource::TargetPid(target.clone())))
        }
        (NamespaceMode::Target, None) => {
            let field = "config.linux.security_context.namespace_options.target_id";
            return Err(PlanError::invalid(field, "names no running container"));
        }
    };
    let launch = LaunchPlan {
        container_id: inputs.container_id.to_string(),
        argv: texts("config.args", process.args().as_deref().unwrap_or_default())?,
        env: texts("config.envs", &common.env)?,
        cwd: text("config.working_dir", &common.cwd)?,
        identity: Identity {
            caps: caps::sets(security, inputs.host)?,
            ..identity(&common, inputs.seccomp.clone())
        },
        rlimits: rlimits(&common),
        oom_score_adj: common.oom_score_adj,
        pid_namespace,
        cgroup_procs: Vec::new(),
        cgroup_dir: None,
        oom_counter: None,
        rootfs,
        rootfs_readonly: security.readonly_rootfs,
        rootfs_propagation: match linux.rootfs_propagation().as_deref() {
            Some("rshared") => Propagation::Shared,
            Some("rslave") => Propagation::Slave,
            _ => Propagation::Private,
        },
        mounts: steps,
        devices: match mounts::brings_dev(container) {
            true => Vec::new(),
            false => devices::to_make(linux.devices().as_deref().unwrap_or_default())?,
        },
        symlinks: if mounts::brings_dev(container) { Vec::new() } else { devices::links()? },
        masked_paths: texts("masked_paths", linux.masked_paths().as_deref().unwrap_or_default())?,
        readonly_paths: texts("readonly_paths", linux.readonly_paths().as_deref().unwrap_or_default())?,
        stdio: Stdio {
            tty: container.tty,
            stdin: container.stdin,
            log,
            held: crate::waits_for_readers(container),
        },
    };
    let resources: LinuxResources = linux.resources().clone().unwrap_or_default();
    Ok(ContainerPlan { launch, fds: fds.0, resources, volumes, owner: userns::owner(inputs.sandbox) })
}

/// Without capabilities: a spec may name some that its reader does not know, the plan works on bits.
pub(crate) fn identity(process: &Process, seccomp: Option<CompiledFilter>) -> Identity {
    let user = &process.user;
    let seccomp = seccomp.unwrap_or(CompiledFilter { bytes: Vec::new(), flags: 0 });
    Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.additional_gids.clone(),
        umask: user.umask.unwrap_or(0o022),
        caps: Default::default(),
        no_new_privs: process.no_new_privileges,
        seccomp: seccomp.bytes,
        seccomp_flags: seccomp.flags,
    }
}

pub(crate) fn rlimits(process: &Process) -> Vec<Rlimit> {
    let one = |limit: &Limit| {
        // Only what specs of ours contain; numbers of getrlimit(2).
        let resource = match limit.kind {
            PosixRlimitType::RlimitNofile => 7,
            _ => return None,
        };
        Some(Rlimit { resource, soft: limit.soft, hard: limit.hard })
    };
    process.rlimits.iter().filter_map(one).collect()
}

fn step(
    mount: &Mount,
    inputs: &ContainerInputs<'_>,
    volumes: &[String],
    fds: &mut Requests,
) -> Result<MountStep, PlanError> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|o| o == name);
    let target = mount.destination().to_string_lossy();
    let source = mount.source().clone().unwrap_or_default();
    let kind = match mount.typ().as_deref().unwrap_or_default() {
        "proc" => MountKind::Proc,
        "sysfs" => MountKind::Sysfs,
        "cgroup" => MountKind::Cgroup,
        "mqueue" => MountKind::Mqueue,
        "devpts" => MountKind::Devpts,
        "tmpfs" => MountKind::Tmpfs { size: 64 * 1024 * 1024, mode: 0o755, inodes: 0 },
        mounts::POD_SHM => MountKind::PodShm,
        mounts::VOLUME => {
            let index = volumes.iter().position(|path| *path == target);
            let index =
                index.ok_or_else(|| PlanError::invalid("spec.mounts", format!("unknown volume {target}")))?;
            MountKind::Bind(fds.add(FdSource::Volume { index }))
        }
        mounts::IMAGE => {
            let index = mounts::image_mounts(inputs.container)
                .position(|(_, asked, _)| mounts::clean(&asked.container_path) == target);
            let index =
                index.ok_or_else(|| PlanError::invalid("spec.mounts", format!("unknown image {target}")))?;
            MountKind::Bind(fds.add(FdSource::Image { index }))
        }
        "bind" => MountKind::Bind(fds.add(bind(source, inputs, &has))),
        other => return Err(PlanError::invalid("spec.mounts", format!("unknown mount type {other:?}"))),
    };
    Ok(MountStep {
        target: text("config.mounts", &target)?,
        kind,
        attrs: MountAttrs {
            readonly: has("ro") || has("rro"),
            recursive_readonly: has("rro"),
            nosuid: has("nosuid"),
            nodev: has("nodev"),
            noexec: has("noexec"),
        },
        propagation: propagation(&has),
    })
}

fn propagation(has: &dyn Fn(&str) -> bool) -> Propagation {
    match () {
        () if has("rshared") => Propagation::Shared,
        () if has("rslave") => Propagation::Slave,
        () => Propagation::Private,
    }
}

/// A host path of the request is made when missing, as the kubelet expects; a file of ours must be there.
fn bind(source: PathBuf, inputs: &ContainerInputs<'_>, has: &dyn Fn(&str) -> bool) -> FdSource {
    let files = inputs.files;
    let ours = [&files.hostname, &files.hosts, &files.resolv_conf].contains(&&source);
    let missing = if ours { MissingSource::Refuse } else { MissingSource::CreateDirectory };
    let idmap = match (has("ridmap"), ours && userns::of(inputs.sandbox).is_some()) {
        (true, _) => Idmap::Required,
        (false, true) => Idmap::WherePossible,
        (false, false) => Idmap::No,
    };
    FdSource::Bind { source, recursive: has("rbind"), missing, idmap, propagation: propagation(has) }
}

#[cfg(test)]
mod tests;
