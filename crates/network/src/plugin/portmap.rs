//! `portmap`: ports of the host that lead to the pod, as elements of the table.

use berth_cni::{Call, CniResult, PluginError, Portmap, RuntimeConfig};
use berth_model::{PortMapping, Protocol};
use berth_netlink::Routes;

use super::link::host_name;
use super::rules::{Lent, Rules};
use super::{previous, refused};
use crate::NetworkError;
use crate::host_ports::{HostPort, wanted};

/// What names rules of iptables has no meaning without it, and without `snat` clients of the pod's own network are answered past
/// the host.
pub(super) fn does(conf: &Portmap) -> bool {
    let plain = conf.conditions_v4.is_none() && conf.conditions_v6.is_none();
    plain
        && conf.external_set_mark_chain.is_none()
        && conf.mark_masq_bit.is_none()
        && !conf.masq_all
        && conf.snat != Some(false)
        && conf.backend.as_deref().is_none_or(|backend| backend == "nftables")
}

fn ports(call: &Call<'_>) -> Result<Vec<HostPort>, PluginError> {
    host_ports(call.runtime.port_mappings.as_deref().unwrap_or_default())
}

/// As they were asked for.
pub(crate) fn host_ports(asked: &[berth_cni::PortMapping]) -> Result<Vec<HostPort>, PluginError> {
    let mut mappings = Vec::new();
    for port in asked {
        let protocol = match port.protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(refused(format!("{other:?} is no protocol with ports"))),
        };
        let host_ip = port.host_ip.clone();
        mappings.push(PortMapping {
            protocol,
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip,
        });
    }
    Ok(wanted(&mappings))
}

/// The program asks nobody, and its rule comes before a process that listens.
pub(super) fn foresee(runtime: &RuntimeConfig) -> Result<(), PluginError> {
    let ports = host_ports(runtime.port_mappings.as_deref().unwrap_or_default())?;
    Ok(ports.into_iter().try_for_each(HostPort::is_free)?)
}

pub(super) fn add(call: &Call<'_>, rules: &Rules) -> Result<CniResult, PluginError> {
    let result = previous(call)?.clone();
    let ports = ports(call)?;
    if ports.is_empty() {
        return Ok(result);
    }
    // The first of each IP version, as the program does.
    let all = result.addresses(call.interface);
    let of = |v6: bool| all.iter().find(|ip| ip.is_ipv6() == v6).copied();
    let addresses: Vec<_> = [of(false), of(true)].into_iter().flatten().collect();
    for (at, port) in ports.iter().enumerate() {
        if ports[..at].iter().any(|other| other.conflicts(*port)) {
            return Err(NetworkError::Taken { port: *port, holder: call.pod() }.into());
        }
        port.is_free()?;
    }
    reach_loopback(call, &result, rules)?;
    rules.change(call.container, |pod| {
        (pod.network, pod.pod) = (call.network.to_owned(), call.pod());
        if pod.addresses.is_empty() {
            pod.addresses = addresses;
        }
        pod.host_ports = ports;
    })?;
    Ok(result)
}

/// Clients at 127.0.0.1 and ::1 are answered by the interfaces that lead to the pod.
fn reach_loopback(call: &Call<'_>, result: &CniResult, rules: &Rules) -> Result<(), PluginError> {
    let routes = Routes::open().map_err(super::fail("open a netlink socket"))?;
    let v6 = result.ips.iter().any(|ip| ip.address.is_ipv6());
    // Of a bridge's pod the bridge is who speaks IP, and not its port.
    let own_link = rules.of(call.container).and_then(|pod| pod.own_link);
    let port = own_link.is_none().then(|| host_name(call));
    let on_host = |name: &&String| port.as_ref() != Some(name);
    let interfaces = result.interfaces.iter().filter(|interface| interface.sandbox.is_empty());
    for name in interfaces.map(|interface| &interface.name).filter(on_host) {
        let file = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
        let let_out = || {
            let written = rules.settings.write("ipv4", name, "route_localnet", "1");
            written.map_err(super::fail(format!("write 1 to {file}")))
        };
        let looking = || super::fail(format!("look for interface {name}"));
        let Some(now) = routes.glance(name).map_err(looking())? else { continue };
        if rules.answers(now.index, v6) {
            // Others may have taken it back.
            let_out()?;
            continue;
        }
        let Some(link) = routes.link(name).map_err(looking())? else { continue };
        if link.master.is_some() {
            // A port that somebody else made.
            continue;
        }
        let is = std::fs::read_to_string(&file).map_err(super::fail(format!("read {file}")))?;
        let localnet = is.trim() == "0";
        if link.kind != "veth" {
            // It outlives its pods.
            rules.lend(name, Lent { localnet, stand_in: v6 })?;
        }
        if localnet {
            let_out()?;
        }
        if v6 {
            match routes.add_address(link.index, rules.loopback6().into(), 128) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                done => done.map_err(super::fail(format!("give {name} the stand-in of ::1")))?,
            }
        }
        if link.kind == "bridge" {
            rules.link(name)?;
            rules.answer(link.index, v6);
        }
    }
    Ok(())
}

pub(super) fn check(call: &Call<'_>, rules: &Rules) -> Result<(), PluginError> {
    let held = rules.of(call.container).unwrap_or_default().host_ports;
    match ports(call)?.into_iter().find(|port| !held.contains(port)) {
        Some(port) => Err(refused(format!("the host's {port} does not lead to the pod"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use berth_cni::Known;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_done_here_is_the_programs() {
        let done = |conf: serde_json::Value| match Known::read(conf.as_object().unwrap()) {
            Some(Known::Portmap(portmap)) => does(&portmap),
            other => panic!("{conf}: {other:?}"),
        };
        for usual in [
            json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
            json!({ "type": "portmap", "snat": true, "backend": "nftables" }),
        ] {
            assert!(done(usual.clone()), "{usual}");
        }
        for strange in [
            json!({ "type": "portmap", "snat": false }),
            json!({ "type": "portmap", "masqAll": true }),
            json!({ "type": "portmap", "markMasqBit": 14 }),
            json!({ "type": "portmap", "externalSetMarkChain": "KUBE-MARK-MASQ" }),
            json!({ "type": "portmap", "conditionsV4": ["-d", "10.0.0.1"] }),
            json!({ "type": "portmap", "conditionsV6": ["-d", "fd00::1"] }),
            json!({ "type": "portmap", "backend": "iptables" }),
        ] {
            assert!(!done(strange.clone()), "{strange}");
        }
    }
}
