use std::path::PathBuf;
use std::time::Duration;

use berth_ids::{Classify, Digest, ErrorClass};

use crate::ReferenceError;

/// Why something could not be fetched or sent. The texts reach the person who looks at the pod; where the registry is
/// not to be had for the moment they begin with the word that the kubelet looks for (cri-api `errors`).
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{} is broken: {problem}", path.display())]
    Hosts { path: PathBuf, problem: String },
    #[error("{} is broken: {problem}", path.display())]
    AuthFile { path: PathBuf, problem: String },
    #[error("the credential helper {program} for {host}: {problem}")]
    Helper { program: String, host: String, problem: String },
    #[error("RegistryUnavailable: {host} does not answer for {reference}")]
    Unreachable { host: String, reference: String, source: reqwest::Error },
    #[error("RegistryUnavailable: {host} answered {status} for {reference}{said}")]
    Status { host: String, reference: String, status: u16, said: String, after: Option<Duration> },
    #[error(
        "RegistryUnavailable: {host} limits how much is pulled (429) and does not give {reference}{said}"
    )]
    Limited { host: String, reference: String, said: String, after: Option<Duration> },
    #[error("RegistryUnavailable: a transfer from {host} stood still for {seconds} s")]
    Stalled { host: String, seconds: u64 },
    #[error("{reference} does not exist at {host}{said}")]
    NotFound { host: String, reference: String, said: String },
    #[error("{host} refuses {reference}: {why}")]
    Refused { host: String, reference: String, why: String },
    #[error("{host} redirects for {reference}: {problem}")]
    Redirect { host: String, reference: String, problem: String },
    #[error("{what} of {reference} at {host} is larger than {limit} bytes")]
    Large { what: &'static str, host: String, reference: String, limit: u64 },
    #[error("{what} of {reference} at {host}: {problem}")]
    Malformed { what: &'static str, host: String, reference: String, problem: String },
    #[error("{what} of {reference} is {found}, not {wanted}")]
    Digest { what: &'static str, reference: String, wanted: Digest, found: Digest },
    #[error("layer {digest} at {host} has {found}, and the manifest says {wanted} bytes")]
    Size { host: String, digest: Digest, wanted: u64, found: String },
    #[error("{reference} has no image for {platform}; it has {has}")]
    Platform { reference: String, platform: String, has: String },
    #[error("set up TLS for {host}")]
    Tls { host: String, source: reqwest::Error },
    #[error("no place is configured for {host} that may {need}")]
    Nowhere { host: String, need: &'static str },
}

impl RegistryError {
    /// Another try, at the same place, may go better.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.is_connect() && !source.is_builder(),
            Self::Status { status, .. } => *status == 408 || *status >= 500,
            Self::Limited { .. } | Self::Stalled { .. } => true,
            _ => false,
        }
    }

    /// Nobody is there. Whoever was there a moment ago may be starting anew.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_connect())
    }

    /// How long the registry asks to be left alone.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self {
            Self::Status { after, .. } | Self::Limited { after, .. } => *after,
            _ => None,
        }
    }
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
