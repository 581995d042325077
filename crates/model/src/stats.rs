use berth_ids::{ContainerId, SandboxId};

use crate::{ContainerMetadata, Resources, SandboxMetadata, StringMap, UnixNanos};

/// What a directory tree takes on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// A path on the filesystem in question.
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// What a cgroup used so far and uses now. `None`: the host does not count it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupUsage {
    pub cpu: Option<CpuUsage>,
    pub memory: Option<MemoryUsage>,
    pub swap: Option<SwapUsage>,
    pub tasks: Option<TaskUsage>,
    pub io: Vec<DeviceIo>,
    pub hugepages: Vec<HugepageUsage>,
    pub pressure: Pressure,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    /// Periods of the quota that passed, and those in which it was used up.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// Bytes, except for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Page cache included.
    pub usage: u64,
    /// Usage without inactive file pages: what the kubelet evicts by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub kernel: u64,
    /// The highest usage so far; 0 where the kernel does not keep it.
    pub peak: u64,
    pub faults: u64,
    pub major_faults: u64,
    /// `None`: unlimited.
    pub limit: Option<u64>,
    pub reservation: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes the kernel killed for want of memory.
    pub oom_kills: u64,
}

/// Bytes of swap, memory not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapUsage {
    pub usage: u64,
    /// `None`: unlimited.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskUsage {
    pub threads: u64,
    /// `None`: unlimited.
    pub threads_max: Option<u64>,
}

/// What was moved to and from a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// `/dev/sda`, else the numbers.
    pub name: String,
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugepageUsage {
    /// As the kernel names it: `2MB`.
    pub page_size: String,
    pub usage: u64,
    /// v1 alone keeps it.
    pub peak: Option<u64>,
}

/// Pressure stall information (kernel documentation, accounting/psi).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    pub cpu: Option<Psi>,
    pub memory: Option<Psi>,
    pub io: Option<Psi>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Psi {
    /// At least one task waited.
    pub some: Stall,
    /// All of them did.
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Nanoseconds; the kernel counts microseconds.
    pub total: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// The processes of a cgroup and what they hold open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    pub processes: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// The soft limit of open files of the first process.
    pub open_files_limit: Option<u64>,
}

/// A network interface of a pod, as the pod sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// A container's writable layer, measured some time ago.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerUsage {
    pub at: UnixNanos,
    pub usage: FsUsage,
    pub filesystem: Filesystem,
}

/// The filesystem that something lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// `/dev/sda1`, else the device's numbers.
    pub device: String,
    pub size: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Debug, Clone)]
pub struct ContainerStats {
    pub id: ContainerId,
    pub metadata: ContainerMetadata,
    pub labels: StringMap,
    pub annotations: StringMap,
    /// As the client named it.
    pub image: String,
    pub cgroup_path: String,
    pub started_at: UnixNanos,
    pub resources: Option<Resources>,
    /// When; strictly later each time it is asked.
    pub at: UnixNanos,
    /// `None` unless it runs.
    pub group: Option<GroupUsage>,
    /// CPU nanoseconds per second between the last two measurements that are a second apart or more.
    pub nano_cores: Option<u64>,
    /// `None` before its first measurement.
    pub layer: Option<LayerUsage>,
    /// Only when details are asked for.
    pub processes: Option<ProcessUsage>,
    /// Bytes of log that could not be written; only when details are asked for.
    pub log_dropped: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct SandboxStats {
    pub id: SandboxId,
    pub metadata: SandboxMetadata,
    pub labels: StringMap,
    pub annotations: StringMap,
    pub cgroup_path: String,
    pub at: UnixNanos,
    /// Of the pod's cgroup.
    pub group: Option<GroupUsage>,
    pub nano_cores: Option<u64>,
    pub processes: Option<ProcessUsage>,
    /// Empty with host network: the host's interfaces are not the pod's.
    pub interfaces: Vec<InterfaceUsage>,
    /// Those that run.
    pub containers: Vec<ContainerStats>,
}
