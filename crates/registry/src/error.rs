use berth_ids::{Classify, Digest, ErrorClass};

use crate::ReferenceError;

/// Why something could not be fetched. The texts reach the person who looks at the pod.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{} is broken: {problem}", path.display())]
    Hosts { path: std::path::PathBuf, problem: String },
    /// The kubelet looks for this word at the beginning (cri-api `errors`).
    #[error("RegistryUnavailable: {host} does not answer for {reference}")]
    Unreachable { host: String, reference: String, source: reqwest::Error },
    #[error("RegistryUnavailable: {host} answered {status} for {reference}")]
    Status { host: String, reference: String, status: u16 },
    #[error("{reference} does not exist at {host}")]
    NotFound { host: String, reference: String },
    #[error("{host} refuses {reference}: {why}")]
    Refused { host: String, reference: String, why: &'static str },
    #[error("{what} of {reference} at {host} is larger than {limit} bytes")]
    Large { what: &'static str, host: String, reference: String, limit: u64 },
    #[error("{what} of {reference} at {host}: {problem}")]
    Malformed { what: &'static str, host: String, reference: String, problem: String },
    #[error("{what} of {reference} is {found}, not {wanted}")]
    Digest { what: &'static str, reference: String, wanted: Digest, found: Digest },
    #[error("{reference} has no image for {platform}")]
    Platform { reference: String, platform: String },
    #[error("a transfer from {host} stood still for {seconds} s")]
    Stalled { host: String, seconds: u64 },
    #[error("set up TLS for {host}")]
    Tls { host: String, source: reqwest::Error },
}

impl Classify for RegistryError {
    /// The kubelet shows a pull's error verbatim only under this class.
    fn class(&self) -> ErrorClass {
        match self {
            Self::Reference(error) => error.class(),
            _ => ErrorClass::Unknown,
        }
    }
}
