use crate::{ContainerStatus, SandboxStatus, UnixNanos};

/// What happened to a container or a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// One step in the life of a container or a sandbox, with what was known right after it.
#[derive(Debug, Clone)]
pub struct LifeEvent {
    pub kind: LifeEventKind,
    /// Of the container, or of the sandbox itself.
    pub id: String,
    pub at: UnixNanos,
    pub sandbox: SandboxStatus,
    /// Every container of the sandbox that is there.
    pub containers: Vec<ContainerStatus>,
}
