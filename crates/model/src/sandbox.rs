use serde::{Deserialize, Serialize};

use crate::{DnsConfig, PortMapping, Resources, SandboxSecurity, StringMap};

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    pub metadata: SandboxMetadata,
    /// Empty with host network: the host's name is kept.
    pub hostname: String,
    /// Where the logs of the pod's containers go; empty means no logs.
    pub log_directory: String,
    /// `None`: the host's resolv.conf is copied.
    pub dns: Option<DnsConfig>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: StringMap,
    pub annotations: StringMap,
    /// In cgroupfs syntax, also where the systemd driver is in use; empty: Berth's own parent.
    pub cgroup_parent: String,
    pub security: SandboxSecurity,
    pub sysctls: StringMap,
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
    /// Empty: the default handler.
    pub runtime_handler: String,
}
