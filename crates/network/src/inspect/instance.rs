//! A whole instance.

use std::collections::BTreeSet;

use berth_netlink::Routes;
use berth_netlink::nft::Reader;

use super::pod::end;
use super::view::{InstanceView, PortHolder, TableView};
use crate::{Network, NetworkError, host, step};

impl Network {
    /// Looks at bridge, addresses, table and who holds which port. Blocking; makes nothing.
    pub fn inspect(&self) -> Result<InstanceView, NetworkError> {
        let reading = || step("look at the instance's network");
        let routes = Routes::open().map_err(reading())?;
        // Else those of the last pods that ended would be told as in use until the next one comes.
        self.look_after(usize::MAX, &routes);
        let mut view = InstanceView {
            bridge_name: self.bridge.clone(),
            mtu: self.mtu,
            isolated: self.config.isolate_host,
            subnets: self.addresses.lock().usage(),
            forwarding: host::Forwarding::open().is_on(),
            ..InstanceView::default()
        };
        let pods: Vec<_> = self.pods.lock().values().cloned().collect();
        for pod in &pods {
            view.host_ports.extend(pod.host_ports.iter().map(|port| PortHolder {
                port: port.to_string(),
                container_port: port.container_port,
                pod: pod.name.clone(),
            }));
        }
        view.host_ports.sort_by(|a, b| a.port.cmp(&b.port));
        if let Some(bridge) = routes.link(&self.bridge).map_err(reading())? {
            let addresses = routes.addresses(bridge.index).map_err(reading())?;
            if !bridge.is_up {
                view.differences.push(format!("{} is down", self.bridge));
            }
            for subnet in &view.subnets {
                if !addresses.iter().any(|(ip, _)| *ip == subnet.gateway) {
                    view.differences.push(format!("{} has lost {}", self.bridge, subnet.gateway));
                }
            }
            view.bridge = Some(end(&bridge, &addresses, None));
        } else if !pods.is_empty() {
            view.differences.push(format!("bridge {} is not there", self.bridge));
        }
        view.table.name = self.table.clone();
        let standing = Reader::open().and_then(|reader| reader.standing(&self.table)).map_err(reading())?;
        let Some(standing) = standing else {
            if !pods.is_empty() {
                view.differences.push(format!("nf_tables table {} is not there", self.table));
            }
            return Ok(view);
        };
        let known: BTreeSet<String> =
            pods.iter().flat_map(|pod| pod.rules.addresses.iter().map(ToString::to_string)).collect();
        let count = |set: &str| standing.elements.get(set).map_or(0, Vec::len);
        view.table = TableView {
            name: self.table.clone(),
            there: true,
            elements: standing.elements.values().map(Vec::len).sum(),
            masqueraded: count("hidden4") + count("hidden6"),
        };
        let found: BTreeSet<String> =
            ["pods4", "pods6"].iter().flat_map(|set| standing.elements.get(set)).flatten().cloned().collect();
        for ip in known.difference(&found) {
            view.differences.push(format!("{ip} is a pod's and not in table {}", self.table));
        }
        for ip in found.difference(&known) {
            view.differences.push(format!("{ip} in table {} is of no pod", self.table));
        }
        if standing.translating == 0 {
            view.differences.push(format!("table {} has no rules any more", self.table));
        }
        Ok(view)
    }
}
