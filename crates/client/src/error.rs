use std::io;
use std::path::PathBuf;

/// Why a verb failed. Texts are for the person who typed it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {}", path.display())]
    NoDaemon { path: PathBuf, source: io::Error },
    /// The daemon's own words.
    #[error("{doing}: {}", status.message())]
    Call { doing: String, status: tonic::Status },
    #[error("{option}: {problem}")]
    Option { option: &'static str, problem: String },
    #[error("there is no image {name:?}")]
    NoImage { name: String },
    #[error("image {image} is used by {by}")]
    InUse { image: String, by: String },
    /// A signal came; the daemon does not stop for that.
    #[error("the daemon goes on pulling {image}")]
    Left { image: String, signal: i32 },
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several { errors: Vec<ClientError> },
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
            Self::Signalled(signal) | Self::Left { signal, .. } => u8::try_from(128 + signal).unwrap_or(255),
            _ if matches!(verb, "run" | "exec" | "attach") => 125,
            Self::Option { .. } => 64,
            Self::NoDaemon { .. } => 69,
            _ => 1,
        }
    }

    /// Of several things done one after the other: 0, the one error, or all of them.
    pub(crate) fn all_of(mut errors: Vec<Self>) -> Result<u8, Self> {
        match errors.len() {
            0 => Ok(0),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several { errors }),
        }
    }

    pub(crate) fn call(doing: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let doing = doing.into();
        move |status| Self::Call { doing, status }
    }
}
