use std::io;
use std::path::PathBuf;

/// Why a verb failed. Texts are for the person who typed it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {}", path.display())]
    NoDaemon { path: PathBuf, source: tonic::transport::Error },
    /// The daemon's own words.
    #[error("{doing}: {}", status.message())]
    Call { doing: String, status: tonic::Status },
    #[error("{option}: {problem}")]
    Option { option: &'static str, problem: String },
    #[error("there is no container {name:?}")]
    NotFound { name: String },
    #[error("{name:?} may be any of {candidates}; name one by its id")]
    Ambiguous { name: String, candidates: String },
    #[error("the name {name:?} is taken by container {id}")]
    Taken { name: String, id: String },
    #[error("{name} runs; stop it first, or use --force")]
    Runs { name: String },
    #[error("container {id} has no log")]
    NoLog { id: String },
    #[error("standard input is no terminal; leave -t away, or -i")]
    NoTerminal,
    #[error("{doing}")]
    Io { doing: &'static str, source: io::Error },
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the daemon's streaming server: {0}")]
    Stream(String),
    /// The other side's last words on a stream.
    #[error("{0}")]
    Failed(String),
    #[error("ended by signal {0}")]
    Signalled(i32),
}

impl ClientError {
    /// By what convention has for programs that run others: 125 is their own failure, 128 + n a signal.
    pub fn exit_code(&self, verb: &str) -> u8 {
        match self {
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(255),
            _ if matches!(verb, "run" | "exec" | "attach") => 125,
            Self::Option { .. } => 64,
            Self::NoDaemon { .. } => 69,
            _ => 1,
        }
    }

    pub(crate) fn call(doing: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let doing = doing.into();
        move |status| Self::Call { doing, status }
    }
}
