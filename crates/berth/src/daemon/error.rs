use std::io;
use std::path::PathBuf;

use crate::admin::Failure;

/// Why the daemon did not come up, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("make the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the directory {} {problem}", path.display())]
    UnsafeDirectory { path: PathBuf, problem: String },
    #[error("lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    /// Another daemon has it. Exit code 75: it may be gone later.
    #[error("another daemon{} already has {held}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Taken { held: String, pid: Option<i32> },
    #[error("listen at {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("berth-shim is not there; looked at {looked}")]
    NoShim { looked: String },
    #[error("start the async runtime")]
    Runtime { source: io::Error },
    #[error("wait for signals")]
    Signals { source: io::Error },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("build the runtime")]
    Build { source: Failure },
    #[error("answer CRI requests")]
    Serve { source: Failure },
    #[error("serve streams")]
    Streaming { source: io::Error },
    #[error("answer admin requests")]
    Admin { source: io::Error },
}

impl DaemonError {
    /// By sysexits(3): EX_TEMPFAIL where waiting may help, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Taken { .. } => 75,
            _ => 1,
        }
    }
}
