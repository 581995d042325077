//! What is told, also as JSON: fields are only added, each with a default.

use std::net::IpAddr;

use berth_netlink::Rate;
use serde::{Deserialize, Serialize};

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    pub name: String,
    pub index: u32,
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    /// Its other end is up too.
    pub carrier: bool,
    /// With their prefixes; those of the link alone are left out.
    pub addresses: Vec<String>,
    /// The bridge it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    pub received: Counters,
    pub sent: Counters,
}

/// Since the interface was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub destination: String,
    pub gateway: Option<IpAddr>,
}

/// One element of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    pub set: String,
    pub element: String,
    pub there: bool,
}

/// What a direction is held to, in bytes a second and bytes at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShapingView {
    /// (rate, burst)
    pub to_pod: Option<(u64, u32)>,
    pub from_pod: Option<(u64, u32)>,
}

pub(super) fn rate(rate: Rate) -> (u64, u32) {
    (rate.bytes, rate.burst)
}

/// What one pod is connected to, by the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodView {
    pub pod_end: Option<End>,
    pub host_end: Option<End>,
    pub bridge: Option<End>,
    pub routes: Vec<RouteView>,
    pub host_ports: Vec<String>,
    pub shaping: ShapingView,
    /// `None`: the rules are others'.
    pub table: Option<String>,
    pub rules: Vec<RuleView>,
    /// Where the records say something else than the kernel.
    pub differences: Vec<String>,
}

/// A network that pods get addresses of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetView {
    pub subnet: String,
    pub gateway: IpAddr,
    pub used: u64,
    pub free: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableView {
    pub name: String,
    pub there: bool,
    /// Elements of all its sets.
    pub elements: usize,
    /// What leaves the machine from these addresses bears the machine's own.
    pub masqueraded: usize,
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortHolder {
    pub port: String,
    pub container_port: u16,
    pub pod: String,
}

/// An instance's own network, by the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceView {
    /// The interface's name, also where it is not there.
    pub bridge_name: String,
    pub bridge: Option<End>,
    pub subnets: Vec<SubnetView>,
    /// Of the pods that come.
    pub mtu: u32,
    /// Pods reach no service of the host's own.
    pub isolated: bool,
    pub table: TableView,
    /// Whether the host passes packets on: IPv4 and IPv6.
    pub forwarding: [bool; 2],
    pub host_ports: Vec<PortHolder>,
    pub differences: Vec<String>,
}
