//! What the daemon and a shim say to each other: types, and the versioned frames that carry them.
//!
//! std only: the shim links this. Frames are append-only; a reader skips what it does not know, so that a new
//! daemon drives an old shim.

mod message;
mod plan;

pub use message::{ContainerSnapshot, Event, ExitStatus, Reply, Request, ShimSnapshot, StepError};
pub use plan::{
    CapSets, DeviceNode, ExecPlan, FdIndex, Identity, LaunchPlan, LogTarget, MountAttrs, MountKind,
    MountStep, PidNamespace, Propagation, Rlimit, SandboxPlan, Stdio, Symlink,
};

/// The version of the frames this build writes. A shim answers [`Request::Hello`] with its own.
pub const PROTOCOL_VERSION: u32 = 1;
