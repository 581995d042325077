use std::io;
use std::path::PathBuf;

use berth_ids::{Classify, ErrorClass};

/// What can go wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("write {value:?} to {}", path.display())]
    Write { value: String, path: PathBuf, source: io::Error },
    #[error("{path:?} is no cgroup path: {problem}")]
    Path { path: String, problem: &'static str },
    #[error("this host has no cgroup hierarchy mounted below /sys/fs/cgroup")]
    None,
    #[error("{limit} needs the {controller} controller, which this host does not have")]
    NoController { limit: &'static str, controller: &'static str },
    #[error("{limit} needs cgroup v2 controllers; this host has them on v1")]
    OnlyV2 { limit: &'static str },
    #[error("{limit}: {problem}")]
    Limit { limit: String, problem: String },
    #[error("a limit was refused and {file} could not be set back to {value:?}")]
    Stuck { file: String, value: String, source: Box<CgroupError> },
    #[error("{} is not empty after {waited:?}: processes {pids:?}", path.display())]
    Busy { path: PathBuf, waited: std::time::Duration, pids: Vec<i32> },
}

impl Classify for CgroupError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Path { .. } | Self::Limit { .. } | Self::OnlyV2 { .. } => ErrorClass::InvalidArgument,
            Self::NoController { .. } => ErrorClass::FailedPrecondition,
            Self::Busy { .. } => ErrorClass::DeadlineExceeded,
            // v1: the kernel could not bring the usage below the new limit.
            Self::Write { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                ErrorClass::FailedPrecondition
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                ErrorClass::InvalidArgument
            }
            Self::File { source, .. } | Self::Write { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                ErrorClass::ResourceExhausted
            }
            Self::File { .. } | Self::Write { .. } | Self::Stuck { .. } | Self::None => ErrorClass::Internal,
        }
    }
}

impl CgroupError {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
