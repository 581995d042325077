//! The standard plugins of the Container Network Interface without a program: one module each, over netlink.
//!
//! What a pod has in the nf_tables table is kept in a file of its own ([`rules::Rules`]), so that a restart knows which
//! ports are held and a pod goes although its configuration is gone.

mod bandwidth;
mod bridge;
mod ended;
mod files;
mod firewall;
mod ipam;
mod link;
mod loopback;
mod portmap;
mod ptp;
mod rules;
#[cfg(test)]
mod tests;
mod tuning;

use std::os::fd::BorrowedFd;
use std::path::Path;

use berth_cni::{Call, CniResult, Does, InProcess, InUse, Ipam, Known, PluginError, RuntimeConfig};
use berth_ids::Classify as _;

pub(crate) use self::bridge::name as bridge_name;
pub(crate) use self::ipam::first_addresses;
pub(crate) use self::portmap::host_ports;
use self::rules::Rules;
use berth_netlink::Routes;

use crate::NetworkError;

/// Every plugin that needs no program.
#[derive(Debug)]
pub struct Plugins {
    rules: Rules,
    ended: ended::Ended,
    forbids: firewall::Forbids,
}

/// A plugin's own failures (CNI 1.1, section 5: 100 and more).
const FAILED: u32 = 100;

fn fail(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> PluginError {
    let doing = doing.into();
    move |error| PluginError { details: error.to_string(), ..refused(doing) }
}

fn refused(why: impl Into<String>) -> PluginError {
    PluginError::new(FAILED, why)
}

impl From<NetworkError> for PluginError {
    fn from(error: NetworkError) -> Self {
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let details = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        PluginError { details, class: Some(error.class()), ..refused(error.to_string()) }
    }
}

/// Of the plugin before; those that only add to what is there have nothing to do without it.
fn previous<'a>(call: &Call<'a>) -> Result<&'a CniResult, PluginError> {
    let missing = || {
        PluginError::new(PluginError::INVALID_CONFIG, "it must come after a plugin that makes an interface")
    };
    call.previous.ok_or_else(missing)
}

/// The end of an ADD that makes an interface: what the pod got is recorded, with what else `also` says of it; what is half
/// made is given back, its addresses included, which were never used.
fn settle(
    made: Result<CniResult, PluginError>,
    (routes, rules): (&Routes, &Rules),
    (ipam, masquerade): (Option<&Ipam>, bool),
    call: &Call<'_>,
    also: impl FnOnce(&mut rules::PodRules),
) -> Result<CniResult, PluginError> {
    let settled = made.and_then(|result| {
        let addresses = result.ips.iter().map(|ip| ip.address.address).collect();
        rules.change(call.container, |pod| {
            (pod.network, pod.pod) = (call.network.to_owned(), call.pod());
            (pod.addresses, pod.masquerade) = (addresses, masquerade);
            also(pod);
        })?;
        Ok(result)
    });
    if settled.is_err() {
        link::remove(routes, call);
        if let Some(Err(error)) = ipam.map(|ipam| ipam::release(ipam, call)) {
            tracing::warn!(%error, container = call.container, "an address stays taken until it is collected");
        }
    }
    settled
}

impl Plugins {
    /// Takes up what an earlier daemon left in the table, on the host that the calling thread is on. Touches nothing of the
    /// kernel's yet.
    pub fn open(instance: &str, state: &Path) -> Result<Self, NetworkError> {
        let rules = Rules::open(instance, state)?;
        Ok(Self { rules, ended: Default::default(), forbids: Default::default() })
    }

    /// Removes the table, the bridges that were made here, and what was remembered.
    pub fn reset(&self) -> Result<(), NetworkError> {
        self.rules.reset()
    }

    /// Makes the table anew with what pods have: at start, and when somebody flushed it.
    pub fn restore(&self) -> Result<(), NetworkError> {
        self.rules.restore()
    }

    /// Who holds which port, of the pods whose ports are elements of our table.
    pub fn port_holders(&self) -> Vec<crate::inspect::PortHolder> {
        self.rules.port_holders()
    }

    pub(crate) fn rules_of(&self, container: &str) -> crate::inspect::Rules {
        self.rules.recorded(container)
    }

    fn give_back(&self, ipam: Option<&Ipam>, call: &Call<'_>) -> Result<(), PluginError> {
        self.rules.forget(call.container)?;
        self.ended.note(call);
        ipam.map_or(Ok(()), |ipam| ipam::release(ipam, call))
    }
}

impl InProcess for Plugins {
    fn does(&self, plugin: &Known) -> Does {
        let whole = match plugin {
            Known::Bridge(bridge) => bridge::does(bridge),
            Known::Portmap(portmap) => portmap::does(portmap),
            Known::Tuning(tuning) => tuning::does(tuning),
            Known::Ptp(ptp) => ptp.ipam.is_some(),
            Known::Loopback | Known::Bandwidth(_) => true,
            Known::Firewall(firewall) => return firewall::does(firewall, &self.forbids),
        };
        if whole { Does::Everything } else { Does::Nothing }
    }

    fn foresee(&self, kind: &str, runtime: &RuntimeConfig) -> Result<(), PluginError> {
        match kind {
            "portmap" => portmap::foresee(runtime),
            _ => Ok(()),
        }
    }

    fn come(&self, first: Option<&Known>, netns: BorrowedFd<'_>) -> Result<(), PluginError> {
        match first {
            // With what else they set inside.
            Some(Known::Bridge(_) | Known::Ptp(_)) => Ok(()),
            _ => loopback::set_up(netns),
        }
    }

    fn add(&self, plugin: &Known, call: &Call<'_>) -> Result<CniResult, PluginError> {
        match plugin {
            Known::Bridge(bridge) => bridge::add(bridge, call, (&self.rules, &self.ended)),
            Known::Ptp(ptp) => ptp::add(ptp, call, (&self.rules, &self.ended)),
            Known::Loopback => loopback::add(call),
            Known::Portmap(_) => portmap::add(call, &self.rules),
            Known::Bandwidth(conf) => bandwidth::add(conf, call),
            Known::Tuning(tuning) => tuning::add(tuning, call),
            Known::Firewall(firewall) => firewall::add(firewall, call, &self.rules),
        }
    }

    fn del(&self, plugin: &Known, call: &Call<'_>) -> Result<(), PluginError> {
        match plugin {
            Known::Bridge(bridge) => {
                link::hand_on(call, &self.rules.settings);
                self.give_back(bridge.ipam.as_ref(), call)
            }
            Known::Ptp(ptp) => self.give_back(ptp.ipam.as_ref(), call),
            // The interface's plugin, whose turn comes after, may be a program: nobody else would take the rest away.
            Known::Portmap(_) => Ok(self.rules.forget(call.container)?),
            Known::Bandwidth(_) => bandwidth::del(call),
            Known::Tuning(tuning) => tuning::del(tuning, call),
            // The namespace takes lo along; a bridge stays closed.
            Known::Loopback | Known::Firewall(_) => Ok(()),
        }
    }

    fn check(&self, plugin: &Known, call: &Call<'_>) -> Result<(), PluginError> {
        match plugin {
            Known::Bridge(bridge) => {
                link::check(call)?;
                ipam::check(bridge.ipam.as_ref(), call)
            }
            Known::Ptp(ptp) => {
                link::check(call)?;
                ipam::check(ptp.ipam.as_ref(), call)
            }
            Known::Loopback => loopback::check(call),
            Known::Portmap(_) => portmap::check(call, &self.rules),
            Known::Bandwidth(conf) => bandwidth::check(conf, call),
            Known::Tuning(tuning) => tuning::check(tuning, call),
            Known::Firewall(firewall) => firewall::check(firewall, call, &self.rules),
        }
    }

    fn gc(&self, plugin: &Known, network: &str, in_use: &[InUse]) -> Result<(), PluginError> {
        match plugin {
            Known::Bridge(berth_cni::Bridge { ipam, .. }) | Known::Ptp(berth_cni::Ptp { ipam, .. }) => {
                self.rules.keep(network, in_use)?;
                ipam.as_ref().map_or(Ok(()), |ipam| ipam::gc(ipam, network, in_use))
            }
            Known::Portmap(_) => Ok(self.rules.keep(network, in_use)?),
            _ => Ok(()),
        }
    }

    fn status(&self, plugin: &Known, network: &str) -> Result<(), PluginError> {
        match plugin {
            Known::Bridge(bridge) => {
                self.rules.mend()?;
                bridge::status(bridge, network)
            }
            Known::Ptp(ptp) => {
                self.rules.mend()?;
                ipam::status(ptp.ipam.as_ref(), network)
            }
            _ => Ok(()),
        }
    }
}
