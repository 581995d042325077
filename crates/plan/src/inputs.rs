use std::path::PathBuf;

use berth_ids::{ContainerId, SandboxId};
use berth_model::{ContainerConfig, SandboxConfig};
use berth_shim_wire::{LaunchPlan, Propagation};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::LinuxResources;

use crate::ResolvedUser;

/// Where the pod's own files are on the host.
#[derive(Debug, Clone)]
pub struct PodFiles {
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
}

/// Where a container's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The pod's, made with its parents where missing. It comes from the kubelet: links on the way to it are followed.
    pub directory: PathBuf,
    /// Relative, without `..`; below the directory no link is followed.
    pub name: PathBuf,
}

/// What the host can do and has; probed once by the daemon.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// The last capability the kernel knows (/proc/sys/kernel/cap_last_cap).
    pub cap_last: u8,
    /// The daemon's own bounding set: nothing beyond it can be given.
    pub cap_bounding: u64,
    /// What a privileged container gets from /dev.
    pub host_devices: Vec<HostDevice>,
    pub cgroup_v2: bool,
    /// mount_setattr(2) with AT_RECURSIVE works.
    pub recursive_readonly: bool,
    /// A user namespace can be made, and an overlay over layers shown with its ids.
    pub user_namespaces: bool,
    /// The hard RLIMIT_NOFILE of the daemon.
    pub nofile_hard: u64,
    /// The highest number of a CPU and of a memory node; none is known where sysfs does not tell.
    pub last_cpu: Option<u32>,
    pub last_node: Option<u32>,
    pub apparmor: bool,
    pub selinux: bool,
}

impl Default for HostFacts {
    /// A host of the present: what tests start from.
    fn default() -> Self {
        Self {
            cap_last: 40,
            cap_bounding: u64::MAX,
            host_devices: Vec::new(),
            cgroup_v2: true,
            recursive_readonly: true,
            user_namespaces: true,
            nofile_hard: 1_048_576,
            last_cpu: Some(7),
            last_node: Some(0),
            apparmor: false,
            selinux: false,
        }
    }
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Absolute, below /dev.
    pub path: PathBuf,
    /// Character device; else block.
    pub character: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A device a container asks for, looked up on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedDevice {
    /// The node; its path is the one inside the container.
    pub node: HostDevice,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Which seccomp filter a container runs under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeccompChoice {
    Unconfined,
    RuntimeDefault,
    /// A JSON profile on the host.
    Localhost(PathBuf),
}

/// A filter ready to install: `struct sock_filter` records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledFilter {
    pub bytes: Vec<u8>,
    /// For seccomp(2).
    pub flags: u32,
}

/// Everything a container's spec and plan are made from.
#[derive(Debug)]
pub struct ContainerInputs<'a> {
    pub sandbox_id: &'a SandboxId,
    pub container_id: &'a ContainerId,
    pub sandbox: &'a SandboxConfig,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageConfiguration,
    pub user: &'a ResolvedUser,
    pub files: &'a PodFiles,
    pub host: &'a HostFacts,
    pub cgroup_path: &'a str,
    /// `None`: unconfined.
    pub seccomp: Option<CompiledFilter>,
    pub devices: &'a [RequestedDevice],
    /// The container whose pid namespace is joined (TARGET).
    pub target_pid_container: Option<ContainerId>,
    /// A privileged container gets the host's device nodes, and may use and make any.
    pub privileged_host_devices: bool,
    /// The pod has a /dev/shm of its own; else the host's is bound.
    pub sandbox_has_shm: bool,
}

/// What to do about a bind source that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingSource {
    /// As the kubelet expects of a host path.
    CreateDirectory,
    Refuse,
}

/// Whether a bind shows its files with the ids of the pod's user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idmap {
    No,
    /// Where its filesystem can; else they are nobody's.
    WherePossible,
    /// As the request says.
    Required,
}

/// A descriptor the daemon opens; `FdIndex(n)` of the plan is the n-th of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdSource {
    /// The detached overlay.
    Rootfs,
    /// The log file.
    Log,
    /// A detached clone of a host tree.
    Bind { source: PathBuf, recursive: bool, missing: MissingSource, idmap: Idmap, propagation: Propagation },
    /// The directory of an image's VOLUME: `index` into [`ContainerPlan::volumes`].
    Volume { index: usize },
    /// An image as a volume: `index` counts those mounts of the request that name one.
    Image { index: usize },
    /// A pidfd of this container's process 1.
    TargetPid(ContainerId),
}

/// A container's birth, decided.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// The cgroup fields are empty: whoever makes the cgroup fills them.
    pub launch: LaunchPlan,
    pub fds: Vec<FdSource>,
    /// For the cgroup.
    pub resources: LinuxResources,
    /// Container paths of the image's VOLUMEs that no mount of the request covers; made with the image's content.
    pub volumes: Vec<String>,
    /// What the host calls root of the pod's user namespace, who owns the writable layer. `None`: no such namespace.
    pub owner: Option<Owner>,
}

/// Ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}
