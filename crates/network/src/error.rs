use berth_ids::{Classify, ErrorClass};

use crate::Subnet;

/// What can go wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{doing}")]
    Kernel { doing: String, source: std::io::Error },
    #[error("every address of {subnet} is in use")]
    Exhausted { subnet: Subnet },
    #[error("the host has routes to every network Berth would choose; set network.subnets")]
    NoSubnet,
    #[error("{text:?} has no IPv4 network such as 10.85.0.0/16")]
    Cidr { text: String },
    #[error("{what} was removed while it was being made")]
    Gone { what: String },
    #[error("remember the network's choices in {}", path.display())]
    Save { path: std::path::PathBuf, source: std::io::Error },
}

impl Classify for NetworkError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Exhausted { .. } => ErrorClass::ResourceExhausted,
            Self::Cidr { .. } => ErrorClass::InvalidArgument,
            Self::NoSubnet => ErrorClass::FailedPrecondition,
            Self::Gone { .. } => ErrorClass::Unavailable,
            Self::Kernel { .. } | Self::Save { .. } => ErrorClass::Internal,
        }
    }
}
