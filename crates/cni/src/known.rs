//! The standard plugins, typed: a configuration is one of them only where every field of it is understood.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Cidr;
use crate::capability::{CAPABILITIES, Range};
use crate::result::{Dns, Route};

/// A plugin's configuration without a field or value that is not understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    Bridge(Bridge),
    Loopback,
    Portmap(Portmap),
    Bandwidth(BandwidthPlugin),
    Firewall(Firewall),
    Tuning(Tuning),
    Ptp(Ptp),
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Ipam {
    HostLocal(HostLocal),
    Static(Static),
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Bridge {
    /// Empty: cni0.
    pub bridge: String,
    pub is_gateway: bool,
    pub is_default_gateway: bool,
    pub force_address: bool,
    pub ip_masq: bool,
    /// Bytes; 0: the kernel's choice.
    pub mtu: u32,
    pub hairpin_mode: bool,
    pub promisc_mode: bool,
    /// 0: none.
    pub vlan: u16,
    pub preserve_default_vlan: Option<bool>,
    #[serde(rename = "macspoofchk")]
    pub mac_spoof_check: bool,
    #[serde(rename = "enabledad")]
    pub enable_dad: bool,
    pub port_isolation: bool,
    pub disable_container_interface: bool,
    /// `None`: a bridge without addresses.
    #[serde(deserialize_with = "ipam")]
    pub ipam: Option<Ipam>,
    pub dns: Option<Dns>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Ptp {
    pub ip_masq: bool,
    /// Bytes; 0: the kernel's choice.
    pub mtu: u32,
    #[serde(deserialize_with = "ipam")]
    pub ipam: Option<Ipam>,
    pub dns: Option<Dns>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Portmap {
    /// `None`: on.
    pub snat: Option<bool>,
    pub masq_all: bool,
    /// `None`: 13.
    pub mark_masq_bit: Option<u8>,
    pub external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    pub conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    pub conditions_v6: Option<Vec<String>>,
    pub backend: Option<String>,
}

/// Limits for pods that come without their own ([`crate::Bandwidth`]).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BandwidthPlugin {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Firewall {
    pub backend: String,
    pub iptables_admin_chain_name: String,
    pub firewalld_zone: String,
    pub ingress_policy: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Tuning {
    /// Name, with dots or slashes, to value.
    pub sysctl: BTreeMap<String, String>,
    /// Empty: the interface's own.
    pub mac: String,
    pub promisc: bool,
    /// Bytes; 0: as it is.
    pub mtu: u32,
    pub allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    pub tx_queue_length: Option<u32>,
    /// Where what was there before is kept. `None`: /run/cni/tuning.
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HostLocal {
    /// For each address a pod gets, the ranges it may be of. A lone `subnet` is one of one.
    pub ranges: Vec<Vec<Range>>,
    pub routes: Vec<Route>,
    /// `None`: /var/lib/cni/networks.
    pub data_dir: Option<PathBuf>,
    pub resolv_conf: Option<PathBuf>,
    subnet: Option<Cidr>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Static {
    pub addresses: Vec<StaticAddress>,
    pub routes: Vec<Route>,
    pub dns: Option<Dns>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticAddress {
    pub address: Cidr,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

impl Ipam {
    fn read(mut conf: Map<String, Value>) -> Option<Self> {
        let kind = conf.remove("type")?;
        let conf = Value::Object(conf);
        match kind.as_str()? {
            "host-local" => {
                let mut ipam: HostLocal = serde_json::from_value(conf).ok()?;
                if let Some(subnet) = ipam.subnet.take() {
                    let (range_start, range_end) = (ipam.range_start.take(), ipam.range_end.take());
                    let gateway = ipam.gateway.take();
                    ipam.ranges.insert(0, vec![Range { subnet, range_start, range_end, gateway }]);
                }
                // A bound or a gateway of no subnet.
                let stray = ipam.range_start.is_some() || ipam.range_end.is_some() || ipam.gateway.is_some();
                (!stray).then_some(Self::HostLocal(ipam))
            }
            "static" => serde_json::from_value(conf).ok().map(Self::Static),
            _ => None,
        }
    }
}

/// Absent and empty are no IPAM; another one than ours is an error, and so the whole plugin is not known.
fn ipam<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Ipam>, D::Error> {
    match Option::<Map<String, Value>>::deserialize(from)? {
        Some(conf) if !conf.is_empty() => {
            Ipam::read(conf).map(Some).ok_or_else(|| serde::de::Error::custom("another IPAM"))
        }
        _ => Ok(None),
    }
}

impl Known {
    /// `None`: something in it is not understood, so only the plugin's own program knows what to do.
    pub fn read(conf: &Map<String, Value>) -> Option<Self> {
        let mut conf = conf.clone();
        let kind = conf.remove("type")?;
        conf.remove("name");
        conf.remove("cniVersion");
        if let Some(capabilities) = conf.remove("capabilities") {
            let told =
                |(name, on): (&String, &Value)| on.is_boolean() && CAPABILITIES.contains(&name.as_str());
            if !capabilities.as_object()?.iter().all(told) {
                return None;
            }
        }
        let conf = Value::Object(conf);
        fn typed<T: for<'de> Deserialize<'de>>(conf: Value) -> Option<T> {
            serde_json::from_value(conf).ok()
        }
        match kind.as_str()? {
            "bridge" => typed(conf).map(Self::Bridge),
            "loopback" => conf.as_object().is_some_and(Map::is_empty).then_some(Self::Loopback),
            "portmap" => typed(conf).map(Self::Portmap),
            "bandwidth" => typed(conf).map(Self::Bandwidth),
            "firewall" => typed(conf).map(Self::Firewall),
            "tuning" => typed(conf).map(Self::Tuning),
            "ptp" => typed(conf).map(Self::Ptp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(conf: Value) -> Option<Known> {
        Known::read(conf.as_object().unwrap())
    }

    #[test]
    fn the_standard_chain_is_known() {
        let bridge = read(json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "mtu": 1450,
            "capabilities": { "mac": true },
            "ipam": { "type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9",
                "routes": [{ "dst": "0.0.0.0/0" }] },
        }));
        let Some(Known::Bridge(Bridge { ipam: Some(Ipam::HostLocal(ipam)), is_gateway: true, .. })) = bridge
        else {
            panic!("{bridge:?}")
        };
        assert_eq!(ipam.ranges[0][0].range_start, Some("10.1.0.9".parse().unwrap()));
        for conf in [
            json!({ "type": "loopback" }),
            json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
            json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
            json!({ "type": "firewall", "backend": "iptables" }),
            json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }),
            json!({ "type": "ptp", "ipam": { "type": "static", "addresses": [{ "address": "10.9.0.2/24" }] } }),
        ] {
            assert!(read(conf.clone()).is_some(), "{conf}");
        }
    }

    #[test]
    fn one_strange_field_makes_it_a_programs_task() {
        for conf in [
            json!({ "type": "calico" }),
            json!({ "type": "bridge", "uplink": "eth1" }),
            json!({ "type": "bridge", "mtu": "1450" }),
            json!({ "type": "bridge", "args": { "cni": {} } }),
            json!({ "type": "bridge", "ipam": { "type": "dhcp" } }),
            json!({ "type": "bridge", "ipam": { "type": "host-local", "gateway": "10.0.0.1" } }),
            json!({ "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.0.0.0/24", "x": 1 } }),
            json!({ "type": "portmap", "capabilities": { "io.example": true } }),
            json!({ "type": "loopback", "runtimeConfig": {} }),
        ] {
            assert!(read(conf.clone()).is_none(), "{conf}");
        }
    }
}
