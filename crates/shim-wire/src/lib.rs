//! What the daemon and a shim say to each other: types, and the versioned frames that carry them.
//!
//! std only: the shim links this. Frames are append-only; a reader skips what it does not know, so that a new
//! daemon drives an old shim.

mod codec;
mod exit_record;
mod frame;
mod message;
mod plan;

pub use codec::WireError;
pub use exit_record::{ExitRecord, NoExitRecord};
pub use frame::{
    Incoming, MAX_FRAME, MAX_PACKET, Packet, decode_incoming, decode_packet, encode_event, encode_indirect,
    encode_reply, encode_request,
};
pub use message::{
    ContainerSnapshot, Event, ExitStatus, Reply, Request, ShimSnapshot, StepError, UNKNOWN_REQUEST,
};
pub use plan::{
    AttachPlan, CapSets, DeviceNode, ExecPlan, FdIndex, IdRange, Identity, LaunchPlan, LogTarget, MountAttrs,
    MountKind, MountStep, PidNamespace, Propagation, Rlimit, SandboxPlan, Stdio, Symlink, UserNamespace,
};

/// The version of the frames this build writes. A shim answers [`Request::Hello`] with its own.
pub const PROTOCOL_VERSION: u32 = 1;

#[cfg(test)]
mod tests;
