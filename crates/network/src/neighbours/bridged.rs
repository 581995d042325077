//! Interfaces that lead to pods: Berth's own bridge, those that plugins name, in-process ones or programs, and pairs of interfaces
//! that are routed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use berth_cni::{Cidr, CniResult, Interface, IpConfig, Ipam, Known, UsedPlugin};
use berth_netlink::{Link, Routes};

use crate::plugin::{bridge_name, first_addresses};
use crate::subnet::{address, bits};
use crate::{Network, NetworkError, step};

/// The interface that others' rules name, and the pods behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridged {
    pub name: String,
    /// At most one of each IP version.
    pub networks: Vec<PodNetwork>,
    /// Each pod has an interface of its own, without a bridge: that of the other one.
    pub other: Option<String>,
}

/// Two pods of one IP version. They are real ones where there are any: a plugin may have let these pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    pub pod: IpAddr,
    pub other: IpAddr,
    /// The host's on the bridge, if it has one there.
    pub gateway: Option<IpAddr>,
}

/// Interfaces that are looked at; a bridge is named by all of its pods, other interfaces by one each. So many pods are looked at
/// for one that no bridge leads to.
const LOOKED_AT: usize = 16;
/// Plugins that let no packet pass which others stop, whoever does them.
const SILENT: [&str; 6] = ["bridge", "ptp", "loopback", "portmap", "bandwidth", "tuning"];
/// What stands for pods' interfaces where none is there.
const PAIRS: [&str; 2] = ["veth0", "veth1"];

impl Network {
    /// Berth's own, also before the first pod.
    pub fn bridged(&self) -> Bridged {
        let networks = self.subnets().into_iter().map(|subnet| {
            let first = subnet.hosts().start;
            let (pod, other) = (subnet.host(first), subnet.host(first + 1));
            PodNetwork { pod, other, gateway: Some(subnet.gateway()) }
        });
        Bridged { name: self.bridge().to_owned(), networks: networks.collect(), other: None }
    }

    /// Whether a pod is connected to it.
    pub fn is_used(&self) -> bool {
        !self.pods.lock().is_empty()
    }
}

/// Those of plugins: by what they said of pods that are connected, and by configurations that have none yet. A configuration
/// with a plugin whose program may let its pods pass is not asked about before there is one.
pub fn bridges(
    connected: &[Arc<CniResult>],
    configured: &[Vec<UsedPlugin>],
) -> Result<Vec<Bridged>, NetworkError> {
    let looking = || step("look for bridges of plugins");
    let routes = Routes::open().map_err(looking())?;
    let mut found = of_pods(&routes, connected).map_err(looking())?;
    for new in configured.iter().filter_map(|plugins| of_configuration(plugins)) {
        let same = |known: &Bridged| match &new.other {
            Some(_) => known.other.is_some(),
            None => known.name == new.name,
        };
        if !found.iter().any(same) {
            found.push(new);
        }
    }
    Ok(found)
}

fn of_pods(routes: &Routes, connected: &[Arc<CniResult>]) -> io::Result<Vec<Bridged>> {
    let mut by_name: BTreeMap<&str, (usize, Vec<&CniResult>)> = BTreeMap::new();
    for result in connected {
        for interface in on_host(result) {
            let (count, some) = by_name.entry(&interface.name).or_default();
            *count += 1;
            if some.len() < 2 {
                some.push(result);
            }
        }
    }
    let mut named: Vec<_> = by_name.into_iter().collect();
    named.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let mut found = Vec::new();
    for (name, (_, pods)) in named.into_iter().take(LOOKED_AT) {
        let Some(link) = routes.link(name)?.filter(|link| link.kind == "bridge") else { continue };
        let own = routes.addresses(link.index)?;
        let networks = [false, true].into_iter().filter_map(|v6| network(&pods, &own, v6));
        found.push(Bridged { name: name.to_owned(), networks: networks.collect(), other: None });
    }
    let bridged = |result: &CniResult| on_host(result).any(|one| found.iter().any(|b| b.name == one.name));
    let routed = routed(routes, connected.iter().filter(|result| !bridged(result)))?;
    found.extend(routed);
    Ok(found)
}

fn on_host(result: &CniResult) -> impl Iterator<Item = &Interface> {
    result.interfaces.iter().filter(|interface| interface.sandbox.is_empty())
}

/// Two pods with a pair of interfaces of their own stand for all: who writes rules for such names none of them.
fn routed<'a>(
    routes: &Routes,
    pods: impl Iterator<Item = &'a Arc<CniResult>>,
) -> io::Result<Option<Bridged>> {
    let mut some: Vec<(Link, &CniResult)> = Vec::new();
    for result in pods.take(LOOKED_AT) {
        for interface in on_host(result) {
            let link = routes.link(&interface.name)?;
            if let Some(link) = link.filter(|link| link.kind == "veth" && link.master.is_none()) {
                some.push((link, result));
                break;
            }
        }
        if some.len() == 2 {
            break;
        }
    }
    let Some((first, _)) = some.first() else { return Ok(None) };
    let (own, pods) = (routes.addresses(first.index)?, some.iter().map(|(_, pod)| *pod).collect::<Vec<_>>());
    let networks = [false, true].into_iter().filter_map(|v6| network(&pods, &own, v6));
    let other = some.get(1).map_or(PAIRS[1], |(link, _)| &link.name);
    Ok(Some(Bridged {
        name: first.name.clone(),
        networks: networks.collect(),
        other: Some(other.to_owned()),
    }))
}

/// The first address of an IP version that is the pod's.
fn first(result: &CniResult, v6: bool) -> Option<&IpConfig> {
    result.ips.iter().find(|ip| ip.address.is_ipv6() == v6)
}

fn network(pods: &[&CniResult], own: &[(IpAddr, u8)], v6: bool) -> Option<PodNetwork> {
    let ip = first(pods.first()?, v6)?;
    let of_bridge = own.iter().map(|(own, _)| *own).find(|own| contains(ip.address, *own));
    let gateway = of_bridge.or(ip.gateway.filter(|gateway| own.iter().any(|(own, _)| own == gateway)));
    let pod = ip.address.address;
    let second = pods.get(1).and_then(|other| first(other, v6)).map(|ip| ip.address.address);
    Some(PodNetwork { pod, other: second.unwrap_or_else(|| beside(pod, ip.gateway)), gateway })
}

fn contains(network: Cidr, ip: IpAddr) -> bool {
    let width = if network.is_ipv6() { 128 } else { 32 };
    let free = u32::from(width - network.prefix);
    let of = |ip| bits(ip).checked_shr(free).unwrap_or(0);
    ip.is_ipv6() == network.is_ipv6() && of(ip) == of(network.address)
}

/// An address that another pod could have.
fn beside(pod: IpAddr, gateway: Option<IpAddr>) -> IpAddr {
    let at = |number: u128| address(pod.is_ipv6(), bits(pod).wrapping_add(number));
    if gateway == Some(at(1)) { at(2) } else { at(1) }
}

fn of_configuration(plugins: &[UsedPlugin]) -> Option<Bridged> {
    let silent = |plugin: &UsedPlugin| {
        plugin.in_process || plugin.conf.get("type").is_some_and(|kind| SILENT.iter().any(|one| kind == one))
    };
    if !plugins.iter().all(silent) {
        return None;
    }
    plugins.iter().find_map(|plugin| match Known::read(&plugin.conf)? {
        Known::Bridge(bridge) => Some(Bridged {
            name: bridge_name(&bridge).to_owned(),
            networks: given(bridge.ipam.as_ref()?, bridge.is_gateway || bridge.is_default_gateway)?,
            other: None,
        }),
        Known::Ptp(ptp) => Some(Bridged {
            name: PAIRS[0].to_owned(),
            networks: given(ptp.ipam.as_ref()?, true)?,
            other: Some(PAIRS[1].to_owned()),
        }),
        _ => None,
    })
}

/// What the first pods will have; `gateway`: the host has an address there.
fn given(ipam: &Ipam, gateway: bool) -> Option<Vec<PodNetwork>> {
    let Ipam::HostLocal(ipam) = ipam else { return None };
    let of = |v6: bool| {
        let (first, pod) = ipam.ranges.iter().find_map(|set| first_addresses(set, v6))?;
        let other = beside(pod, Some(first));
        Some(PodNetwork { pod, other, gateway: gateway.then_some(first) })
    };
    Some([false, true].into_iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use berth_cni::Version;
    use berth_netlink::{Change, Veth};
    use serde_json::json;

    use super::*;

    fn plugin(conf: serde_json::Value, in_process: bool) -> UsedPlugin {
        UsedPlugin { conf: conf.as_object().unwrap().clone(), in_process }
    }

    fn text(bridges: &[Bridged]) -> Vec<String> {
        let one = |network: &PodNetwork| {
            let gateway = network.gateway.map_or("-".to_owned(), |ip| ip.to_string());
            format!("{} {} {gateway}", network.pod, network.other)
        };
        bridges
            .iter()
            .map(|b| format!("{}: {}", b.name, b.networks.iter().map(one).collect::<Vec<_>>().join(", ")))
            .collect()
    }

    #[test]
    fn a_configuration_without_pods_says_enough_where_no_program_lets_them_pass() {
        let bridge = json!({ "type": "bridge", "isGateway": true, "ipam": { "type": "host-local",
            "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd77::/64", "gateway": "fd77::2" }]] } });
        let chain = |kind: &str, in_process| {
            vec![plugin(bridge.clone(), false), plugin(json!({ "type": kind }), in_process)]
        };
        let netns = berth_sys::netns::new_netns().unwrap();
        let found = |plugins: Vec<UsedPlugin>| {
            berth_sys::netns::run_in(netns.as_fd(), || Ok(text(&bridges(&[], &[plugins]).unwrap()))).unwrap()
        };
        let wanted = "cni0: 10.77.0.2 10.77.0.3 10.77.0.1, fd77::1 fd77::3 fd77::2";
        assert_eq!(found(chain("portmap", false)), [wanted]);
        assert_eq!(found(chain("firewall", true)), [wanted]);
        assert!(found(chain("firewall", false)).is_empty() && found(chain("cilium", false)).is_empty());
    }

    #[test]
    fn pods_that_are_connected_say_it_themselves() {
        let netns = berth_sys::netns::new_netns().unwrap();
        let result = |bridge: &str, veth: &str, ip: &str| {
            let value = json!({ "interfaces": [{ "name": bridge }, { "name": veth }, { "name": "eth0", "sandbox": "/x" }],
                "ips": [{ "address": ip, "interface": 2 }] });
            Arc::new(CniResult::read(value, Version::V1_0_0).unwrap())
        };
        let pods = [
            result("br1", "veth1", "10.1.0.5/24"),
            result("br1", "veth2", "10.1.0.9/24"),
            result("no", "veth3", "10.2.0.5/24"),
        ];
        let found = berth_sys::netns::run_in(netns.as_fd(), || {
            let routes = Routes::open()?;
            for name in ["br1", "no"] {
                routes.add_bridge(name, 1500, [2, 0, 0, 0, 0, 1])?;
            }
            routes.delete_link(routes.index("no")?.unwrap())?;
            let one = text(&bridges(&pods[..1], &[]).unwrap());
            routes.add_address(routes.index("br1")?.unwrap(), "10.1.0.1".parse().unwrap(), 24)?;
            Ok([one, text(&bridges(&pods, &[]).unwrap())])
        });
        assert_eq!(found.unwrap(), [["br1: 10.1.0.5 10.1.0.6 -"], ["br1: 10.1.0.5 10.1.0.9 10.1.0.1"]]);
    }

    #[test]
    fn pods_without_a_bridge_are_named_by_two_of_their_interfaces() {
        let netns = berth_sys::netns::new_netns().unwrap();
        let result = |veth: &str, ip: &str, gateway: &str| {
            let value = json!({ "interfaces": [{ "name": veth }, { "name": "eth0", "sandbox": "/x" }],
                "ips": [{ "address": ip, "gateway": gateway, "interface": 1 }] });
            Arc::new(CniResult::read(value, Version::V1_0_0).unwrap())
        };
        let pods = [
            result("veth2", "10.3.0.5/24", "10.3.0.1"),
            result("gone", "10.3.0.6/24", "10.3.0.1"),
            result("port", "10.3.0.7/24", "10.3.0.1"),
            result("veth3", "10.3.0.8/24", "10.3.0.1"),
        ];
        let ptp = plugin(
            json!({ "type": "ptp", "ipam": { "type": "host-local", "subnet": "10.3.0.0/24" } }),
            false,
        );
        let seen = |all: &[Bridged]| {
            let others = all.iter().map(|b| b.other.clone().unwrap_or_default());
            text(all).into_iter().zip(others).collect::<Vec<_>>()
        };
        let found = berth_sys::netns::run_in(netns.as_fd(), || {
            let (routes, inside) = (Routes::open()?, berth_sys::netns::new_netns()?);
            routes.add_bridge("br", 1500, [2, 0, 0, 0, 0, 1])?;
            let master = routes.index("br")?;
            for (name, master) in [("veth2", None), ("port", master), ("veth3", None)] {
                routes.apply([Change::veth(&Veth {
                    name,
                    up: true,
                    master,
                    mac: None,
                    peer: name,
                    peer_netns: inside.as_fd(),
                    peer_mac: None,
                    mtu: 0,
                })])?;
            }
            routes.add_address(routes.index("veth2")?.unwrap(), "10.3.0.1".parse().unwrap(), 32)?;
            let configured = [vec![ptp]];
            Ok([
                seen(&bridges(&pods, &configured).unwrap()),
                seen(&bridges(&pods[..1], &[]).unwrap()),
                seen(&bridges(&[], &configured).unwrap()),
            ])
        });
        let one = |text: &str, other: &str| vec![(text.to_owned(), other.to_owned())];
        assert_eq!(
            found.unwrap(),
            [
                one("veth2: 10.3.0.5 10.3.0.8 10.3.0.1", "veth3"),
                one("veth2: 10.3.0.5 10.3.0.6 10.3.0.1", "veth1"),
                one("veth0: 10.3.0.2 10.3.0.3 10.3.0.1", "veth1"),
            ]
        );
    }
}
