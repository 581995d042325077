use std::time::Duration;

use berth_ids::{Classify, ErrorClass};
use berth_plan::PlanError;

use crate::ports::PortError;

/// What a call on the domain can answer instead of a result. Clonable: every caller who joined gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PodsError {
    #[error("{field} must not be empty")]
    Empty { field: &'static str },
    #[error("no {kind} {id:?}")]
    NotFound { kind: &'static str, id: String },
    #[error("{kind} id {prefix:?} is ambiguous: {matches} match")]
    Ambiguous { kind: &'static str, prefix: String, matches: usize },
    #[error("{kind} {name} exists already with another configuration or past its creation: {id}")]
    Exists { kind: &'static str, name: String, id: String },
    #[error("sandbox {id} is not ready")]
    SandboxNotReady { id: String },
    #[error("container {id} is {state}, not {wanted}")]
    WrongState { id: String, state: &'static str, wanted: &'static str },
    #[error(
        "container {id}: linux.memory_limit_in_bytes: {limit} is below the {used} bytes it uses and cannot give back"
    )]
    LimitBelowUse { id: String, limit: i64, used: u64 },
    #[error("runtime_handler: there is no {name:?}")]
    UnknownHandler { name: String },
    #[error("image {reference:?} is not here; pull it first")]
    NoImage { reference: String },
    /// The text begins as CRI's well-known error does (cri-api `errors`).
    #[error("ImageVolumeMountFailed: config.mounts[{n}].image: {reference:?} is not here; pull it first")]
    NoImageVolume { n: usize, reference: String },
    /// Without a word before it: clients look for CRI's well-known errors at the beginning.
    #[error(transparent)]
    Plan(#[from] std::sync::Arc<PlanError>),
    #[error("container {id} did not end within {wait:?} of SIGKILL; a process of it may hang in the kernel")]
    WillNotDie { id: String, wait: Duration },
    /// The port names the field itself.
    #[error(transparent)]
    Refused(PortError),
    #[error("{doing}")]
    Port { doing: String, source: PortError },
    #[error("command {command:?} in container {id} timed out after {timeout:?}")]
    ExecTimeout { id: String, command: String, timeout: Duration },
    #[error("the operation on {object} was lost: its task ended without a result")]
    Lost { object: String },
}

impl PodsError {
    pub(crate) fn port(doing: impl Into<String>) -> impl FnOnce(PortError) -> Self {
        let doing = doing.into();
        move |source| Self::Port { doing, source }
    }
}

impl From<PlanError> for PodsError {
    fn from(error: PlanError) -> Self {
        Self::Plan(std::sync::Arc::new(error))
    }
}

impl Classify for PodsError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Empty { .. } | Self::Ambiguous { .. } | Self::UnknownHandler { .. } => {
                ErrorClass::InvalidArgument
            }
            Self::NotFound { .. } | Self::NoImage { .. } | Self::NoImageVolume { .. } => ErrorClass::NotFound,
            Self::Exists { .. } => ErrorClass::AlreadyExists,
            Self::SandboxNotReady { .. } | Self::WrongState { .. } | Self::LimitBelowUse { .. } => {
                ErrorClass::FailedPrecondition
            }
            Self::Plan(source) => source.class(),
            Self::WillNotDie { .. } | Self::ExecTimeout { .. } => ErrorClass::DeadlineExceeded,
            Self::Port { source, .. } | Self::Refused(source) => source.class(),
            Self::Lost { .. } => ErrorClass::Internal,
        }
    }
}
