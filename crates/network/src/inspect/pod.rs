//! One pod.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use berth_netlink::nft::{HeldState, Reader};
use berth_netlink::{Link, Path, Routes};
use berth_sys::netns::run_in;

use super::view::{Counters, End, PodView, RouteView, RuleView, rate};
use super::{Recorded, Rules};
use crate::{NetworkError, step};

/// What is seen from inside a pod's namespace.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) link: Option<Link>,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// Of both IP versions.
    pub(crate) paths: Vec<Path>,
}

impl Inside {
    pub(crate) fn look(netns: BorrowedFd<'_>, interface: &str) -> io::Result<Self> {
        run_in(netns, || {
            let routes = Routes::open()?;
            let link = routes.link(interface)?;
            let index = link.as_ref().map(|link| link.index);
            let addresses = index.map_or_else(|| Ok(Vec::new()), |index| routes.addresses(index))?;
            let paths = [routes.paths(false)?, routes.paths(true)?].concat();
            Ok(Self { link, addresses, paths })
        })
    }

    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(has, _)| *has == ip)
    }

    /// Where the default route of an IP version leads.
    pub(crate) fn default_path(&self, v6: bool) -> Option<&Path> {
        self.paths.iter().find(|path| path.prefix == 0 && path.destination.is_ipv6() == v6)
    }
}

/// The host's end of the pod's interface: by the kernel, else by name.
pub(crate) fn host_end(
    routes: &Routes,
    inside: Option<&Link>,
    recorded: &Recorded,
) -> io::Result<Option<Link>> {
    if let Some(name) = &recorded.host_interface
        && let Some(link) = routes.link(name)?
    {
        return Ok(Some(link));
    }
    let Some(peer) = inside.and_then(|link| link.peer) else { return Ok(None) };
    let pair = |link: &Link| link.kind == "veth" && link.peer == inside.map(|inside| inside.index);
    Ok(routes.link_at(peer)?.filter(pair))
}

pub(crate) fn end(link: &Link, addresses: &[(IpAddr, u8)], master: Option<String>) -> End {
    let of_link = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let counters = |of: berth_netlink::Counters| Counters {
        bytes: of.bytes,
        packets: of.packets,
        errors: of.errors,
        dropped: of.dropped,
    };
    End {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac(),
        mtu: link.mtu,
        up: link.is_up,
        carrier: link.has_carrier,
        addresses: addresses
            .iter()
            .filter(|(ip, _)| !of_link(ip))
            .map(|(ip, prefix)| format!("{ip}/{prefix}"))
            .collect(),
        master,
        received: counters(link.received),
        sent: counters(link.sent),
    }
}

/// Looks at a pod's connection. Blocking.
pub fn pod(recorded: &Recorded, netns: BorrowedFd<'_>) -> Result<PodView, NetworkError> {
    let reading = || step("look at the pod's network");
    let inside = Inside::look(netns, &recorded.interface).map_err(reading())?;
    let routes = Routes::open().map_err(reading())?;
    let host = host_end(&routes, inside.link.as_ref(), recorded).map_err(reading())?;
    let mut view = PodView {
        pod_end: inside.link.as_ref().map(|link| end(link, &inside.addresses, None)),
        host_ports: recorded.host_ports.iter().map(|p| format!("{p} to {}", p.container_port)).collect(),
        ..PodView::default()
    };
    differ_inside(&mut view.differences, &inside, recorded);
    for path in
        inside.paths.iter().filter(|path| Some(path.interface) == inside.link.as_ref().map(|l| l.index))
    {
        let of_link = matches!(path.destination, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !of_link {
            let destination = match path.prefix {
                0 => "default".to_owned(),
                prefix => format!("{}/{prefix}", path.destination),
            };
            view.routes.push(RouteView { destination, gateway: path.gateway });
        }
    }
    let master = host.as_ref().and_then(|host| host.master);
    let bridge = master.map_or(Ok(None), |index| routes.link_at(index)).map_err(reading())?;
    match (&host, &recorded.host_interface) {
        (None, Some(name)) => view.differences.push(format!("the host's end {name} is not there")),
        (None, None) => {}
        (Some(host), _) => {
            let on_bridge = bridge.as_ref().map(|bridge| bridge.name.clone());
            if recorded.bridge.is_some() && on_bridge != recorded.bridge {
                let found = on_bridge.clone().unwrap_or_else(|| "none".into());
                let wanted = recorded.bridge.clone().unwrap_or_default();
                view.differences.push(format!("{} is a port of {found}, not of {wanted}", host.name));
            }
            if !host.is_up {
                view.differences.push(format!("{} is down", host.name));
            }
            let addresses = routes.addresses(host.index).map_err(reading())?;
            view.host_end = Some(end(host, &addresses, on_bridge));
            view.shaping.to_pod = routes.limited(host.index).map_err(reading())?.map(rate);
        }
    }
    if let Some(bridge) = &bridge {
        let addresses = routes.addresses(bridge.index).map_err(reading())?;
        view.bridge = Some(end(bridge, &addresses, None));
    }
    if let Some(name) = &recorded.ifb {
        match routes.link(name).map_err(reading())? {
            Some(ifb) => view.shaping.from_pod = routes.limited(ifb.index).map_err(reading())?.map(rate),
            None => view.differences.push(format!("{name}, where what the pod sends waits, is not there")),
        }
    }
    if let Some(rules) = &recorded.rules {
        differ_in_table(&mut view, rules).map_err(reading())?;
    }
    Ok(view)
}

fn differ_inside(differences: &mut Vec<String>, inside: &Inside, recorded: &Recorded) {
    let name = &recorded.interface;
    let Some(link) = &inside.link else {
        differences.push(format!("the pod has no interface {name}"));
        return;
    };
    if !link.is_up {
        differences.push(format!("{name} in the pod is down"));
    }
    for ip in recorded.addresses.iter().filter(|ip| !inside.has(**ip)) {
        differences.push(format!("{name} in the pod has lost {ip}"));
    }
    for gateway in &recorded.gateways {
        let found = inside.default_path(gateway.is_ipv6()).map(|path| path.gateway);
        match found {
            Some(by) if by == Some(*gateway) => {}
            Some(Some(other)) => {
                differences.push(format!("the pod's default route is by {other}, not by {gateway}"));
            }
            _ => differences.push(format!("the pod has no default route by {gateway}")),
        }
    }
}

fn differ_in_table(view: &mut PodView, rules: &Rules) -> io::Result<()> {
    let held = Reader::open()?.held(&rules.table, &rules.pod, rules.link.as_deref())?;
    for one in held {
        let there = one.state == HeldState::There;
        match one.state {
            HeldState::There => {}
            HeldState::Missing => view
                .differences
                .push(format!("{} is not in set {} of table {}", one.text, one.set, rules.table)),
            HeldState::Other(place) => view
                .differences
                .push(format!("{} leads to {place} in map {} of table {}", one.text, one.set, rules.table)),
        }
        view.rules.push(RuleView { set: one.set.to_owned(), element: one.text, there });
    }
    view.table = Some(rules.table.clone());
    Ok(())
}
