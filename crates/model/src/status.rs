use std::net::IpAddr;

use berth_ids::{ContainerId, ImageId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::{
    ContainerMetadata, ImageSpec, Mount, NamespaceOptions, Resources, SandboxMetadata, Signal, StringMap,
    UnixNanos,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// Why a container ended, as the kubelet shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// Process 1 was killed by the kernel's out-of-memory killer.
    OomKilled,
    /// It never ran: exit code 128.
    StartError,
    /// Nobody saw the end: exit code 255.
    Unknown,
}

impl ExitReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

#[derive(Debug, Clone)]
pub struct SandboxStatus {
    pub id: SandboxId,
    pub metadata: SandboxMetadata,
    pub state: SandboxState,
    pub created_at: UnixNanos,
    /// First the primary; empty with host network and once the sandbox is not ready.
    pub ips: Vec<IpAddr>,
    pub namespaces: NamespaceOptions,
    pub labels: StringMap,
    pub annotations: StringMap,
    pub runtime_handler: String,
    /// JSON for the verbose `info` map; `None` unless asked for.
    pub verbose: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    pub created_at: UnixNanos,
    pub started_at: UnixNanos,
    pub finished_at: UnixNanos,
    pub exit_code: i32,
    /// As the client named it.
    pub image: ImageSpec,
    pub image_id: ImageId,
    /// `repo@digest` where known, else the id; never empty.
    pub image_ref: String,
    /// Empty unless exited.
    pub reason: String,
    pub message: String,
    pub labels: StringMap,
    pub annotations: StringMap,
    pub mounts: Vec<Mount>,
    /// Absolute; empty when there is no log.
    pub log_path: String,
    pub resources: Option<Resources>,
    pub user: Option<ContainerUser>,
    pub stop_signal: Signal,
    /// JSON for the verbose `info` map; `None` unless asked for.
    pub verbose: Option<String>,
}

/// What a finished ExecSync gives back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 128 + n for death by signal n.
    pub exit_code: i32,
}
