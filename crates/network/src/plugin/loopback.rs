//! `loopback`: lo up.

use std::os::fd::BorrowedFd;

use berth_cni::{Call, Cidr, CniResult, Interface, IpConfig, PluginError};
use berth_netlink::Routes;
use berth_sys::netns::run_in;

use super::link::netns;
use super::{fail, refused};
use crate::LOOPBACK;

pub(super) fn set_up(netns: BorrowedFd<'_>) -> Result<(), PluginError> {
    run_in(netns, || Routes::open()?.set_up(LOOPBACK)).map_err(fail("set lo up in the pod"))
}

/// It is up already, as of every pod; one that comes after others adds nothing to what they say.
pub(super) fn add(call: &Call<'_>) -> Result<CniResult, PluginError> {
    if let Some(result) = call.previous {
        return Ok(result.clone());
    }
    let has = run_in(netns(call)?, || Routes::open()?.addresses(LOOPBACK));
    let has = has.map_err(fail("look at lo in the pod"))?;
    let interface = Interface {
        name: "lo".into(),
        mac: "00:00:00:00:00:00".into(),
        sandbox: call.sandbox.to_owned(),
        ..Default::default()
    };
    let ips = has.into_iter().filter_map(|(ip, prefix)| Cidr::new(ip, prefix));
    let ips = ips.map(|address| IpConfig { interface: Some(0), address, gateway: None });
    Ok(CniResult { interfaces: vec![interface], ips: ips.collect(), ..Default::default() })
}

pub(super) fn check(call: &Call<'_>) -> Result<(), PluginError> {
    let up = run_in(netns(call)?, || Ok(Routes::open()?.link("lo")?.is_some_and(|lo| lo.is_up)));
    match up.map_err(fail("look at lo in the pod"))? {
        true => Ok(()),
        false => Err(refused("lo in the pod is down")),
    }
}
