//! What a plugin gave a pod, in the form of CNI 1.1, and its forms of earlier versions.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Cidr, Version};

/// The `Success` of ADD (CNI 1.1, section 5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub ips: Vec<IpConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub routes: Vec<Route>,
    #[serde(deserialize_with = "none_is_empty")]
    pub dns: Dns,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes; since 1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; empty for an interface of the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Of a vhost-user interface; since 1.1.
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Since 1.1.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Which of [`CniResult::interfaces`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    pub address: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    pub gateway: Option<IpAddr>,
}

/// The numbers are the kernel's (rtnetlink(7)); all but destination and gateway since 1.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    pub gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    pub options: Vec<String>,
}

/// Plugins in Go write `null` for what is empty.
pub(crate) fn none_is_empty<'de, T: Deserialize<'de> + Default, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()) {
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
        None => Ok(None),
    }
}

/// The form of 0.1.0 and 0.2.0: one address of each IP version and no interfaces.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Old {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIp>,
    #[serde(deserialize_with = "none_is_empty")]
    dns: Dns,
}

#[derive(Debug, Serialize, Deserialize)]
struct OldIp {
    ip: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "none_is_empty")]
    routes: Vec<Route>,
}

impl CniResult {
    /// Reads the form of `version`; a `cniVersion` in it is not looked at.
    pub fn read(value: Value, version: Version) -> Result<Self, serde_json::Error> {
        if version.has_chains() {
            return serde_json::from_value(value);
        }
        let old: Old = serde_json::from_value(value)?;
        let mut result = Self { dns: old.dns, ..Self::default() };
        for ip in [old.ip4, old.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { interface: None, address: ip.ip, gateway: ip.gateway });
            result.routes.extend(ip.routes);
        }
        Ok(result)
    }

    /// In the form of `version`, which has no place for some of what later ones know.
    pub fn write(&self, version: Version) -> Value {
        let mut written = match version.has_chains() {
            true => self.rich(version),
            false => self.old(),
        };
        if let Value::Object(fields) = &mut written {
            fields.insert("cniVersion".into(), version.as_str().into());
        }
        written
    }

    fn old(&self) -> Value {
        let of = |v6: bool| {
            let ip = self.ips.iter().find(|ip| ip.address.is_ipv6() == v6)?;
            let routes = self.routes.iter().filter(|route| route.dst.is_ipv6() == v6);
            let routes = routes.map(|route| json!({ "dst": route.dst, "gw": route.gw })).collect::<Vec<_>>();
            Some(json!({ "ip": ip.address, "gateway": ip.gateway, "routes": routes }))
        };
        let parts = [("ip4", of(false)), ("ip6", of(true)), ("dns", Some(json!(self.dns)))];
        let some = parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(some.collect::<Map<_, _>>())
    }

    fn rich(&self, version: Version) -> Value {
        let mut cut = self.clone();
        if version < Version::V1_1_0 {
            for interface in &mut cut.interfaces {
                *interface = Interface {
                    name: std::mem::take(&mut interface.name),
                    mac: std::mem::take(&mut interface.mac),
                    sandbox: std::mem::take(&mut interface.sandbox),
                    ..Interface::default()
                };
            }
            for route in &mut cut.routes {
                (route.mtu, route.advmss, route.priority) = (None, None, None);
                (route.table, route.scope) = (None, None);
            }
        }
        let mut value = json!(cut);
        if version < Version::V1_0_0
            && let Some(ips) = value.get_mut("ips").and_then(Value::as_array_mut)
        {
            for (written, ip) in ips.iter_mut().zip(&self.ips) {
                written["version"] = if ip.address.is_ipv6() { "6" } else { "4" }.into();
            }
        }
        value
    }

    /// Addresses of the pod's interface of this name, in the result's order. A result that names no interfaces, or
    /// none of this name, is taken for what it says of the pod at all.
    pub fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let of = |wanted: &dyn Fn(Option<&Interface>) -> bool| {
            let ips = self.ips.iter();
            let mine = ips.filter(|ip| wanted(ip.interface.and_then(|index| self.interfaces.get(index))));
            mine.map(|ip| ip.address.address).collect::<Vec<_>>()
        };
        let named = of(&|found| found.is_some_and(|i| i.name == interface && !i.sandbox.is_empty()));
        match named.is_empty() {
            true => of(&|found| found.is_none_or(|i| !i.sandbox.is_empty())),
            false => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> CniResult {
        let value = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "cni0", "mac": "00:00:00:00:00:01", "mtu": 1500 },
                { "name": "eth0", "sandbox": "/run/netns/a" },
                { "name": "net1", "sandbox": "/run/netns/a" },
            ],
            "ips": [
                { "interface": 2, "address": "192.0.2.9/24" },
                { "interface": 1, "address": "10.1.0.5/16", "gateway": "10.1.0.1" },
                { "interface": 1, "address": "fd00::5/64", "gateway": "" },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "mtu": 1400, "scope": 0 }, { "dst": "::/0", "gw": "fd00::1" }],
            "dns": null,
        });
        CniResult::read(value, Version::V1_1_0).unwrap()
    }

    #[test]
    fn each_version_has_its_form() {
        let result = full();
        let new = result.write(Version::V1_1_0);
        assert_eq!(new["interfaces"][0]["mtu"], 1500);
        assert_eq!(CniResult::read(new, Version::V1_1_0).unwrap(), result);
        let before = result.write(Version::V0_3_1);
        assert_eq!((&before["ips"][1]["version"], &before["ips"][2]["version"]), (&json!("4"), &json!("6")));
        assert!(before["interfaces"][0].get("mtu").is_none() && before["routes"][0].get("mtu").is_none());
        let one = result.write(Version::V1_0_0);
        assert!(one["ips"][1].get("version").is_none());
        let old = result.write(Version::V0_2_0);
        assert_eq!(old["ip4"]["ip"], "192.0.2.9/24");
        assert_eq!(old["ip6"]["routes"][0]["gw"], "fd00::1");
        assert_eq!(CniResult::read(old, Version::V0_2_0).unwrap().ips.len(), 2);
    }

    #[test]
    fn the_pods_addresses_are_those_of_its_interface() {
        let texts = |result: &CniResult| {
            result.addresses("eth0").iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let mut result = full();
        assert_eq!(texts(&result), "10.1.0.5 fd00::5");
        result.interfaces[1].name = "other".into();
        assert_eq!(texts(&result), "192.0.2.9 10.1.0.5 fd00::5");
        result.interfaces.clear();
        assert_eq!(texts(&result), "192.0.2.9 10.1.0.5 fd00::5");
        assert_eq!(texts(&CniResult::default()), "");
    }
}
