//! Which pod holds which port of the host, whoever connected it.

use std::collections::HashSet;

use berth_ids::SandboxId;
use berth_model::PortMapping;
use parking_lot::Mutex;

use crate::pods::{Holds, Pods};
use crate::{Attachment, HostPort, NetworkError, host_ports, plugin};

/// One instance's. The embedded network and the plugins each know the ports in their own table, where a key is one element's, and
/// a program tells nobody which ones it leads to pods: who comes is asked here, before anything is made.
#[derive(Debug, Default)]
pub struct HeldPorts(Mutex<Pods<SandboxId, Holder>>);

#[derive(Debug)]
struct Holder {
    /// For people: `namespace/name`.
    name: String,
    ports: Vec<HostPort>,
}

impl Holds for Holder {
    fn host_ports(&self) -> &[HostPort] {
        &self.ports
    }
}

impl HeldPorts {
    /// All that a pod asks for, or none where another one has one of them.
    pub fn take(&self, id: &SandboxId, name: &str, mappings: &[PortMapping]) -> Result<(), NetworkError> {
        let ports = host_ports::wanted(mappings);
        let mut all = self.0.lock();
        for (at, port) in ports.iter().enumerate() {
            let own = ports[..at].iter().any(|other| other.conflicts(*port)).then_some(name);
            if let Some(holder) = all.holder(id, *port).map(|(_, holder)| holder.name.as_str()).or(own) {
                return Err(NetworkError::Taken { port: *port, holder: holder.to_owned() });
            }
        }
        Self::set(&mut all, id, name.to_owned(), ports);
        Ok(())
    }

    fn set(all: &mut Pods<SandboxId, Holder>, id: &SandboxId, name: String, ports: Vec<HostPort>) {
        if !ports.is_empty() {
            all.insert(id.clone(), Holder { name, ports });
        }
    }

    /// At start: what a pod that lives has of the embedded network.
    pub fn of_embedded(&self, id: &SandboxId, attachment: &Attachment) {
        Self::set(&mut self.0.lock(), id, attachment.pod.clone(), attachment.host_ports.clone());
    }

    /// At start: what a pod that lives was connected with by plugins.
    pub fn of_plugins(&self, id: &SandboxId, record: &berth_cni::Record) {
        let asked = record.runtime.port_mappings.as_deref().unwrap_or_default();
        let name = format!("{}/{}", record.pod.namespace, record.pod.name);
        match plugin::host_ports(asked) {
            Ok(ports) => Self::set(&mut self.0.lock(), id, name, ports),
            Err(error) => tracing::warn!(sandbox = %id, %error, "which ports it holds is not known"),
        }
    }

    pub fn give_back(&self, id: &SandboxId) {
        self.0.lock().remove(id);
    }

    /// Gives back what is nobody's of these, who are asked for after it was seen what there is.
    pub fn collect(&self, known: impl FnOnce() -> HashSet<SandboxId>) {
        let holders: Vec<SandboxId> = self.0.lock().keys().cloned().collect();
        if holders.is_empty() {
            return;
        }
        let known = known();
        for id in holders.iter().filter(|id| !known.contains(*id)) {
            tracing::warn!(sandbox = %id, "ports of a pod that is no more are free again");
            self.give_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_cni::{PodName, Record, RuntimeConfig, Version};
    use berth_model::Protocol;

    use super::*;
    use crate::tests::id;

    fn map(host_port: u16, host_ip: &str) -> PortMapping {
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip: host_ip.into() }
    }

    fn refused(held: &HeldPorts, n: u8, ports: &[PortMapping]) -> String {
        held.take(&id(n), "a/new", ports).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_port_is_one_pods_whoever_connected_it() {
        let held = HeldPorts::default();
        let embedded = Attachment {
            host_interface: "veth".into(),
            bridge: "bridge".into(),
            ips: Vec::new(),
            gateways: Vec::new(),
            host_ports: host_ports::wanted(&[map(80, "")]),
            ifb: None,
            pod: "a/embedded".into(),
        };
        held.of_embedded(&id(1), &embedded);
        let asked = berth_cni::PortMapping {
            host_port: 81,
            container_port: 80,
            protocol: "tcp".into(),
            host_ip: "127.0.0.1".into(),
        };
        let record = Record {
            container: id(2).to_string(),
            interface: "eth0".into(),
            pod: PodName { namespace: "a".into(), name: "plugins".into(), uid: "u".into() },
            network: "net".into(),
            version: Version::V1_0_0,
            disable_check: false,
            plugins: Vec::new(),
            runtime: RuntimeConfig { port_mappings: Some(vec![asked]), ..Default::default() },
            netns: None,
            sandbox: String::new(),
            result: None,
            ending: None,
        };
        held.of_plugins(&id(2), &record);
        assert!(refused(&held, 3, &[map(80, "127.0.0.1")]).contains("leads to pod a/embedded already"));
        assert!(refused(&held, 3, &[map(82, ""), map(81, "")]).contains("leads to pod a/plugins already"));
        assert!(refused(&held, 3, &[map(83, ""), map(83, "::1")]).contains("leads to pod a/new already"));
        // What was refused holds nothing, and the same call again is no conflict with itself.
        for _ in 0..2 {
            assert_eq!(refused(&held, 4, &[map(82, ""), map(81, "10.0.0.1"), map(0, "")]), "");
        }
        held.give_back(&id(1));
        assert_eq!(refused(&held, 3, &[map(80, "")]), "");
        held.collect(|| HashSet::from([id(2), id(3)]));
        assert!(refused(&held, 5, &[map(80, "")]).contains("a/new"));
        assert_eq!(refused(&held, 5, &[map(82, "")]), "");
    }
}
