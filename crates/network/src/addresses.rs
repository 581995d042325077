use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use berth_ids::SandboxId;

use crate::{NetworkError, Subnet};

/// Who has which address. Handed out in a circle, so that one given back is used again as late as can be.
#[derive(Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    next: u32,
    taken: BTreeSet<u32>,
    by_pod: HashMap<SandboxId, u32>,
}

impl Addresses {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self { subnet, next: subnet.hosts().start, taken: BTreeSet::new(), by_pod: HashMap::new() }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Pods keep what they have; new ones get addresses of the new network.
    pub(crate) fn move_to(&mut self, subnet: Subnet) {
        self.subnet = subnet;
        self.next = subnet.hosts().start;
    }

    pub(crate) fn take(&mut self, id: &SandboxId) -> Result<Ipv4Addr, NetworkError> {
        if let Some(address) = self.by_pod.get(id) {
            return Ok((*address).into());
        }
        let hosts = self.subnet.hosts();
        let circle = (self.next..hosts.end).chain(hosts.start..self.next);
        let free = circle.into_iter().find(|address| !self.taken.contains(address));
        let address = free.ok_or(NetworkError::Exhausted { subnet: self.subnet })?;
        self.next = if address + 1 < hosts.end { address + 1 } else { hosts.start };
        self.taken.insert(address);
        self.by_pod.insert(id.clone(), address);
        Ok(address.into())
    }

    /// In use since before the start.
    pub(crate) fn mark(&mut self, id: &SandboxId, address: Ipv4Addr) {
        let address = u32::from(address);
        self.taken.insert(address);
        self.by_pod.insert(id.clone(), address);
        if self.subnet.hosts().contains(&address) && address >= self.next {
            self.next =
                if address + 1 < self.subnet.hosts().end { address + 1 } else { self.subnet.hosts().start };
        }
    }

    pub(crate) fn give_back(&mut self, id: &SandboxId) {
        if let Some(address) = self.by_pod.remove(id) {
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

    #[test]
    fn round_and_round_and_never_twice() {
        let mut addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        let taken: Vec<_> = (0..5).map(|n| addresses.take(&id(n)).unwrap()).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6].map(|n| Ipv4Addr::new(10, 0, 0, n)));
        assert_eq!(addresses.take(&id(2)).unwrap(), taken[2]);
        assert!(matches!(addresses.take(&id(9)), Err(NetworkError::Exhausted { .. })));
        addresses.give_back(&id(3));
        addresses.give_back(&id(1));
        addresses.give_back(&id(1));
        assert_eq!(addresses.take(&id(9)).unwrap(), taken[1]);
        assert_eq!(addresses.take(&id(8)).unwrap(), taken[3]);
    }

    #[test]
    fn what_runs_keeps_its_address() {
        let mut addresses = Addresses::new("10.0.0.0/24".parse().unwrap());
        addresses.mark(&id(1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(addresses.take(&id(2)).unwrap(), Ipv4Addr::new(10, 0, 0, 3));
        addresses.move_to("10.9.0.0/24".parse().unwrap());
        assert_eq!(addresses.take(&id(3)).unwrap(), Ipv4Addr::new(10, 9, 0, 2));
    }
}
