use crate::{AttachPlan, ExecPlan, FdIndex, LaunchPlan, SandboxPlan};

/// Daemon to shim. Each is answered by exactly one [`Reply`] with the same sequence number; descriptors travel beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// First on every connection. The shim answers with [`Reply::Hello`] and resends events not acknowledged.
    Hello { version: u32 },
    /// Once in a shim's life. Answered by [`Reply::Ready`] with the descriptor of the pod's network namespace.
    SetUp(SandboxPlan),
    /// Answered by [`Reply::Started`] after execve succeeded.
    Launch(Box<LaunchPlan>),
    /// Answered by [`Reply::Started`]; the end comes as [`Event::ExecExited`].
    Exec(Box<ExecPlan>),
    /// To process 1 of the container.
    Signal { container_id: String, signal: i32 },
    /// To an exec's leader.
    SignalExec { exec_id: u64, signal: i32 },
    /// Swap the log file for a newly opened one.
    ReopenLog { container_id: String, file: FdIndex },
    /// Everything the shim knows.
    Snapshot,
    /// Drop the record and exit file of an exited container.
    Forget { container_id: String },
    /// End: kill what still runs, then exit.
    Shutdown,
    /// Output of a running container from here on, and its input. Answered by [`Reply::Attached`].
    Attach(AttachPlan),
    /// A new TCP socket of the pod's network, not connected. Answered by [`Reply::Socket`].
    Socket { ipv6: bool },
}

/// The step a shim names in [`Reply::Failed`] for a request that came after its time.
pub const UNKNOWN_REQUEST: &str = "request unknown to this shim";

/// Shim to daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Hello {
        version: u32,
        pid: u32,
        sandbox_id: String,
    },
    /// With the network namespace descriptor at this index (also when it is the host's).
    Ready {
        netns: FdIndex,
    },
    /// A process runs; with its pidfd.
    Started {
        pid: u32,
        started_at: i64,
        pidfd: FdIndex,
        warnings: Vec<String>,
    },
    Snapshot(ShimSnapshot),
    Done,
    Failed(StepError),
    /// From now on no byte is missed. `stdin` writes to the container; absent where none was asked for, the container has
    /// none, or the one that it had was closed. `terminal` is the master of the container's terminal.
    Attached {
        stdin: Option<FdIndex>,
        terminal: Option<FdIndex>,
    },
    Socket {
        socket: FdIndex,
    },
}

/// Pushed by the shim, unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    ContainerExited {
        container_id: String,
        status: ExitStatus,
    },
    ExecExited {
        exec_id: u64,
        status: ExitStatus,
    },
    /// All that an attach gets is in its pipes, and they are closed: the container's output ended, or (`cut`) the reader fell
    /// behind.
    AttachEnded {
        attach_id: u64,
        cut: bool,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// 0-255, or 128 + n for death by signal n.
    pub code: i32,
    /// 0 unless a signal killed it.
    pub signal: i32,
    /// Killed by SIGKILL and the cgroup's `oom_kill` counter rose.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShimSnapshot {
    pub containers: Vec<ContainerSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    pub container_id: String,
    pub pid: u32,
    pub started_at: i64,
    /// `None` while it runs.
    pub exit: Option<ExitStatus>,
    /// Bytes of log that could not be written (ENOSPC and the like).
    pub log_dropped: u64,
}

/// A step that failed: which, on what, and the kernel's errno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// Field terms, lower case: `mount /proc`, `execve`, `setgroups`.
    pub step: String,
    /// The path or name it was about; may be empty.
    pub object: String,
    /// 0 when it was not a system call that failed.
    pub errno: i32,
}
