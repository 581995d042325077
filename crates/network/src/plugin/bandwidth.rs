//! `bandwidth`: rates of a pod, with the program's names, so that each removes what the other made.

use berth_cni::{Bandwidth, BandwidthPlugin, Call, CniResult, Interface, PluginError};
use berth_netlink::{Link, Routes};
use berth_sys::netns::run_in;

use super::link::netns;
use super::{fail, previous, refused};
use crate::shaping::{self, Limits};

/// A pod's own limits come before those of the configuration.
fn wanted(conf: &BandwidthPlugin, call: &Call<'_>) -> Result<Option<Limits>, PluginError> {
    let from_conf = Bandwidth {
        ingress_rate: conf.ingress_rate,
        ingress_burst: conf.ingress_burst,
        egress_rate: conf.egress_rate,
        egress_burst: conf.egress_burst,
    };
    Limits::new(&call.runtime.bandwidth.unwrap_or(from_conf)).map_err(refused)
}

fn ifb(call: &Call<'_>) -> String {
    shaping::ifb_name(&format!("{}{}", call.network, call.container))
}

/// The host's end of the pod's interface: the peer of the one inside.
fn host_end(routes: &Routes, call: &Call<'_>, result: &CniResult) -> Result<Link, PluginError> {
    let inside = run_in(netns(call)?, || Routes::open()?.link(call.interface));
    let inside = inside.map_err(fail(format!("look at {} in the pod", call.interface)))?;
    let peer = inside.and_then(|link| link.peer);
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let link = routes.link(&interface.name).map_err(fail(format!("look at {}", interface.name)))?;
        if let Some(link) = link.filter(|link| Some(link.index) == peer && link.kind == "veth") {
            return Ok(link);
        }
    }
    Err(refused(format!("none of the host's interfaces is the other end of {}", call.interface)))
}

pub(super) fn add(conf: &BandwidthPlugin, call: &Call<'_>) -> Result<CniResult, PluginError> {
    let mut result = previous(call)?.clone();
    let Some(limits) = wanted(conf, call)? else { return Ok(result) };
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    let host = host_end(&routes, call, &result)?;
    let name = ifb(call);
    let made = shaping::apply(&routes, &host, &limits, &name);
    let made = made.inspect_err(|_| shaping::remove(&routes, &name));
    if let Some(ifb) = made.map_err(fail(format!("limit what {} sends and receives", host.name)))? {
        result.interfaces.push(Interface { name: ifb.name.clone(), mac: ifb.mac(), ..Default::default() });
    }
    Ok(result)
}

pub(super) fn del(call: &Call<'_>) -> Result<(), PluginError> {
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    shaping::remove(&routes, &ifb(call));
    Ok(())
}

pub(super) fn check(conf: &BandwidthPlugin, call: &Call<'_>) -> Result<(), PluginError> {
    let Some(limits) = wanted(conf, call)? else { return Ok(()) };
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    let host = host_end(&routes, call, previous(call)?)?;
    let kinds = routes.disciplines(host.index).map_err(fail(format!("look at {}", host.name)))?;
    if limits.receives().is_some() && !kinds.iter().any(|kind| kind == "tbf") {
        return Err(refused(format!("{} sends to the pod without a limit", host.name)));
    }
    let ifb = routes.index(&ifb(call)).map_err(fail("look for the pod's ifb"))?;
    if limits.sends().is_some() && (ifb.is_none() || !kinds.iter().any(|kind| kind == "ingress")) {
        return Err(refused(format!("{} receives from the pod without a limit", host.name)));
    }
    Ok(())
}
