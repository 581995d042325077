//! `firewall`: pods' packets are passed on, and those of one bridge do not reach another's.
//!
//! The program accepts packets in a chain of iptables, or of firewalld, against a policy there that would drop them. A table
//! of our own can forbid and cannot allow (nft(8), verdicts), so that part is nothing to do where nobody forbids; where
//! somebody does, it is the program's. What a pod may not reach (`ingressPolicy`) is a rule of our own in either case.

use std::io;

use berth_cni::{Call, CniResult, Does, Firewall, PluginError};
use berth_netlink::Routes;
use berth_netlink::nft::{Base, Expression, Reader, Verdict};
use parking_lot::Mutex;

use super::rules::Rules;
use super::{fail, previous, refused};
use crate::names;
use crate::neighbours::legacy;

/// NF_INET_FORWARD of linux/netfilter.h.
const FORWARD: u32 = 2;

fn isolates(conf: &Firewall) -> bool {
    conf.ingress_policy == "same-bridge"
}

/// An administrator's chain and a zone have a meaning for the program alone.
pub(super) fn does(conf: &Firewall, known: &Forbids) -> Does {
    let plain = conf.iptables_admin_chain_name.is_empty() && conf.firewalld_zone.is_empty();
    let usual = ["", "iptables"].contains(&conf.backend.as_str())
        && ["", "open", "same-bridge"].contains(&conf.ingress_policy.as_str());
    match plain && usual {
        false => Does::Nothing,
        true => match known.ask() {
            Ok(false) => Does::Everything,
            Ok(true) => Does::Part,
            Err(error) => {
                tracing::debug!(%error, "whose rules stop what is passed on is not known");
                Does::Part
            }
        },
    }
}

/// Whether somebody else forbids, of one state of the tables: it is asked every few seconds, and tables may be long.
#[derive(Debug, Default)]
pub(super) struct Forbids(Mutex<Option<(u32, bool)>>);

impl Forbids {
    fn ask(&self) -> io::Result<bool> {
        if legacy::in_use() {
            return Ok(true);
        }
        let reader = Reader::open()?;
        let generation = reader.generation()?;
        if let Some((_, known)) = self.0.lock().filter(|(of, _)| *of == generation) {
            return Ok(known);
        }
        let forbids = somebody_forbids(&reader)?;
        *self.0.lock() = Some((generation, forbids));
        Ok(forbids)
    }
}

/// Whether a rule of somebody else's could stop a packet that the host passes on.
fn somebody_forbids(reader: &Reader) -> io::Result<bool> {
    let (bases, names) = reader.chains()?;
    let foreign = |base: &&Base| base.hook == FORWARD && !names::is_table(&base.name.table);
    for base in bases.iter().filter(foreign) {
        if base.drops {
            return Ok(true);
        }
        // Whatever its first chain leads to is of the same table.
        let same = |of: &&berth_netlink::nft::ChainName| {
            (of.family, &of.table) == (base.name.family, &base.name.table)
        };
        for chain in names.iter().filter(same) {
            if reader.rules(chain)?.iter().flat_map(|rule| &rule.steps).any(may_stop) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn may_stop(step: &Expression) -> bool {
    match step {
        Expression::Reject | Expression::Verdict(Verdict::Drop | Verdict::Queue) => true,
        // A map of verdicts may have any.
        Expression::Lookup { to, .. } => *to == Some(0),
        Expression::Target { name, .. } => {
            !["MASQUERADE", "DNAT", "SNAT", "MARK", "LOG"].contains(&name.as_str())
        }
        _ => false,
    }
}

/// The bridge that the pod's interface is a port of.
fn bridge(result: &CniResult) -> Result<String, PluginError> {
    let routes = Routes::open().map_err(fail("open a netlink socket"))?;
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let link =
            routes.link(&interface.name).map_err(fail(format!("look for interface {}", interface.name)))?;
        if let Some(link) = link.filter(|link| link.kind == "bridge") {
            return Ok(link.name);
        }
    }
    Err(refused("ingressPolicy same-bridge is for pods of a bridge"))
}

pub(super) fn add(conf: &Firewall, call: &Call<'_>, rules: &Rules) -> Result<CniResult, PluginError> {
    let result = previous(call)?.clone();
    if isolates(conf) {
        // As long as the bridge is there: other pods count on it, as with the program.
        rules.close(&bridge(&result)?)?;
    }
    Ok(result)
}

pub(super) fn check(conf: &Firewall, call: &Call<'_>, rules: &Rules) -> Result<(), PluginError> {
    if isolates(conf) && !rules.is_closed(&bridge(previous(call)?)?) {
        return Err(refused("packets of other bridges reach the pod"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_the_programs() {
        let conf = |backend: &str, policy: &str, zone: &str, chain: &str| Firewall {
            backend: backend.into(),
            ingress_policy: policy.into(),
            firewalld_zone: zone.into(),
            iptables_admin_chain_name: chain.into(),
        };
        for strange in [
            conf("firewalld", "", "", ""),
            conf("", "isolated", "", ""),
            conf("", "", "trusted", ""),
            conf("iptables", "", "", "MINE"),
        ] {
            assert_eq!(does(&strange, &Forbids::default()), Does::Nothing, "{strange:?}");
        }
        assert_ne!(does(&conf("iptables", "same-bridge", "", ""), &Forbids::default()), Does::Nothing);
    }
}
