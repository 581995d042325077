//! What plugins are told of a pod, from what CRI says of it.

use berth_cni::{Bandwidth, Cidr, PortMapping, Range, RuntimeConfig, RuntimeDns, Wishes, pod_bandwidth};
use berth_ids::ErrorClass;
use berth_model::{Protocol, SandboxConfig};
use berth_pods::ports::{Connect, PortError};

/// The rates that a pod's annotations ask for.
pub(super) fn bandwidth(config: &SandboxConfig) -> Result<Option<Bandwidth>, PortError> {
    pod_bandwidth(&config.annotations)
        .map_err(|error| PortError::new(ErrorClass::InvalidArgument, error.to_string()))
}

pub(super) fn runtime(pod: &Connect<'_>, pod_cidr: Vec<Cidr>) -> Result<RuntimeConfig, PortError> {
    let config = pod.config;
    let bandwidth = bandwidth(config)?;
    let wishes = Wishes::read(&config.annotations);
    // CRI: a host_port of 0 maps nothing.
    let ports = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    let ports: Vec<PortMapping> = ports
        .map(|mapping| PortMapping {
            host_port: mapping.host_port,
            container_port: mapping.container_port,
            protocol: match mapping.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            }
            .to_owned(),
            host_ip: mapping.host_ip.clone(),
        })
        .collect();
    let range = |subnet| vec![Range { subnet, range_start: None, range_end: None, gateway: None }];
    let ranges: Vec<Vec<Range>> = pod_cidr.into_iter().map(range).collect();
    Ok(RuntimeConfig {
        port_mappings: Some(ports).filter(|ports| !ports.is_empty()),
        bandwidth,
        dns: config.dns.as_ref().map(|dns| RuntimeDns {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        ip_ranges: Some(ranges).filter(|ranges| !ranges.is_empty()),
        mac: wishes.mac,
        ips: wishes.ips,
        cgroup_path: Some(pod.cgroup_parent.to_owned()).filter(|path| !path.is_empty()),
        infiniband_guid: wishes.infiniband_guid,
        device_id: wishes.device_id,
    })
}
