//! What belongs to no pod: it is looked for at the start and from time to time.

use std::collections::HashSet;

use berth_ids::SandboxId;
use berth_netlink::Routes;

use crate::{Made, Network, NetworkError, names, shaping, step};

impl Network {
    /// Interfaces of our making that lead to pods: ports of the bridge, and those that limit what pods send.
    pub(crate) fn links(&self, routes: &Routes, bridge: u32) -> Result<Vec<String>, NetworkError> {
        let ports = routes.ports(bridge).map_err(step("read the bridge's ports"))?;
        let ports = ports.into_iter().map(|(_, name)| name).filter(|name| names::is_ours(name));
        Ok(ports.chain(self.shaping_links(routes)?).collect())
    }

    pub(crate) fn shaping_links(&self, routes: &Routes) -> Result<Vec<String>, NetworkError> {
        let prefix = names::ifb_prefix(&self.config.instance);
        let all = routes.all_links().map_err(step("read the host's interfaces"))?;
        let ours = all.into_iter().filter(|link| link.kind == "ifb" && link.name.starts_with(&prefix));
        Ok(ours.map(|link| link.name).collect())
    }

    pub(crate) fn remove_links<'a>(&self, routes: &Routes, unused: impl Iterator<Item = &'a String>) {
        for name in unused {
            tracing::info!(interface = name, "an interface of no pod is removed");
            shaping::remove(routes, name);
        }
    }

    /// Gives back addresses, ports and interfaces of whoever is not `known`; gives their number. `known` is called after
    /// it was seen what there is, and has to tell of a pod that is being made too.
    pub fn collect(&self, known: impl FnOnce() -> HashSet<SandboxId>) -> Result<usize, NetworkError> {
        if *self.made.lock() == Made::Removed {
            return Ok(0);
        }
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        let bridge = routes.index(&self.bridge).map_err(step("look for the bridge"))?;
        let links = bridge.map_or_else(|| Ok(Vec::new()), |bridge| self.links(&routes, bridge))?;
        let mut holders: HashSet<SandboxId> = self.pods.lock().keys().cloned().collect();
        holders.extend(self.addresses.lock().holders());
        let known = known();
        let strangers: Vec<&SandboxId> = holders.iter().filter(|id| !known.contains(*id)).collect();
        for id in &strangers {
            tracing::warn!(sandbox = %id, "addresses and ports of a pod that is no more are given back");
            self.detach(id, None);
        }
        let of_known: HashSet<String> = known
            .iter()
            .flat_map(|id| [names::interface(id), names::ifb(&self.config.instance, id)])
            .collect();
        let unused: Vec<&String> = links.iter().filter(|name| !of_known.contains(*name)).collect();
        let count = strangers.len() + unused.len();
        self.remove_links(&routes, unused.into_iter());
        Ok(count)
    }
}
