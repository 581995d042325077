use std::ffi::CString;

/// Position of a descriptor among those that travel with the frame (SCM_RIGHTS order).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdIndex(pub u16);

/// What a shim makes once, before anything else: the pod's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxPlan {
    /// 64 hex digits; only for messages and the process title.
    pub sandbox_id: String,
    /// New namespaces; `false` keeps the host's.
    pub new_net: bool,
    pub new_ipc: bool,
    pub new_uts: bool,
    /// One pid namespace for the whole pod, with an init of the shim's own that reaps.
    pub shared_pid: bool,
    /// For sethostname(2); only with `new_uts`.
    pub hostname: Option<CString>,
    /// Path below /proc/sys with slashes (`net/ipv4/ip_forward`), value. Written after the namespaces are made.
    pub sysctls: Vec<(CString, CString)>,
    /// Bytes of the pod's /dev/shm, mounted in the shim's own mount namespace; 0 with host IPC.
    pub shm_size: u64,
    /// A user namespace for the pod, which then owns its other namespaces.
    pub userns: Option<UserNamespace>,
}

/// user_namespaces(7), "User and group ID mappings". Container id 0 is mapped in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNamespace {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

impl IdRange {
    /// Where `id` lies outside; `None` when no range has it.
    pub fn outside(ranges: &[Self], id: u32) -> Option<u32> {
        let range = ranges.iter().find(|r| id >= r.inside && id - r.inside < r.count)?;
        range.outside.checked_add(id - range.inside)
    }
}

/// Everything the cloned child does before execve, decided beforehand by the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPlan {
    pub container_id: String,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    /// Absolute inside the container; made (0755, root) when missing.
    pub cwd: CString,
    pub identity: Identity,
    pub rlimits: Vec<Rlimit>,
    /// Clamped to what the kernel lets us write when CAP_SYS_RESOURCE is missing.
    pub oom_score_adj: Option<i32>,
    pub pid_namespace: PidNamespace,
    /// The container's `cgroup.procs`, one per v1 hierarchy (and the v2 one on a hybrid host); the pid is written to
    /// each before execve. On a pure v2 host empty: `cgroup_dir` does it at birth.
    pub cgroup_procs: Vec<FdIndex>,
    /// The container's v2 directory for CLONE_INTO_CGROUP (clone3(2)).
    pub cgroup_dir: Option<FdIndex>,
    /// `memory.events` (v2) or `memory.oom_control` (v1); the shim reads its `oom_kill` counter at the exit.
    pub oom_counter: Option<FdIndex>,
    /// Detached overlay mount (fsmount(2)) that becomes `/`.
    pub rootfs: FdIndex,
    pub rootfs_readonly: bool,
    /// Propagation of `/` inside the container's mount namespace.
    pub rootfs_propagation: Propagation,
    /// In this order; parents before children.
    pub mounts: Vec<MountStep>,
    /// Made in the container's /dev, which is always a tmpfs of the plan's.
    pub devices: Vec<DeviceNode>,
    pub symlinks: Vec<Symlink>,
    /// Absolute container paths hidden behind /dev/null (file) or an empty read-only tmpfs (directory); missing ones
    /// are skipped.
    pub masked_paths: Vec<CString>,
    /// Absolute container paths made read-only; missing ones are skipped.
    pub readonly_paths: Vec<CString>,
    pub stdio: Stdio,
}

/// A process born inside a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecPlan {
    pub container_id: String,
    pub exec_id: u64,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    pub identity: Identity,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    /// `cgroup.procs` of the exec's own leaf (v2) and of the container (v1).
    pub cgroup_procs: Vec<FdIndex>,
    pub cgroup_dir: Option<FdIndex>,
    /// stdin, stdout, stderr; `None` is /dev/null. With `tty` the first is the one end of a socket pair and
    /// the shim sends the pty master over it.
    pub stdio: [Option<FdIndex>; 3],
    pub tty: bool,
    /// Killed when the daemon's connection ends: nobody is left to read the answer.
    pub die_with_daemon: bool,
    /// The leaf's `cgroup.kill` (cgroups(7) v2, Linux 5.14): then its children die with it.
    pub cgroup_kill: Option<FdIndex>,
}

/// A reader and writer of a running container's standard streams.
///
/// What the container writes is written to the log first and then here, without ever waiting for room: a pipe that is
/// full is closed ([`Event::AttachEnded`](crate::Event::AttachEnded)). Of a terminal's output it loses what there is no
/// room for, and reads a line that says so. One that `waits` loses nothing: the container's output is not read meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    pub container_id: String,
    /// Unique on its connection.
    pub attach_id: u64,
    pub stdin: bool,
    /// The container's stdin ends with this attach: the shim gives its own end away. Not of a terminal.
    pub stdin_once: bool,
    /// The writing ends of pipes. A terminal's output goes to the first.
    pub stdout: Option<FdIndex>,
    pub stderr: Option<FdIndex>,
    pub waits: bool,
}

/// Who the process is, in the order in which it becomes so: groups, gid, uid, capabilities, no_new_privs, seccomp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// 0o022 unless asked otherwise.
    pub umask: u32,
    pub caps: CapSets,
    pub no_new_privs: bool,
    /// A compiled filter: `struct sock_filter` records, 8 bytes each. Empty: unconfined.
    pub seccomp: Vec<u8>,
    /// Flags for seccomp(2) SECCOMP_SET_MODE_FILTER.
    pub seccomp_flags: u32,
}

/// Bit n is capability n of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSets {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// As getrlimit(2) numbers them; `u64::MAX` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// A new one with the container's process as 1.
    New,
    /// The pod's shared one ([`SandboxPlan::shared_pid`]).
    Pod,
    /// The one this pidfd's process lives in (TARGET).
    Join(FdIndex),
    /// The host's.
    Host,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    /// MS_SLAVE: mounts made on the host later show up.
    Slave,
    /// MS_SHARED: both ways.
    Shared,
}

/// Attributes set on the mount (mount_setattr(2)) beyond its source's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttrs {
    pub readonly: bool,
    /// Also for what is mounted below it.
    pub recursive_readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
}

/// One mount inside the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStep {
    /// Absolute container path; resolved inside the new root, never following a link out of it. Made when missing: a
    /// directory, or an empty file where the source is a file.
    pub target: CString,
    pub kind: MountKind,
    pub attrs: MountAttrs,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A detached clone of a host tree (open_tree(2), OPEN_TREE_CLONE), a file or a directory.
    Bind(FdIndex),
    /// The pod's /dev/shm, cloned from the shim's own.
    PodShm,
    Proc,
    Sysfs,
    /// cgroup2, or the v1 hierarchies as the host has them, seen from the container's cgroup namespace.
    Cgroup,
    Mqueue,
    Devpts,
    /// Size in bytes (0: the kernel's default), mode, number of inodes (0: the kernel's default).
    Tmpfs {
        size: u64,
        mode: u32,
        inodes: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute container path, below /dev.
    pub path: CString,
    /// `true`: character device; else block.
    pub character: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symlink {
    pub target: CString,
    /// Absolute container path of the link.
    pub link: CString,
}

/// Where the container's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stdio {
    pub tty: bool,
    /// A stdin that stays open for attach; else /dev/null.
    pub stdin: bool,
    pub log: LogTarget,
    /// Nothing of the output is read before the first attach, which then has it from the first byte.
    pub held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// Read and thrown away.
    Discard,
    /// A file opened O_APPEND; lines in CRI log format.
    File(FdIndex),
}
