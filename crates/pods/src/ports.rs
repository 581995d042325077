//! What the domain needs of the world, as object-safe traits. `crates/berth` implements them over the mechanisms;
//! tests over fakes.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::{Classify, ContainerId, ErrorClass, ImageId, SandboxId};
use berth_model::{
    ExecOutput, GroupUsage, InterfaceUsage, LayerUsage, ProcessUsage, SandboxConfig, Signal, UnixNanos,
};
use berth_plan::{CompiledFilter, ContainerPlan, HostFacts, LogFile, RequestedDevice, SeccompChoice};
use berth_shim_wire::{ExecPlan, ExitStatus, SandboxPlan};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::LinuxResources;

use crate::record::{ContainerRecord, SandboxRecord};

/// A failure on the other side of a port.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    class: ErrorClass,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    /// Wraps a typed error under what was being done.
    pub fn wrap<E: std::error::Error + Classify + Send + Sync + 'static>(
        doing: impl Into<String>,
        error: E,
    ) -> Self {
        Self { class: error.class(), message: doing.into(), source: Some(Arc::new(error)) }
    }
}

impl Classify for PortError {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

/// All the ports together.
#[derive(Clone)]
pub struct Ports {
    pub launcher: Arc<dyn Launcher>,
    pub network: Arc<dyn Network>,
    pub images: Arc<dyn Images>,
    pub store: Arc<dyn Store>,
    pub meter: Arc<dyn Meter>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ports")
    }
}

/// Makes, finds and clears the processes of pods.
#[async_trait]
pub trait Launcher: Send + Sync {
    /// A shim with its namespaces. `events` hears of every end from here on.
    async fn spawn(
        &self,
        id: &SandboxId,
        plan: SandboxPlan,
        events: Arc<dyn Events>,
    ) -> Result<Arc<dyn Pod>, PortError>;
    /// The living shim of an earlier daemon, or `None` when it is gone.
    async fn adopt(&self, id: &SandboxId, events: Arc<dyn Events>)
    -> Result<Option<Arc<dyn Pod>>, PortError>;
    /// The ends a shim wrote down, for when it is no longer there to ask.
    async fn exit_records(&self, id: &SandboxId) -> Vec<(ContainerId, ExitStatus)>;
    /// Writes the pod's files and says where they are.
    async fn write_files(&self, id: &SandboxId, files: PodFileContents) -> Result<(), PortError>;
    /// Where [`Launcher::write_files`] puts them.
    fn files(&self, id: &SandboxId) -> berth_plan::PodFiles;
    /// A small file of the host, bounded; `None` when it is not there.
    async fn host_file(&self, path: &str) -> Option<Vec<u8>>;
    /// Ends whatever of the pod still runs and removes its directory. Idempotent.
    async fn destroy(&self, id: &SandboxId, cgroup_paths: Vec<String>) -> Result<(), PortError>;
    /// Removes a pod's log directory where Berth itself chose it; one of the kubelet's stays.
    async fn remove_logs(&self, directory: &str) -> Result<(), PortError>;
    /// Kills what runs in a container's cgroup without a shim's help and removes the cgroup. Idempotent.
    async fn clear_cgroup(&self, cgroup_path: &str) -> Result<(), PortError>;
    /// Holds a living cgroup to other limits, all of them or none; what is not named stays.
    async fn limit(&self, cgroup_path: &str, limits: LinuxResources) -> Result<(), PortError>;
    /// Clears what belongs to no pod in `known`.
    async fn sweep(&self, known: &[SandboxId]);
    /// What the host can do; probed once.
    fn facts(&self) -> &HostFacts;
    /// The filter of a choice, compiled once and cached. `None`: unconfined.
    async fn seccomp(&self, choice: &SeccompChoice, caps: u64) -> Result<Option<CompiledFilter>, PortError>;
    /// Looks up the device nodes a container asks for.
    async fn devices(&self, requested: &[berth_model::Device]) -> Result<Vec<RequestedDevice>, PortError>;
}

/// The files every container of a pod sees.
#[derive(Debug, Clone, Default)]
pub struct PodFileContents {
    pub hostname: Vec<u8>,
    pub hosts: Vec<u8>,
    pub resolv_conf: Vec<u8>,
}

/// A container to be born.
#[derive(Debug)]
pub struct StartRequest {
    pub container: ContainerId,
    pub image: ImageId,
    pub cgroup_path: String,
    /// `None` for no log.
    pub log: Option<LogFile>,
    /// Image and path in it, for each image the plan mounts as a volume.
    pub image_volumes: Vec<(ImageId, String)>,
    pub plan: ContainerPlan,
}

#[derive(Debug, Clone)]
pub struct Started {
    pub pid: u32,
    pub started_at: i64,
    /// Things that were clamped or skipped, for people.
    pub warnings: Vec<String>,
}

/// Why an exec gave no output.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    #[error("command timed out after {0:?}")]
    TimedOut(Duration),
    /// There is no such program (`missing`), or what is there cannot be executed.
    #[error("{message}")]
    Command { missing: bool, message: String },
    #[error(transparent)]
    Failed(#[from] PortError),
}

/// A living pod.
#[async_trait]
pub trait Pod: Send + Sync {
    /// Of the shim.
    fn pid(&self) -> u32;
    /// The pod's network namespace.
    fn netns(&self) -> Arc<OwnedFd>;
    async fn start(&self, request: StartRequest) -> Result<Started, PortError>;
    /// What the shim knows: containers running or ended.
    async fn snapshot(&self) -> Result<Vec<Seen>, PortError>;
    async fn signal(&self, container: &ContainerId, signal: Signal) -> Result<(), PortError>;
    /// SIGKILL to everything in the container's cgroup.
    async fn kill(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), PortError>;
    async fn exec(
        &self,
        plan: ExecPlan,
        cgroup_path: &str,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError>;
    /// A process with somebody at its streams; `streams.tty` gives it a terminal.
    async fn exec_connected(
        &self,
        plan: ExecPlan,
        cgroup_path: &str,
        streams: Streams,
    ) -> Result<Connected, PortError>;
    /// The streams of a running container.
    async fn attach(
        &self,
        container: &ContainerId,
        streams: Streams,
        manner: Manner,
    ) -> Result<Connected, PortError>;
    /// A connected TCP socket, non-blocking: 127.0.0.1, else ::1, of the pod's network.
    async fn connect(&self, port: u16) -> Result<OwnedFd, PortError>;
    async fn reopen_log(&self, container: &ContainerId, log: &LogFile) -> Result<(), PortError>;
    /// Drops what the shim and the cgroup tree keep of an ended container.
    async fn forget(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), PortError>;
    /// Ends the shim and with it the namespaces.
    async fn shutdown(&self) -> Result<(), PortError>;
}

impl fmt::Debug for dyn Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod({})", self.pid())
    }
}

/// Which standard streams somebody wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// How a container takes those who attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Its stdin ends with the first who had it.
    pub stdin_once: bool,
    /// It writes no faster than they read; else one who is too slow is cut.
    pub waits: bool,
}

/// Our ends of a process's standard streams, non-blocking, where they were wanted; of a terminal, two of its master and no
/// `stderr`.
#[derive(Debug)]
pub struct Connected {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub handle: Arc<dyn Handle>,
}

/// What can be done with it besides reading and writing. Dropping it is [`Handle::hang_up`] without the grace.
#[async_trait]
pub trait Handle: Send + Sync {
    /// In characters; nothing without a terminal.
    fn resize(&self, columns: u16, rows: u16) -> Result<(), PortError>;
    /// How an exec ended. An attach answers when all that it gets is in its pipes, an exit code is known elsewhere: `None`.
    async fn wait(&self) -> Result<Option<ExitStatus>, PortError>;
    /// Ends an exec with all its processes; an attach only lets go.
    async fn hang_up(&self);
}

impl fmt::Debug for dyn Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// A container as its shim sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub container: ContainerId,
    pub pid: u32,
    pub started_at: i64,
    pub exit: Option<ExitStatus>,
    /// Bytes of its log that could not be written.
    pub log_dropped: u64,
}

/// What a pod's processes report. Calls must not block.
pub trait Events: Send + Sync {
    fn container_exited(&self, sandbox: &SandboxId, container: &ContainerId, status: ExitStatus);
    /// The shim died without being asked to.
    fn pod_lost(&self, sandbox: &SandboxId);
}

/// What a pod's network gave; kept in the sandbox's record so that tear-down needs nothing else.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// First the primary.
    pub ips: Vec<std::net::IpAddr>,
    /// The network's own record, opaque here.
    pub record: serde_json::Value,
    /// Where its namespace is bound on the host, if it is.
    #[serde(default)]
    pub netns: Option<String>,
}

/// A pod that asks to be connected.
#[derive(Debug)]
pub struct Connect<'a> {
    pub id: &'a SandboxId,
    /// Its shim's, whose namespaces are the pod's.
    pub pid: u32,
    pub netns: Arc<OwnedFd>,
    pub config: &'a SandboxConfig,
    pub cgroup_parent: &'a str,
}

#[async_trait]
pub trait Network: Send + Sync {
    async fn attach(&self, pod: Connect<'_>) -> Result<Attachment, PortError>;
    /// Gives everything back; works when netns, link or rules are already gone. Without an attachment, what an attach that was
    /// cut off may have left.
    async fn detach(
        &self,
        id: &SandboxId,
        netns: Option<Arc<OwnedFd>>,
        attachment: Option<&Attachment>,
    ) -> Result<(), PortError>;
    /// At start: these live, everything else of ours goes.
    async fn restore(&self, live: Vec<(SandboxId, Attachment)>) -> Result<(), PortError>;
}

/// An image as the domain needs it.
#[derive(Debug, Clone)]
pub struct ImageHandle {
    pub id: ImageId,
    /// `repo@digest` where known, else the id.
    pub reference: String,
    pub config: Arc<ImageConfiguration>,
}

#[async_trait]
pub trait Images: Send + Sync {
    /// By tag, digest or id.
    async fn resolve(&self, reference: &str) -> Option<ImageHandle>;
    /// The image that a container has leased, also when it was removed since.
    async fn leased(&self, id: &ImageId) -> Option<ImageHandle>;
    /// A small file of the image, followed safely; `None` when it has none.
    async fn read_file(&self, id: &ImageId, path: &str) -> Result<Option<Vec<u8>>, PortError>;
    /// Whether the image has something at this path that can be mounted.
    async fn check_volume(&self, id: &ImageId, sub_path: &str) -> Result<(), PortError>;
    /// Keeps the image's layers as long as the container is there; also of several images.
    async fn lease(&self, id: &ImageId, container: &ContainerId) -> Result<(), PortError>;
    /// Gives the lease back and removes the container's writable layer. Idempotent.
    async fn release(&self, container: &ContainerId) -> Result<(), PortError>;
    /// At start: these containers exist with these images, other leases and writable layers go.
    async fn restore(&self, live: Vec<(ContainerId, ImageId)>) -> Result<(), PortError>;
}

/// What was read back at start.
#[derive(Debug, Default)]
pub struct Loaded {
    pub sandboxes: Vec<SandboxRecord>,
    pub containers: Vec<ContainerRecord>,
    /// The machine was booted since the records were written.
    pub rebooted: bool,
}

#[async_trait]
pub trait Store: Send + Sync {
    async fn add_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError>;
    async fn add_container(&self, record: &ContainerRecord) -> Result<(), PortError>;
    /// Replaces a record. One that was deleted meanwhile stays deleted: an operation that waited for the removal to end, or
    /// an end that is told late, must not bring the object back at the next start.
    async fn put_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError>;
    /// As [`Store::put_sandbox`].
    async fn put_container(&self, record: &ContainerRecord) -> Result<(), PortError>;
    async fn delete_sandbox(&self, id: &SandboxId) -> Result<(), PortError>;
    async fn delete_container(&self, id: &ContainerId) -> Result<(), PortError>;
    async fn load(&self) -> Result<Loaded, PortError>;
}

/// What is to be measured.
#[derive(Debug)]
pub struct Subject {
    pub cgroup_path: String,
    /// Also its writable layer.
    pub layer_of: Option<ContainerId>,
    /// Also the traffic of this pod's interfaces.
    pub network: Option<Arc<dyn Pod>>,
    pub processes: Look,
}

/// How closely the processes of a subject are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    No,
    /// How many there are.
    Count,
    /// Also what they hold open, which costs a system call for each descriptor.
    Open,
}

/// What was found; parts that are not there or were not asked for are missing.
#[derive(Debug, Clone, Default)]
pub struct Measurement {
    pub at: UnixNanos,
    pub group: Option<GroupUsage>,
    pub layer: Option<LayerUsage>,
    pub interfaces: Vec<InterfaceUsage>,
    pub processes: Option<ProcessUsage>,
}

#[async_trait]
pub trait Meter: Send + Sync {
    /// One measurement for each subject, in their order. Nothing fails: what cannot be read is missing.
    async fn measure(&self, subjects: Vec<Subject>) -> Vec<Measurement>;
}
