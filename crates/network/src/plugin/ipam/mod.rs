//! Where a pod's addresses come from.

mod host_local;
mod ranges;
mod store;

use berth_cni::{Call, CniResult, InUse, IpConfig, Ipam, PluginError, Static};

pub(crate) use self::ranges::first_addresses;
use super::refused;

/// Addresses, routes and DNS without interfaces; without IPAM none.
pub(super) fn lease(ipam: Option<&Ipam>, call: &Call<'_>) -> Result<CniResult, PluginError> {
    match ipam {
        Some(Ipam::HostLocal(conf)) => host_local::lease(conf, call),
        Some(Ipam::Static(conf)) => fixed(conf, call),
        None => Ok(CniResult::default()),
    }
}

pub(super) fn release(ipam: &Ipam, call: &Call<'_>) -> Result<(), PluginError> {
    match ipam {
        Ipam::HostLocal(conf) => host_local::release(conf, call),
        Ipam::Static(_) => Ok(()),
    }
}

pub(super) fn check(ipam: Option<&Ipam>, call: &Call<'_>) -> Result<(), PluginError> {
    match ipam {
        Some(Ipam::HostLocal(conf)) => host_local::check(conf, call),
        _ => Ok(()),
    }
}

pub(super) fn gc(ipam: &Ipam, network: &str, in_use: &[InUse]) -> Result<(), PluginError> {
    match ipam {
        Ipam::HostLocal(conf) => host_local::gc(conf, network, in_use),
        Ipam::Static(_) => Ok(()),
    }
}

pub(super) fn status(ipam: Option<&Ipam>, network: &str) -> Result<(), PluginError> {
    match ipam {
        Some(Ipam::HostLocal(conf)) => host_local::status(conf, network),
        _ => Ok(()),
    }
}

/// `static`: the addresses of the configuration, or those that the pod came with.
fn fixed(conf: &Static, call: &Call<'_>) -> Result<CniResult, PluginError> {
    let own = conf.addresses.iter().map(|one| (one.address, one.gateway));
    let mut addresses: Vec<_> = own.collect();
    if let Some(ips) = call.runtime.ips.as_ref().filter(|ips| !ips.is_empty()) {
        let parsed = ips.iter().map(|text| text.parse().map(|address| (address, None)));
        addresses =
            parsed.collect::<Result<_, berth_cni::NoCidr>>().map_err(|error| refused(error.to_string()))?;
    }
    let ips = addresses.into_iter().map(|(address, gateway)| IpConfig { interface: None, address, gateway });
    let dns = conf.dns.clone().unwrap_or_default();
    Ok(CniResult { ips: ips.collect(), routes: conf.routes.clone(), dns, ..Default::default() })
}
