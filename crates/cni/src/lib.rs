//! The Container Network Interface, version 1.1 and down to 0.1: network configurations, results, and plugins.
//!
//! Blocking. It knows no link, address or rule of the kernel's: who gives pods their network is a plugin, either a program or
//! one behind [`InProcess`].

mod address;
mod annotations;
mod capability;
mod chain;
mod conf;
pub mod directory;
mod error;
mod in_process;
mod known;
mod netns;
mod prepared;
mod program;
mod record;
mod result;
mod service;
mod turns;
mod upkeep;
mod version;

pub use address::{Cidr, NoCidr};
pub use annotations::{BadAnnotation, Wishes, pod_bandwidth};
pub use capability::{Bandwidth, CAPABILITIES, PortMapping, Range, RuntimeConfig, RuntimeDns};
pub use chain::{Chain, ChainError, Failure};
pub use conf::{ConfError, NetworkConf, PluginConf};
pub use error::PluginError;
pub use in_process::{Call, Does, InProcess, InUse};
pub use known::{
    BandwidthPlugin, Bridge, Firewall, HostLocal, Ipam, Known, Portmap, Ptp, Static, StaticAddress, Tuning,
};
pub use netns::Paths;
pub use program::{ProgramError, Programs};
pub use record::{Ending, PodName, Record, Records, UsedPlugin};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use service::{Cni, CniError, CniPod, CniSettings, Connected, Embedded, Report};
pub use turns::Closed;
pub use version::{UnknownVersion, VERSIONS, Version};
