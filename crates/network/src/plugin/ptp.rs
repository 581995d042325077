//! `ptp`: a pair of interfaces, routed on the host; a pod's neighbour is the host alone.

use berth_cni::{Call, CniResult, PluginError, Ptp};
use berth_netlink::{Change, NewRoute, Routes};

use super::ended::Ended;
use super::link::{self, Beyond};
use super::rules::Rules;
use super::{fail, ipam, refused, settle};
use crate::port;

pub(super) fn add(
    conf: &Ptp,
    call: &Call<'_>,
    (rules, ended): (&Rules, &Ended),
) -> Result<CniResult, PluginError> {
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    let leased = ipam::lease(conf.ipam.as_ref(), call)?;
    let made =
        ended.clear(&routes, call, &leased.ips).and_then(|()| connect(conf, call, &routes, rules, leased));
    settle(made, (&routes, rules), (conf.ipam.as_ref(), conf.ip_masq), call, |pod| {
        pod.own_link = Some(link::host_name(call))
    })
}

fn connect(
    conf: &Ptp,
    call: &Call<'_>,
    routes: &Routes,
    rules: &Rules,
    mut result: CniResult,
) -> Result<CniResult, PluginError> {
    if let Some(ip) = result.ips.iter().find(|ip| ip.gateway.is_none()) {
        return Err(refused(format!("ptp needs a gateway for {}", ip.address)));
    }
    let host = link::pair(routes, call, (conf.mtu, None), None)?;
    rules.forward(&result.ips)?;
    let name = &host.name;
    let index = routes.index(name).map_err(fail(format!("look for {name}")))?;
    let gone = || refused(format!("interface {name} was removed while it was being made"));
    let index = index.ok_or_else(gone)?;
    let _ = rules.settings.write("ipv6", name, "accept_ra", "0");
    let _ = rules.settings.write("ipv6", name, "accept_dad", "0");
    let mut changes = Vec::new();
    for ip in &result.ips {
        let full = link::full(ip.address.address);
        changes.extend(ip.gateway.map(|gateway| Change::address(index, gateway, full)));
        let to = NewRoute::to(index, ip.address.address, full);
        changes.push(Change::route(&NewRoute { scope: Some(nix::libc::RT_SCOPE_HOST), ..to }));
    }
    routes.apply(changes).map_err(fail(format!("lead the pod's addresses to {name}")))?;
    // Inside, the host is the only neighbour: everything of the pod's own network goes through it.
    let (pod, inside) = link::configure(call, &result, Beyond::Gateways, rules)?;
    port::carry(routes, name, &inside).map_err(fail(format!("set up interface {name}")))?;
    result.interfaces = vec![host, pod];
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    link::name_servers(&mut result, conf.dns.as_ref());
    Ok(result)
}
