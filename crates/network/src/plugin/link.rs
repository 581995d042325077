//! A pod's pair of interfaces, and what is set inside the pod.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use berth_cni::{Call, Cidr, CniResult, Dns, Interface, IpConfig, PluginError, Route};
use berth_netlink::{Change, Link, NewRoute, Routes, Veth, mac_text};
use berth_sys::netns::run_in;

use super::rules::Rules;
use super::{FAILED, fail};
use crate::port::{self, Inside};
use crate::settings::Settings;
use crate::{LOOPBACK, NetworkError, names};

/// The namespace; all but DEL come with one.
pub(super) fn netns<'a>(call: &Call<'a>) -> Result<BorrowedFd<'a>, PluginError> {
    call.netns.ok_or_else(|| PluginError::new(PluginError::INVALID_CONFIG, "there is no network namespace"))
}

/// The pod's interface on the host. From its names, so that what a failed call left is found again.
pub(super) fn host_name(call: &Call<'_>) -> String {
    names::veth(call.container, call.interface)
}

/// A hardware address as people write it.
pub(super) fn parse_mac(text: &str) -> Result<[u8; 6], PluginError> {
    let wrong = || PluginError::new(PluginError::INVALID_CONFIG, format!("{text:?} is no hardware address"));
    let mut mac = [0; 6];
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() != mac.len() {
        return Err(wrong());
    }
    for (byte, part) in mac.iter_mut().zip(parts) {
        let digits = part.len() <= 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or_else(wrong)?;
    }
    Ok(mac)
}

/// The hardware address that the call asks for.
pub(super) fn asked_mac(call: &Call<'_>) -> Result<Option<[u8; 6]>, PluginError> {
    call.runtime.mac.as_deref().map(parse_mac).transpose()
}

/// Makes the pair; one of the same name, left by a call that was cut off, goes first. Gives the host's end as results name
/// it. `pod_mac`: the pod's end has it where the call asks for none. `of`: which bridge it is a port of.
pub(super) fn pair(
    routes: &Routes,
    call: &Call<'_>,
    (mtu, pod_mac): (u32, Option<[u8; 6]>),
    of: Option<(&Link, &Settings)>,
) -> Result<Interface, PluginError> {
    let name = host_name(call);
    let mac = names::veth_mac(call.container, call.interface);
    let master = of.map(|(bridge, ..)| bridge.index);
    let making = || format!("make interface {name}");
    let peer_mac = asked_mac(call)?.or(pod_mac);
    let (peer, peer_netns) = (call.interface, netns(call)?);
    let veth =
        Veth { name: &name, up: of.is_none(), master, mac: Some(mac), peer, peer_netns, peer_mac, mtu };
    let make = || match of {
        Some((_, settings)) => port::make(routes, &veth, settings),
        None => routes.apply([Change::veth(&veth)]),
    };
    let made = match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            delete(routes, &name).map_err(fail(format!("remove the interface {name} of before")))?;
            make()
        }
        done => done,
    };
    if let (Err(error), Some((bridge, ..))) = (&made, of)
        && port::is_full(error)
    {
        return Err(NetworkError::Full { bridge: bridge.name.clone(), pods: port::PORTS }.into());
    }
    made.map_err(fail(making()))?;
    Ok(Interface { name, mac: mac_text(&mac), ..Default::default() })
}

/// The configuration's own come before those of the IPAM.
pub(super) fn name_servers(result: &mut CniResult, own: Option<&Dns>) {
    if let Some(own) = own.filter(|own| **own != Dns::default()) {
        result.dns = own.clone();
    }
}

/// Removes an interface and its other end; one that is not there is fine.
pub(super) fn delete(routes: &Routes, name: &str) -> io::Result<()> {
    let Some(index) = routes.index(name)? else { return Ok(()) };
    match routes.delete_link(index) {
        // Its namespace took it along at this moment.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        done => done,
    }
}

/// Removes the host's end, and so both.
pub(super) fn remove(routes: &Routes, call: &Call<'_>) {
    let name = host_name(call);
    if let Err(error) = delete(routes, &name) {
        tracing::warn!(interface = name, %error, "a half-made interface stays until its pod is made again");
    }
}

/// Whom a pod's interface leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Everybody of the addresses' networks.
    Network,
    /// The gateways alone; the others of the networks are behind them.
    Gateways,
}

/// What the pod's end is given, inside the namespace, and lo set up; gives the interface as it was made, and the way to it.
pub(super) fn configure<'a>(
    call: &Call<'a>,
    result: &CniResult,
    beyond: Beyond,
    rules: &Rules,
) -> Result<(Interface, Inside<'a>), PluginError> {
    let (interface, ips, routes) = (call.interface, &result.ips, &result.routes);
    let visited = rules.here.visit(netns(call)?, || {
        let inside = Routes::open()?;
        let made = inside.glance(interface)?.ok_or(io::ErrorKind::NotFound)?;
        let index = made.index;
        let v6 = ips.iter().any(|ip| ip.address.is_ipv6());
        // Before it is up: no other pod tells this one its routes (CVE-2020-10749).
        for key in ["accept_ra", "accept_dad"] {
            match rules.settings.write("ipv6", interface, key, "0") {
                Err(error) if v6 => return Err(error),
                _ => {}
            }
        }
        // In this order, as with Berth's own network.
        // Told to tell where its neighbours know it by its address (`names::pod_mac`): for what comes later.
        let up = if beyond == Beyond::Network { Change::up_to_tell(index) } else { Change::up(index) };
        let mut changes = vec![Change::up(LOOPBACK), up];
        changes.extend(ips.iter().map(|ip| Change::address(index, ip.address.address, ip.address.prefix)));
        if beyond == Beyond::Gateways {
            changes.extend(ips.iter().flat_map(|ip| through_gateway(index, ip)));
        }
        for route in routes {
            let gateway = route.gw.or_else(|| gateway(ips, route.dst.is_ipv6()));
            changes.push(new_route(index, route, gateway));
        }
        inside.apply(changes)?;
        let pod = Interface {
            name: interface.to_owned(),
            mac: mac_text(&made.mac),
            sandbox: call.sandbox.to_owned(),
            ..Default::default()
        };
        Ok((pod, Inside { routes: inside, interface, index }))
    });
    visited.map_err(fail(format!("configure {interface} in the pod")))
}

/// Neighbours remember a pod's addresses by the hardware address that the next pod will have: one that had another, asked for
/// or of a program's, tells them before it goes. As far as its namespace is still there.
pub(super) fn hand_on(call: &Call<'_>, settings: &Settings) {
    let (Some(netns), Some(made)) = (call.netns, call.previous) else { return };
    let ips = made.addresses(call.interface);
    let mac = names::pod_mac(&ips);
    let is_that = |interface: &Interface| interface.mac.eq_ignore_ascii_case(&mac_text(&mac));
    let mut of_the_pod = made.interfaces.iter().filter(|found| !found.sandbox.is_empty());
    if ips.is_empty() || of_the_pod.any(|found| found.name == call.interface && is_that(found)) {
        return;
    }
    let told = run_in(netns, || {
        let inside = Routes::open()?;
        let index = inside.index(call.interface)?.ok_or(io::ErrorKind::NotFound)?;
        settings.write("ipv4", call.interface, "arp_notify", "1")?;
        inside.set_mac(index, mac)
    });
    if let Err(error) = told {
        tracing::debug!(pod = call.container, %error, "neighbours were not told whose its addresses are");
    }
}

/// Instead of the route to an address's network: one to the gateway, and the network behind it.
fn through_gateway(index: u32, ip: &IpConfig) -> Vec<Change> {
    let (address, prefix, own) = (ip.address.address, ip.address.prefix, network(ip.address));
    let to = |destination, prefix, gateway| {
        let whole = NewRoute { source: Some(address), ..NewRoute::to(index, destination, prefix) };
        Change::route(&NewRoute { gateway, ..whole }).or_there()
    };
    let mut changes = vec![Change::no_network(index, own, prefix)];
    changes.extend(ip.gateway.map(|gateway| to(gateway, full(gateway), None)));
    // An address alone is of no network.
    changes.extend(ip.gateway.filter(|_| prefix < full(own)).map(|_| to(own, prefix, ip.gateway)));
    changes
}

/// The prefix of one address.
pub(super) fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn gateway(ips: &[IpConfig], v6: bool) -> Option<IpAddr> {
    ips.iter().find(|ip| ip.address.is_ipv6() == v6).and_then(|ip| ip.gateway)
}

fn new_route(interface: u32, route: &Route, gateway: Option<IpAddr>) -> Change {
    let route = NewRoute {
        gateway,
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope: route.scope,
        ..NewRoute::to(interface, network(route.dst), route.dst.prefix)
    };
    // Two addresses of one network, or the same default route said twice.
    Change::route(&route).or_there()
}

/// A route without anything special.
pub(super) fn route_to(dst: Cidr, gw: Option<IpAddr>) -> Route {
    Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
}

/// The address without the bits below the prefix.
pub(super) fn network(cidr: Cidr) -> IpAddr {
    let bits = crate::subnet::bits(cidr.address);
    match cidr.address {
        IpAddr::V4(_) => {
            let free = 32 - u32::from(cidr.prefix);
            let bits = if free >= 32 { 0 } else { (bits as u32) >> free << free };
            std::net::Ipv4Addr::from(bits).into()
        }
        IpAddr::V6(_) => {
            let free = 128 - u32::from(cidr.prefix);
            let bits = if free >= 128 { 0 } else { bits >> free << free };
            std::net::Ipv6Addr::from(bits).into()
        }
    }
}

/// The pod's interface has the addresses that ADD gave it.
pub(super) fn check(call: &Call<'_>) -> Result<(), PluginError> {
    let wanted = call.previous.map(|result| result.addresses(call.interface)).unwrap_or_default();
    let name = call.interface;
    let found = run_in(netns(call)?, || {
        let inside = Routes::open()?;
        let Some(index) = inside.index(name)? else { return Ok(None) };
        Ok(Some(inside.addresses(index)?))
    })
    .map_err(fail(format!("look at {name} in the pod")))?;
    let Some(found) = found else {
        return Err(PluginError::new(FAILED, format!("the pod has no interface {name}")));
    };
    match wanted.iter().find(|ip| !found.iter().any(|(has, _)| has == *ip)) {
        Some(ip) => Err(PluginError::new(FAILED, format!("{name} in the pod has lost {ip}"))),
        None => Ok(()),
    }
}
