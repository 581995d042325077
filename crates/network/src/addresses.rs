use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use berth_ids::SandboxId;

use crate::NetworkError;
use crate::inspect::SubnetView;
use crate::subnet::{Subnet, bits};

/// Who has which address. Handed out in a circle, so that one given back is used again as late as can be.
#[derive(Debug)]
pub(crate) struct Addresses {
    circles: Vec<Circle>,
    taken: HashSet<IpAddr>,
    by_pod: HashMap<SandboxId, Vec<IpAddr>>,
    /// The first to go comes first.
    leaving: VecDeque<Leaving>,
}

/// Addresses of a pod that has ended, taken until the kernel has cleared its namespace: until then it answers there for them.
#[derive(Debug)]
pub(crate) struct Leaving {
    addresses: Vec<IpAddr>,
    /// Gone with the namespace.
    pub(crate) interface: String,
}

#[derive(Debug)]
struct Circle {
    subnet: Subnet,
    next: u128,
}

impl Circle {
    fn new(subnet: Subnet) -> Self {
        Self { subnet, next: subnet.hosts().start }
    }

    fn after(&mut self, last: u128) {
        let hosts = self.subnet.hosts();
        self.next = if last + 1 < hosts.end { last + 1 } else { hosts.start };
    }

    fn free(&self, taken: &HashSet<IpAddr>) -> Option<u128> {
        let hosts = self.subnet.hosts();
        let circle = (self.next..hosts.end).chain(hosts.start..self.next);
        circle.into_iter().find(|address| !taken.contains(&self.subnet.host(*address)))
    }
}

impl Addresses {
    pub(crate) fn new(subnets: &[Subnet]) -> Self {
        let circles = subnets.iter().map(|subnet| Circle::new(*subnet)).collect();
        Self { circles, taken: HashSet::new(), by_pod: HashMap::new(), leaving: VecDeque::new() }
    }

    pub(crate) fn subnets(&self) -> Vec<Subnet> {
        self.circles.iter().map(|circle| circle.subnet).collect()
    }

    /// Pods keep what they have; new ones get addresses of the new networks.
    pub(crate) fn move_to(&mut self, subnets: &[Subnet]) {
        self.circles = subnets.iter().map(|subnet| Circle::new(*subnet)).collect();
    }

    /// One of each network, in their order: all or none.
    pub(crate) fn take(&mut self, id: &SandboxId) -> Result<Vec<IpAddr>, NetworkError> {
        if let Some(addresses) = self.by_pod.get(id) {
            return Ok(addresses.clone());
        }
        let found = self
            .circles
            .iter()
            .map(|circle| circle.free(&self.taken).ok_or(NetworkError::Exhausted { subnet: circle.subnet }));
        let found: Vec<u128> = found.collect::<Result<_, _>>()?;
        let mut addresses = Vec::new();
        for (circle, address) in self.circles.iter_mut().zip(found) {
            circle.after(address);
            addresses.push(circle.subnet.host(address));
        }
        self.taken.extend(&addresses);
        self.by_pod.insert(id.clone(), addresses.clone());
        Ok(addresses)
    }

    /// In use since before the start.
    pub(crate) fn mark(&mut self, id: &SandboxId, addresses: &[IpAddr]) {
        self.taken.extend(addresses);
        self.by_pod.insert(id.clone(), addresses.to_vec());
        for address in addresses {
            for circle in &mut self.circles {
                let number = bits(*address);
                if circle.subnet.contains(*address) && number >= circle.next {
                    circle.after(number);
                }
            }
        }
    }

    /// How much of each network is in use; addresses of networks that were given up are not counted.
    pub(crate) fn usage(&self) -> Vec<SubnetView> {
        let of = |circle: &Circle| {
            let hosts = circle.subnet.hosts();
            let used = self.taken.iter().filter(|ip| circle.subnet.contains(**ip)).count() as u64;
            let all = u64::try_from(hosts.end.saturating_sub(hosts.start)).unwrap_or(u64::MAX);
            SubnetView {
                subnet: circle.subnet.to_string(),
                gateway: circle.subnet.gateway(),
                used,
                free: all.saturating_sub(used),
            }
        };
        self.circles.iter().map(of).collect()
    }

    pub(crate) fn holders(&self) -> Vec<SandboxId> {
        self.by_pod.keys().cloned().collect()
    }

    pub(crate) fn of(&self, id: &SandboxId) -> Vec<IpAddr> {
        self.by_pod.get(id).cloned().unwrap_or_default()
    }

    /// They are free once the pod's interface is found to be gone.
    pub(crate) fn give_back(&mut self, id: &SandboxId, interface: String) {
        if let Some(addresses) = self.by_pod.remove(id) {
            self.leaving.push_back(Leaving { addresses, interface });
        }
    }

    /// At most so many of those that leave, to be looked for and told of by [`Addresses::seen`].
    pub(crate) fn leaving(&mut self, most: usize) -> Vec<Leaving> {
        let most = most.min(self.leaving.len());
        self.leaving.drain(..most).collect()
    }

    pub(crate) fn seen(&mut self, leaving: Leaving, is_there: bool) {
        if is_there {
            self.leaving.push_back(leaving);
            return;
        }
        for address in leaving.addresses {
            self.taken.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SandboxId {
        SandboxId::from_bytes([n; 32])
    }

    fn addresses(subnets: &[&str]) -> Addresses {
        Addresses::new(&subnets.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn gone(addresses: &mut Addresses, n: u8) {
        addresses.give_back(&id(n), "its".into());
        for leaving in addresses.leaving(9) {
            addresses.seen(leaving, false);
        }
    }

    #[test]
    fn none_is_free_before_its_interface_is_gone() {
        let mut addresses = addresses(&["10.0.0.0/29"]);
        let taken: Vec<_> = (1..6).map(|n| addresses.take(&id(n)).unwrap()).collect();
        addresses.give_back(&id(1), "its".into());
        assert!(addresses.take(&id(9)).is_err());
        let mut leaving = addresses.leaving(9);
        assert_eq!(leaving[0].interface, "its");
        addresses.seen(leaving.remove(0), true);
        assert!(addresses.take(&id(9)).is_err() && addresses.leaving(0).is_empty());
        let leaving = addresses.leaving(9).remove(0);
        addresses.seen(leaving, false);
        assert_eq!(addresses.take(&id(9)).unwrap(), taken[0]);
    }

    #[test]
    fn round_and_round_and_never_twice() {
        let mut addresses = addresses(&["10.0.0.0/29"]);
        let taken: Vec<_> = (0..5).map(|n| addresses.take(&id(n)).unwrap()[0]).collect();
        let usage = &addresses.usage()[0];
        assert_eq!((usage.used, usage.free), (5, 0));
        assert_eq!(taken, ips(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]));
        assert_eq!(addresses.take(&id(2)).unwrap(), [taken[2]]);
        assert!(matches!(addresses.take(&id(9)), Err(NetworkError::Exhausted { .. })));
        gone(&mut addresses, 3);
        gone(&mut addresses, 1);
        gone(&mut addresses, 1);
        assert_eq!(addresses.take(&id(9)).unwrap(), [taken[1]]);
        assert_eq!(addresses.take(&id(8)).unwrap(), [taken[3]]);
    }

    #[test]
    fn both_versions_or_none() {
        let mut addresses = addresses(&["10.0.0.0/24", "fd00::/124"]);
        assert_eq!(addresses.take(&id(0)).unwrap(), ips(&["10.0.0.2", "fd00::2"]));
        (1..14).for_each(|n| drop(addresses.take(&id(n)).unwrap()));
        let full = addresses.take(&id(99)).unwrap_err().to_string();
        assert!(full.contains("fd00::/124"), "{full}");
        gone(&mut addresses, 5);
        assert_eq!(addresses.take(&id(99)).unwrap(), ips(&["10.0.0.16", "fd00::7"]), "none was lost");
    }

    #[test]
    fn what_runs_keeps_its_address() {
        let mut addresses = addresses(&["10.0.0.0/24"]);
        addresses.mark(&id(1), &ips(&["10.0.0.2"]));
        assert_eq!(addresses.take(&id(2)).unwrap(), ips(&["10.0.0.3"]));
        addresses.move_to(&["10.9.0.0/24".parse().unwrap()]);
        assert_eq!(addresses.take(&id(3)).unwrap(), ips(&["10.9.0.2"]));
    }
}
