//! A whole instance.

use serde_json::Value;

use super::pod::end;
use super::tree::Node;
use crate::admin::NetworkReport;

pub(super) fn draw(name: &str, report: &NetworkReport) -> String {
    let state = report.problem.as_ref().map_or("ready".to_owned(), |why| format!("NOT READY: {why}"));
    let own = &report.own;
    let bridge = match &own.bridge {
        None => Node::new(format!("bridge {}: not there; it is made for a pod", own.bridge_name)),
        Some(bridge) => {
            let addresses = bridge.addresses.iter().map(|address| Node::new(format!("address {address}")));
            Node::with(format!("bridge {}: {}", bridge.name, end(bridge)), addresses)
        }
    };
    let subnets = own.subnets.iter().map(|subnet| {
        format!("{}, gateway {}: {} used, {} free", subnet.subnet, subnet.gateway, subnet.used, subnet.free)
    });
    let first = match report.primary.as_deref() {
        Some("ipv4") => "IPv4",
        Some("ipv6") => "IPv6",
        _ => "as the network gives them",
    };
    let services = if own.isolated { "are kept from" } else { "reach" };
    let on = |yes| if yes { "on" } else { "OFF" };
    let ports = own.host_ports.iter().chain(&report.plugin_ports);
    let ports = ports.map(|port| format!("{} to port {} of {}", port.port, port.container_port, port.pod));
    let pods = report.pods.iter().map(|pod| {
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        format!("{} {} {} ({})", pod.id.get(..12).unwrap_or(&pod.id), pod.name, ips.join(", "), pod.network)
    });
    let mut root = Node::with(
        format!("network of instance {name}: {state}"),
        [
            bridge,
            Node::list("pods' networks", subnets),
            Node::with(
                "settings",
                [
                    Node::new(format!("MTU {}", own.mtu)),
                    Node::new(format!("a pod's first address: {first}")),
                    Node::new(format!("pods {services} services of the host's own")),
                ],
            ),
            Node::with(
                match own.table.there {
                    true => format!("nf_tables table {}: {} elements", own.table.name, own.table.elements),
                    false => format!("nf_tables table {}: not there; it is made for a pod", own.table.name),
                },
                [
                    Node::new(format!("masquerade for {} addresses", own.table.masqueraded)),
                    Node::new(format!(
                        "forwarding IPv4 {}, IPv6 {}",
                        on(own.forwarding[0]),
                        on(own.forwarding[1])
                    )),
                ],
            ),
        ],
    );
    root.below.extend(configurations(&report.cni));
    root.below.push(Node::list("owed to plugins", owed(&report.cni)));
    root.below.push(Node::list("ports of the host", ports));
    root.below.push(Node::list("pods", pods));
    root.below.push(Node::list("what others stop", report.stopped_by_others.iter().map(ToString::to_string)));
    root.below.push(Node::list("notes", report.notes.iter().cloned()));
    root.below.push(Node::list("differs from what was recorded", own.differences.iter().cloned()));
    root.draw()
}

/// A line for each runtime handler that has one of its own.
fn configurations(cni: &Value) -> Vec<Node> {
    let handlers = cni["handlers"].as_object().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |(handler, found): (&String, &Value)| {
        let of = if handler.is_empty() { String::new() } else { format!(" of handler {handler}") };
        if let (Some(problem), true) = (found["problem"].as_str(), found["network"].is_null()) {
            return Node::new(format!("CNI{of}: BROKEN: {problem}"));
        }
        if found["network"].is_null() {
            return Node::new(format!("CNI{of}: no configuration, pods are in Berth's own network"));
        }
        let plugins = found["plugins"].as_array().cloned().unwrap_or_default();
        let plugins = plugins.iter().map(|plugin| {
            let by = if plugin["in_process"] == true { "in-process" } else { "program" };
            format!("{} ({by})", text(&plugin["conf"]["type"]))
        });
        let (network, file) = (text(&found["network"]), text(&found["configuration"]));
        Node::list(
            &format!("CNI{of}: network {network}, version {}, {file}", text(&found["version"])),
            plugins,
        )
    };
    match handlers.is_empty() {
        true => vec![Node::new("CNI: no configuration, pods are in Berth's own network")],
        false => handlers.iter().map(one).collect(),
    }
}

fn owed(cni: &Value) -> Vec<String> {
    let owed = cni["owed"].as_object().cloned().unwrap_or_default();
    let one = |(id, debt): (&String, &Value)| {
        format!("{}: {}", id.get(..12).unwrap_or(id), debt["problem"].as_str().unwrap_or_default())
    };
    owed.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_is_one_screen() {
        let report: NetworkReport = serde_json::from_value(json!({
            "problem": "no lease",
            "own": {
                "bridge_name": "berth0", "mtu": 1450, "forwarding": [true, false],
                "subnets": [{ "subnet": "10.85.0.0/16", "gateway": "10.85.0.1", "used": 1, "free": 65532 }],
                "table": { "name": "berth", "there": true, "elements": 3, "masqueraded": 1 },
                "host_ports": [{ "port": "TCP port 8080", "container_port": 80, "pod": "demo/a" }],
            },
            "cni": {
                "handlers": { "": {
                    "configuration": "/etc/cni/net.d/10.conflist", "network": "net", "version": "1.0.0",
                    "plugins": [{ "conf": { "type": "bridge" }, "in_process": true }, { "conf": { "type": "other" } }],
                    "problem": "no lease",
                }, "berth": { "problem": "10.conflist:3: oops" } },
                "owed": { "0123456789abcdef": { "since": 1, "problem": "later" } },
            },
            "pods": [{ "id": "fedcba9876543210", "name": "demo/a", "network": "Berth's own", "ips": ["10.85.0.2"] }],
        }))
        .unwrap();
        let expected = "\
network of instance blue: NOT READY: no lease
├─ bridge berth0: not there; it is made for a pod
├─ pods' networks
│  └─ 10.85.0.0/16, gateway 10.85.0.1: 1 used, 65532 free
├─ settings
│  ├─ MTU 1450
│  ├─ a pod's first address: as the network gives them
│  └─ pods reach services of the host's own
├─ nf_tables table berth: 3 elements
│  ├─ masquerade for 1 addresses
│  └─ forwarding IPv4 on, IPv6 OFF
├─ CNI: network net, version 1.0.0, /etc/cni/net.d/10.conflist
│  ├─ bridge (in-process)
│  └─ other (program)
├─ CNI of handler berth: BROKEN: 10.conflist:3: oops
├─ owed to plugins
│  └─ 0123456789ab: later
├─ ports of the host
│  └─ TCP port 8080 to port 80 of demo/a
├─ pods
│  └─ fedcba987654 demo/a 10.85.0.2 (Berth's own)
├─ what others stop: none
├─ notes: none
└─ differs from what was recorded: none
";
        assert_eq!(draw("blue", &report), expected);
    }
}
