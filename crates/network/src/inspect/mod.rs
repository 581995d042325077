//! What is really there, for people: records say what should be, the kernel says what is, and where they differ it is told.

mod instance;
pub(crate) mod pod;
mod resolver;
mod view;

use std::net::IpAddr;

use berth_cni::{CniResult, Record};
use berth_netlink::nft;

pub use self::pod::pod as inspect_pod;
pub use self::resolver::ResolverView;
pub use self::view::{
    Counters, End, InstanceView, PodView, PortHolder, RouteView, RuleView, ShapingView, SubnetView, TableView,
};
use crate::{Attachment, HostPort, Network, POD_INTERFACE, Plugins, names, plugin};

/// What the records say of a pod's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// In the pod.
    pub interface: String,
    pub addresses: Vec<IpAddr>,
    /// The pod's default routes lead there.
    pub gateways: Vec<IpAddr>,
    /// `None`: not recorded; it is whatever the pod's leads to.
    pub host_interface: Option<String>,
    /// `None`: the pod is connected to none, as far as is known.
    pub bridge: Option<String>,
    pub host_ports: Vec<HostPort>,
    /// Where what the pod sends waits.
    pub ifb: Option<String>,
    /// What of it is in a table of ours; `None`: others make its rules.
    pub rules: Option<Rules>,
}

/// A pod's part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub table: String,
    pub pod: nft::Pod,
    /// The interface that leads to this pod alone.
    pub link: Option<String>,
}

impl Network {
    /// Of a pod on our own bridge.
    pub fn recorded(&self, attachment: &Attachment) -> Recorded {
        let pod = self.rules(&attachment.ips, &attachment.host_ports).unwrap_or_default();
        Recorded {
            interface: POD_INTERFACE.to_owned(),
            addresses: attachment.ips.clone(),
            gateways: attachment.gateways.clone(),
            host_interface: Some(attachment.host_interface.clone()),
            bridge: Some(attachment.bridge.clone()),
            host_ports: attachment.host_ports.clone(),
            ifb: attachment.ifb.clone(),
            rules: Some(Rules { table: self.table.clone(), pod, link: None }),
        }
    }
}

impl Plugins {
    /// Of a pod that plugins connected.
    pub fn recorded(&self, record: &Record) -> Recorded {
        let read = record.result.clone().map(|value| CniResult::read(value, record.version));
        let result = read.and_then(Result::ok).unwrap_or_default();
        let plugin = |name: &str| {
            record.plugins.iter().find(|used| used.conf.get("type").is_some_and(|kind| kind == name))
        };
        let bridge = plugin("bridge");
        // Names and rules of a program are its own.
        let ours = [bridge, plugin("ptp")].into_iter().flatten().any(|used| used.in_process);
        let host: Vec<&str> =
            result.interfaces.iter().filter(|i| i.sandbox.is_empty()).map(|i| i.name.as_str()).collect();
        let veth = names::veth(&record.container, &record.interface);
        let mappings = record.runtime.port_mappings.clone().unwrap_or_default();
        // Those that cannot be read were refused when the pod came.
        let host_ports = plugin::host_ports(&mappings).unwrap_or_default();
        let limited = host.iter().find(|name| name.starts_with("bwp"));
        Recorded {
            interface: record.interface.clone(),
            addresses: result.addresses(&record.interface),
            gateways: default_gateways(&result),
            host_interface: ours.then_some(veth),
            // The program names it first too.
            bridge: host.first().filter(|_| bridge.is_some()).map(|name| (*name).to_owned()),
            host_ports,
            ifb: limited.map(|name| (*name).to_owned()),
            rules: ours.then(|| self.rules_of(&record.container)),
        }
    }
}

/// As it is done when a pod is connected: a default route without a gateway has that of an address of its IP version.
fn default_gateways(result: &CniResult) -> Vec<IpAddr> {
    let of = |v6: bool| result.ips.iter().find(|ip| ip.address.is_ipv6() == v6).and_then(|ip| ip.gateway);
    let default = result.routes.iter().filter(|route| route.dst.prefix == 0);
    default.filter_map(|route| route.gw.or_else(|| of(route.dst.is_ipv6()))).collect()
}
