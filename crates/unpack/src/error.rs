use std::io;

use berth_ids::{Classify, ErrorClass};

/// Why a stream is not an acceptable tar archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("read the archive")]
    Read { source: io::Error },
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("malformed archive at byte {at}: {what}")]
    Malformed { at: u64, what: &'static str },
    #[error("entry type {kind:?} is not supported")]
    Kind { kind: char },
    #[error("the archive has more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
}

/// Why a layer could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream the layer came from failed.
    #[error("read the layer")]
    Read { source: io::Error },
    #[error("inflate the layer")]
    Inflate { source: io::Error },
    #[error("the layer inflates to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("refused entry {name:?}: {why}")]
    Refused { name: String, why: &'static str },
    #[error("create {name:?}")]
    Create { name: String, source: io::Error },
    #[error("set {attribute:?} of {name:?}")]
    Attribute { name: String, attribute: String, source: io::Error },
    #[error("start a thread for the layer")]
    Thread { source: io::Error },
    #[error("write the record of the layer's tree")]
    Record { source: io::Error },
}

impl UnpackError {
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Read { source }
            | Self::Inflate { source }
            | Self::Create { source, .. }
            | Self::Attribute { source, .. }
            | Self::Record { source } => Some(source),
            Self::Tar(TarError::Read { source }) => Some(source),
            _ => None,
        }
    }
}

impl Classify for UnpackError {
    fn class(&self) -> ErrorClass {
        match self.io().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => ErrorClass::ResourceExhausted,
            _ => ErrorClass::Unknown,
        }
    }
}
