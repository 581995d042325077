//! What is said of the network. Fields are only added, each with a default.

use std::net::IpAddr;

use berth_network::{Finding, InstanceView, PodView, PortHolder, ResolverView, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod that has a connection, or the host's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectedPod {
    pub(crate) id: String,
    /// `namespace/name`.
    pub(crate) name: String,
    /// Who connected it.
    pub(crate) network: String,
    pub(crate) ips: Vec<IpAddr>,
}

/// An instance's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkReport {
    /// Why pods cannot be connected now.
    pub(crate) problem: Option<String>,
    pub(crate) notes: Vec<String>,
    /// The IP version of a pod's first address; `None`: as the network gives them.
    pub(crate) primary: Option<String>,
    pub(crate) own: InstanceView,
    /// Configurations in force by runtime handler, and ends that are owed to plugins.
    pub(crate) cni: Value,
    pub(crate) plugin_ports: Vec<PortHolder>,
    pub(crate) pods: Vec<ConnectedPod>,
    pub(crate) stopped_by_others: Vec<Finding>,
}

/// The plugins that connected a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodPlugins {
    pub(crate) network: String,
    pub(crate) version: String,
    /// With who did it: in-process or a program.
    pub(crate) plugins: Vec<String>,
}

/// A pod's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodNetwork {
    pub(crate) pod: ConnectedPod,
    pub(crate) ready: bool,
    /// Path and inode of the namespace.
    pub(crate) netns: Option<(String, u64)>,
    pub(crate) cni: Option<PodPlugins>,
    pub(crate) dns: ResolverView,
    /// `None`: it has no network of its own (any more).
    pub(crate) view: Option<PodView>,
}

/// What came of trying a pod's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkCheck {
    pub(crate) pod: ConnectedPod,
    pub(crate) steps: Vec<Step>,
}
