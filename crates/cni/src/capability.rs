//! What a runtime tells a plugin of one pod, by capabilities that the plugin's configuration declares (CNI's
//! CONVENTIONS, "dynamic plugin specific fields").

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Cidr;

/// The names of all that Berth can tell.
pub const CAPABILITIES: [&str; 9] = [
    "portMappings",
    "bandwidth",
    "dns",
    "ipRanges",
    "mac",
    "ips",
    "cgroupPath",
    "infinibandGUID",
    "deviceID",
];

/// `runtimeConfig`. What is `None` is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    #[serde(rename = "portMappings", skip_serializing_if = "Option::is_none")]
    pub port_mappings: Option<Vec<PortMapping>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<RuntimeDns>,
    /// For each address a pod is to have, the ranges it may be of.
    #[serde(rename = "ipRanges", skip_serializing_if = "Option::is_none")]
    pub ip_ranges: Option<Vec<Vec<Range>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses with or without a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ips: Option<Vec<String>>,
    #[serde(rename = "cgroupPath", skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    #[serde(rename = "infinibandGUID", skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    #[serde(rename = "hostPort")]
    pub host_port: u16,
    #[serde(rename = "containerPort")]
    pub container_port: u16,
    /// tcp, udp or sctp.
    pub protocol: String,
    /// Empty: every address of the host.
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// Rates in bits a second, bursts in bits; seen from the pod. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    #[serde(rename = "ingressRate", skip_serializing_if = "is_zero")]
    pub ingress_rate: u64,
    #[serde(rename = "ingressBurst", skip_serializing_if = "is_zero")]
    pub ingress_burst: u64,
    #[serde(rename = "egressRate", skip_serializing_if = "is_zero")]
    pub egress_rate: u64,
    #[serde(rename = "egressBurst", skip_serializing_if = "is_zero")]
    pub egress_burst: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeDns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A part of a subnet, as host-local takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub subnet: Cidr,
    #[serde(rename = "rangeStart", default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    #[serde(rename = "rangeEnd", default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl RuntimeConfig {
    /// What a plugin that declares these capabilities is told.
    pub fn declared(&self, capabilities: &BTreeSet<String>) -> Self {
        fn told<T: Clone>(capabilities: &BTreeSet<String>, name: &str, value: &Option<T>) -> Option<T> {
            value.clone().filter(|_| capabilities.contains(name))
        }
        Self {
            port_mappings: told(capabilities, "portMappings", &self.port_mappings),
            bandwidth: told(capabilities, "bandwidth", &self.bandwidth),
            dns: told(capabilities, "dns", &self.dns),
            ip_ranges: told(capabilities, "ipRanges", &self.ip_ranges),
            mac: told(capabilities, "mac", &self.mac),
            ips: told(capabilities, "ips", &self.ips),
            cgroup_path: told(capabilities, "cgroupPath", &self.cgroup_path),
            infiniband_guid: told(capabilities, "infinibandGUID", &self.infiniband_guid),
            device_id: told(capabilities, "deviceID", &self.device_id),
        }
    }

    /// As a plugin's `runtimeConfig`; empty when there is nothing to tell.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_declared_is_told() {
        let port = PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol: "tcp".into(),
            host_ip: String::new(),
        };
        let all = RuntimeConfig {
            port_mappings: Some(vec![port]),
            mac: Some("02:00:00:00:00:01".into()),
            cgroup_path: Some("/berth/a".into()),
            ..Default::default()
        };
        let told = all.declared(&BTreeSet::from(["portMappings".to_owned(), "bandwidth".to_owned()]));
        let text = serde_json::to_string(&told.to_map()).unwrap();
        assert_eq!(text, r#"{"portMappings":[{"containerPort":8080,"hostPort":80,"protocol":"tcp"}]}"#);
        assert!(all.declared(&BTreeSet::new()).to_map().is_empty());
    }
}
