use berth_ids::{Classify, ErrorClass};

use crate::{HostPort, Subnet};

/// What can go wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{doing}")]
    Kernel { doing: String, source: std::io::Error },
    #[error("every address of {subnet} is in use")]
    Exhausted { subnet: Subnet },
    #[error("bridge {bridge} leads to {pods} pods, and can lead to no more")]
    Full { bridge: String, pods: usize },
    #[error("the pod's limits: {why}")]
    Limits { why: String },
    #[error("the host has routes to every network Berth would choose; set network.subnets")]
    NoSubnet,
    #[error("{text:?} is not one network of IPv4 or IPv6, or one of each, such as 10.85.0.0/16,fd00:85::/64")]
    Cidr { text: String },
    #[error("{what} was removed while it was being made")]
    Gone { what: String },
    #[error("remember the network's choices in {}", path.display())]
    Save { path: std::path::PathBuf, source: std::io::Error },
    #[error("the host's {port} leads to pod {holder} already")]
    Taken { port: HostPort, holder: String },
    #[error("pods use the network: {}", pods.join(", "))]
    Used { pods: Vec<String> },
    #[error("a process of the host listens on {port}")]
    InUse { port: HostPort },
    #[error("the host's {port} cannot lead to the pod, which has no address of that IP version")]
    NoSuchVersion { port: HostPort },
}

impl Classify for NetworkError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Exhausted { .. } | Self::Full { .. } => ErrorClass::ResourceExhausted,
            Self::Cidr { .. } | Self::Limits { .. } => ErrorClass::InvalidArgument,
            Self::NoSubnet
            | Self::Taken { .. }
            | Self::Used { .. }
            | Self::InUse { .. }
            | Self::NoSuchVersion { .. } => ErrorClass::FailedPrecondition,
            Self::Gone { .. } => ErrorClass::Unavailable,
            Self::Kernel { .. } | Self::Save { .. } => ErrorClass::Internal,
        }
    }
}
