//! What a CRI client asks for and what Berth reports back, as plain types.
//!
//! The fields follow `runtime.v1` of CRI 0.37 under names of our own; `server` converts. These types are also
//! what the store keeps (as JSON, versioned by the row), so fields are only ever added, with a default.
//! No protocol, no I/O.

mod container;
mod event;
mod filter;
mod network;
mod sandbox;
mod security;
mod signal;
mod stats;
mod status;
mod transfer;

pub use container::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, EnvVar, HugepageLimit, ImageSpec, Mount,
    Propagation, Resources,
};
pub use event::{LifeEvent, LifeEventKind};
pub use filter::{ContainerFilter, SandboxFilter};
pub use network::{DnsConfig, PortMapping, Protocol};
pub use sandbox::{SandboxConfig, SandboxMetadata};
pub use security::{
    Capabilities, ContainerSecurity, GroupsPolicy, IdMapping, NamespaceMode, NamespaceOptions, ProfileKind,
    SandboxSecurity, SecurityProfile, SelinuxOptions, UserNamespace,
};
pub use signal::{Signal, SignalError};
pub use stats::{
    ContainerStats, CpuUsage, DeviceIo, Filesystem, FsUsage, GroupUsage, HugepageUsage, InterfaceUsage,
    LayerUsage, MemoryUsage, Pressure, ProcessUsage, Psi, SandboxStats, Stall, SwapUsage, TaskUsage, Traffic,
};
pub use status::{
    ContainerState, ContainerStatus, ContainerUser, ExecOutput, ExitReason, SandboxState, SandboxStatus,
};
pub use transfer::{Direction, Part, PartState, Transfer};

/// Labels and annotations: returned byte for byte as they came (CRI comment on `labels`).
pub type StringMap = std::collections::BTreeMap<String, String>;

/// Nanoseconds since the Unix epoch, as CRI counts time; 0 means "not yet".
pub type UnixNanos = i64;
