//! Pods by id, and who holds a port of the host.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

use crate::HostPort;

pub(crate) trait Holds {
    fn host_ports(&self) -> &[HostPort];
}

/// A map whose ports are found without a look at each pod: with a thousand that is a third of a millisecond.
#[derive(Debug)]
pub(crate) struct Pods<Id, Pod> {
    all: HashMap<Id, Pod>,
    /// Who has a port of this protocol and number, at whatever address; seldom more than one.
    holders: HashMap<(u8, u16), Vec<Id>>,
}

impl<Id, Pod> Default for Pods<Id, Pod> {
    fn default() -> Self {
        Self { all: HashMap::new(), holders: HashMap::new() }
    }
}

/// For reading.
impl<Id, Pod> Deref for Pods<Id, Pod> {
    type Target = HashMap<Id, Pod>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<Id: Clone + Eq + Hash, Pod: Holds> Pods<Id, Pod> {
    /// In place of what is known of the pod, which is given.
    pub(crate) fn insert(&mut self, id: Id, pod: Pod) -> Option<Pod> {
        let before = self.remove(&id);
        for port in pod.host_ports() {
            let holders = self.holders.entry((port.number(), port.port)).or_default();
            if !holders.contains(&id) {
                holders.push(id.clone());
            }
        }
        self.all.insert(id, pod);
        before
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, id: &Q) -> Option<Pod>
    where
        Id: Borrow<Q>,
    {
        let pod = self.all.remove(id)?;
        for port in pod.host_ports() {
            let key = (port.number(), port.port);
            if let Some(holders) = self.holders.get_mut(&key) {
                holders.retain(|holder| holder.borrow() != id);
                if holders.is_empty() {
                    self.holders.remove(&key);
                }
            }
        }
        Some(pod)
    }

    /// Another pod than `id` that has the port already, as sockets have it.
    pub(crate) fn holder<Q: Eq + Hash + ?Sized>(&self, id: &Q, port: HostPort) -> Option<(&Id, &Pod)>
    where
        Id: Borrow<Q>,
    {
        let holders = self.holders.get(&(port.number(), port.port))?.iter();
        let others = holders.filter(|holder| (*holder).borrow() != id);
        let mut known = others.filter_map(|holder| self.all.get_key_value(holder.borrow()));
        known.find(|(_, pod)| pod.host_ports().iter().any(|held| held.conflicts(port)))
    }
}

impl<Id: Clone + Eq + Hash, Pod: Holds> FromIterator<(Id, Pod)> for Pods<Id, Pod> {
    fn from_iter<T: IntoIterator<Item = (Id, Pod)>>(pods: T) -> Self {
        let mut all = Self::default();
        for (id, pod) in pods {
            all.insert(id, pod);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use berth_model::Protocol;

    use super::*;

    impl Holds for Vec<HostPort> {
        fn host_ports(&self) -> &[HostPort] {
            self
        }
    }

    #[test]
    fn ports_are_held_as_long_as_their_pods_are_known() {
        let port = |protocol, address: &str, port| HostPort {
            protocol,
            address: address.parse().ok(),
            port,
            container_port: 80,
        };
        use Protocol::{Tcp, Udp};
        let mut pods = Pods::from_iter([
            (1, vec![port(Tcp, "10.0.0.1", 80), port(Tcp, "10.0.0.2", 80), port(Udp, "", 53)]),
            (2, vec![port(Tcp, "10.0.0.3", 80)]),
            (3, vec![]),
        ]);
        let holder = |pods: &Pods<i32, _>, id, port| pods.holder(&id, port).map(|(id, _)| *id);
        assert_eq!(holder(&pods, 3, port(Tcp, "10.0.0.3", 80)), Some(2));
        assert_eq!(holder(&pods, 3, port(Tcp, "10.0.0.4", 80)), None);
        assert_eq!(holder(&pods, 2, port(Tcp, "", 80)), Some(1), "its own does not count");
        assert_eq!(holder(&pods, 3, port(Tcp, "", 53)), None);
        assert_eq!(holder(&pods, 3, port(Udp, "127.0.0.1", 53)), Some(1));
        // It has others now.
        assert_eq!(pods.insert(1, vec![port(Tcp, "", 443)]).map(|before| before.len()), Some(3));
        assert_eq!(holder(&pods, 3, port(Udp, "", 53)), None);
        assert_eq!(holder(&pods, 3, port(Tcp, "", 443)), Some(1));
        assert_eq!((pods.remove(&1).map(|pod| pod.len()), pods.remove(&1)), (Some(1), None));
        assert_eq!(holder(&pods, 3, port(Tcp, "", 443)), None);
        pods.remove(&2);
        assert!(pods.holders.is_empty() && pods.len() == 1);
    }
}
