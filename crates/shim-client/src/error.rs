use std::io;
use std::path::PathBuf;

use berth_ids::{Classify, ErrorClass};
use berth_shim_wire::StepError;

/// What can go wrong between the daemon and a shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("start the shim")]
    Spawn { source: io::Error },
    #[error("talk to the shim: {0}")]
    Socket(io::Error),
    #[error("the pod's shim is gone")]
    Gone,
    #[error("the shim does not answer within {0:?}")]
    Silent(std::time::Duration),
    #[error("the shim speaks protocol {found}, this Berth speaks {known}")]
    Version { found: u32, known: u32 },
    #[error("the shim gave an answer that does not fit the question")]
    Protocol,
    #[error("the pod's shim is of an older Berth and does not know this; pods made from now on do")]
    OldShim,
    #[error("the reader was more than {limit} bytes behind; what was written since is in the log")]
    Behind { limit: usize },
    #[error("connect to {address} in the pod")]
    Connect { address: std::net::SocketAddr, source: io::Error },
    #[error("{}", describe(.0))]
    Step(StepError),
    #[error("cgroup {path}")]
    Cgroup { path: String, source: berth_cgroup::CgroupError },
    #[error("{field}: {} {problem}", path.display())]
    Source { field: &'static str, path: PathBuf, problem: &'static str },
    #[error("{wanted} descriptors are more than one start can carry ({limit}); use fewer mounts")]
    TooMany { wanted: usize, limit: usize },
    #[error("prepare the root filesystem: {0}")]
    Rootfs(String),
    #[error("container {0} is not running in this pod")]
    NotRunning(String),
    #[error("compile the seccomp profile {name}")]
    Seccomp { name: String, source: berth_seccomp::SeccompError },
}

fn describe(step: &StepError) -> String {
    let cause = if step.errno == 0 {
        String::new()
    } else {
        format!(": {}", io::Error::from_raw_os_error(step.errno))
    };
    let object = if step.object.is_empty() { String::new() } else { format!(" {}", step.object) };
    format!("{}{object}{cause}", step.step)
}

impl Classify for ShimError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Source { .. } | Self::TooMany { .. } => ErrorClass::InvalidArgument,
            Self::Gone | Self::Silent(_) => ErrorClass::Unavailable,
            Self::OldShim => ErrorClass::Unimplemented,
            Self::Behind { .. } => ErrorClass::ResourceExhausted,
            Self::Connect { .. } => ErrorClass::Unavailable,
            Self::NotRunning(_) => ErrorClass::FailedPrecondition,
            Self::Cgroup { source, .. } => source.class(),
            Self::Seccomp { source, .. } => source.class(),
            Self::Step(step) => match step.errno {
                // The shim's word for a container that does not run (any more).
                nix::libc::ESRCH => ErrorClass::FailedPrecondition,
                nix::libc::ENOSPC | nix::libc::EDQUOT | nix::libc::EAGAIN | nix::libc::ENOMEM => {
                    ErrorClass::ResourceExhausted
                }
                _ => ErrorClass::Unknown,
            },
            Self::File { .. }
            | Self::Spawn { .. }
            | Self::Socket(_)
            | Self::Version { .. }
            | Self::Protocol
            | Self::Rootfs(_) => ErrorClass::Internal,
        }
    }
}

impl ShimError {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
