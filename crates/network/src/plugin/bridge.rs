//! `bridge`: a pod's interface is a port of a bridge of the host's.

use std::io;
use std::net::IpAddr;

use berth_cni::{Bridge, Call, Cidr, CniResult, Interface, IpConfig, PluginError};
use berth_netlink::{Link, PortSettings, Routes};
use nix::libc::{IFF_PROMISC, IFF_UP};

use super::ended::Ended;
use super::link::{self, Beyond, network};
use super::rules::Rules;
use super::{fail, ipam, refused, settle};
use crate::{names, port};

/// The program's own default.
const USUAL: &str = "cni0";

/// Networks by VLAN, filters of hardware addresses, a search for duplicate addresses and pods without an interface are left to
/// the program.
pub(super) fn does(conf: &Bridge) -> bool {
    conf.vlan == 0
        && !conf.mac_spoof_check
        && !conf.enable_dad
        && !conf.disable_container_interface
        && conf.preserve_default_vlan.is_none()
        && conf.bridge.len() <= 15
}

pub(crate) fn name(conf: &Bridge) -> &str {
    if conf.bridge.is_empty() { USUAL } else { &conf.bridge }
}

pub(super) fn status(conf: &Bridge, network: &str) -> Result<(), PluginError> {
    sensible(conf)?;
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    let found = routes.link(name(conf)).map_err(fail("look for the bridge"))?;
    if let Some(other) = found.filter(|link| link.kind != "bridge") {
        let why = format!("{} is there and is no bridge", other.name);
        return Err(PluginError::new(PluginError::NOT_AVAILABLE, why));
    }
    ipam::status(conf.ipam.as_ref(), network)
}

/// A port that gets back what it sent, and a bridge that hears everything: a pod would get each packet twice.
fn sensible(conf: &Bridge) -> Result<(), PluginError> {
    let both = || {
        let why = "hairpinMode and promiscMode exclude each other";
        PluginError::new(PluginError::INVALID_CONFIG, why)
    };
    if conf.hairpin_mode && conf.promisc_mode { Err(both()) } else { Ok(()) }
}

pub(super) fn add(
    conf: &Bridge,
    call: &Call<'_>,
    (rules, ended): (&Rules, &Ended),
) -> Result<CniResult, PluginError> {
    sensible(conf)?;
    let routes = rules.here.routes().map_err(fail("open a netlink socket"))?;
    let bridge = ensure(conf, &routes, rules)?;
    let leased = ipam::lease(conf.ipam.as_ref(), call)?;
    let made = ended
        .clear(&routes, call, &leased.ips)
        .and_then(|()| connect(conf, call, &routes, &bridge, rules, leased));
    let settled = settle(made, (&routes, rules), (conf.ipam.as_ref(), conf.ip_masq), call, |_| {});
    rules.here.give_back(routes);
    settled
}

fn ensure(conf: &Bridge, routes: &Routes, rules: &Rules) -> Result<Link, PluginError> {
    let name = name(conf);
    if let Some(known) = rules.known(name)
        && let Some(now) = routes.glance(name).map_err(fail("look for the bridge"))?
        && now.index == known.index
        && now.is(IFF_UP)
        && (now.is(IFF_PROMISC) || !conf.promisc_mode)
    {
        return Ok(Link { mac: now.mac.to_vec(), ..known });
    }
    let look = || routes.link(name).map_err(fail("look for the bridge"));
    let bridge = match look()? {
        Some(found) => found,
        None => {
            rules.make(name, || routes.add_bridge(name, conf.mtu, names::bridge_mac(name)))?;
            let gone = || refused(format!("bridge {name} was removed while it was being made"));
            look()?.ok_or_else(gone)?
        }
    };
    if bridge.kind != "bridge" {
        return Err(refused(format!("{name} is there and is no bridge")));
    }
    let preparing = || fail(format!("prepare bridge {name}"));
    if conf.promisc_mode && !bridge.promiscuous {
        routes.set_promiscuous(bridge.index, true).map_err(preparing())?;
    }
    if !rules.made(name) {
        // By itself it has the lowest of its ports' addresses, another one each time a pod comes or goes.
        let mac = <[u8; 6]>::try_from(bridge.mac.as_slice()).map_err(io::Error::other);
        mac.and_then(|mac| routes.set_mac(bridge.index, mac)).map_err(preparing())?;
    }
    // No pod tells the host its routes; a kernel without IPv6 has no such file.
    let _ = rules.settings.write("ipv6", name, "accept_ra", "0");
    if !bridge.is_up {
        let _ = rules.settings.write("ipv6", name, "accept_dad", "0");
        routes.set_up(bridge.index).map_err(preparing())?;
    }
    rules.link(name)?;
    rules.know(&bridge);
    Ok(bridge)
}

fn connect(
    conf: &Bridge,
    call: &Call<'_>,
    routes: &Routes,
    bridge: &Link,
    rules: &Rules,
    leased: CniResult,
) -> Result<CniResult, PluginError> {
    let settings = PortSettings {
        hairpin: conf.hairpin_mode.then_some(true),
        isolated: conf.port_isolation.then_some(true),
        ..PortSettings::default()
    };
    let ips: Vec<IpAddr> = leased.ips.iter().map(|ip| ip.address.address).collect();
    // A bridge that hands out no addresses leaves the hardware's to the kernel.
    let mac = (!ips.is_empty()).then(|| names::pod_mac(&ips));
    let host = link::pair(routes, call, (conf.mtu, mac), Some((bridge, &rules.settings)))?;
    let mut result = leased;
    gateways(conf, &mut result);
    if conf.is_gateway || conf.is_default_gateway {
        for ip in &result.ips {
            let gateway = ip.gateway.and_then(|gw| Cidr::new(gw, ip.address.prefix));
            if let Some(gateway) = gateway.filter(|gateway| !rules.has_gateway(bridge.index, *gateway)) {
                give(conf, routes, bridge, gateway)?;
                rules.found_gateway(bridge.index, gateway);
            }
        }
        rules.forward(&result.ips)?;
    }
    let (pod, inside) = link::configure(call, &result, Beyond::Network, rules)?;
    let up = || {
        port::raise(routes, &host.name, settings, [])?;
        port::carry(routes, &host.name, &inside)
    };
    up().map_err(fail(format!("set up interface {}", host.name)))?;
    if let Some(mac) = link::asked_mac(call)? {
        // Neighbours may know the pod's address by that of a pod before.
        inside.announce(mac).map_err(fail(format!("announce {} of the pod", call.interface)))?;
    }
    let bridge = Interface { name: bridge.name.clone(), mac: bridge.mac(), ..Default::default() };
    result.interfaces = vec![bridge, host, pod];
    for ip in &mut result.ips {
        ip.interface = Some(2);
    }
    link::name_servers(&mut result, conf.dns.as_ref());
    Ok(result)
}

/// The gateway of an address that has none is the first of its network, where the bridge is one.
fn gateways(conf: &Bridge, result: &mut CniResult) {
    if !conf.is_gateway && !conf.is_default_gateway {
        return;
    }
    for ip in &mut result.ips {
        ip.gateway = ip.gateway.or_else(|| first(ip));
    }
    if conf.is_default_gateway {
        for v6 in [false, true] {
            let gateway = result.ips.iter().find(|ip| ip.address.is_ipv6() == v6).and_then(|ip| ip.gateway);
            let there = result.routes.iter().any(|r| r.dst.prefix == 0 && r.dst.is_ipv6() == v6);
            let any = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
            if let (Some(gateway), Some(any), false) = (gateway, Cidr::new(any, 0), there) {
                result.routes.push(link::route_to(any, Some(gateway)));
            }
        }
    }
}

fn first(ip: &IpConfig) -> Option<IpAddr> {
    Some(match network(ip.address) {
        IpAddr::V4(address) => std::net::Ipv4Addr::from(u32::from(address).checked_add(1)?).into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from(u128::from(address).checked_add(1)?).into(),
    })
}

/// The gateway's address on the bridge. Another one of the same network is refused, or taken away with `forceAddress`.
fn give(conf: &Bridge, routes: &Routes, bridge: &Link, gateway: Cidr) -> Result<(), PluginError> {
    let reading = fail(format!("read the addresses of bridge {}", bridge.name));
    for (ip, prefix) in routes.addresses_like(bridge.index, gateway.address).map_err(reading)? {
        if (ip, prefix) == (gateway.address, gateway.prefix) {
            return Ok(());
        }
        // IPv6 may have several, of different networks.
        let wider = prefix.min(gateway.prefix);
        let of = |ip| Cidr::new(ip, wider).map(network);
        let in_the_way = match ip {
            IpAddr::V4(_) => !gateway.is_ipv6(),
            IpAddr::V6(_) => gateway.is_ipv6() && of(ip) == of(gateway.address),
        };
        if !in_the_way {
            continue;
        }
        if !conf.force_address {
            return Err(refused(format!(
                "bridge {} has {ip}/{prefix} already, not {gateway}; forceAddress would replace it",
                bridge.name
            )));
        }
        routes
            .remove_address(bridge.index, ip, prefix)
            .map_err(fail(format!("take {ip} from bridge {}", bridge.name)))?;
    }
    match routes.add_address(bridge.index, gateway.address, gateway.prefix) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done.map_err(fail(format!("give {gateway} to bridge {}", bridge.name))),
    }
}
