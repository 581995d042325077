//! One pod, from its namespace outwards.

use berth_network::{Counters, End, PodView};

use super::tree::Node;
use crate::admin::PodNetwork;

pub(super) fn draw(report: &PodNetwork) -> String {
    let id = report.pod.id.get(..12).unwrap_or(&report.pod.id);
    let mut root = Node::new(format!("pod {} ({id}): {}", report.pod.name, title(report)));
    if let Some((path, inode)) = &report.netns {
        root.below.push(Node::new(format!("namespace {path}, inode {inode}")));
    }
    if let Some(view) = &report.view {
        root.below.extend(connection(view));
    }
    if let Some(cni) = &report.cni {
        let title = format!("CNI network {}, version {}", cni.network, cni.version);
        root.below.push(Node::list(&title, cni.plugins.iter().cloned()));
    }
    root.below.push(dns(report));
    if let Some(view) = &report.view {
        let differences = view.differences.iter().cloned();
        root.below.push(Node::list("differs from what was recorded", differences));
    }
    root.draw()
}

fn title(report: &PodNetwork) -> String {
    match (report.ready, report.view.is_some()) {
        (false, _) => "has ended, and its network with it".into(),
        (true, false) => format!("in {} network", report.pod.network),
        (true, true) => format!("in {}", report.pod.network.replace("Berth's own", "Berth's own network")),
    }
}

/// The state of an interface in a few words.
pub(super) fn end(end: &End) -> String {
    let state = match (end.up, end.carrier) {
        (false, _) => "DOWN",
        (true, false) => "up without a carrier",
        (true, true) => "up",
    };
    let master = end.master.as_ref().map(|name| format!(", port of {name}")).unwrap_or_default();
    format!("{state}, {}, MTU {}{master}", end.mac, end.mtu)
}

fn counters(way: &str, counters: Counters) -> Node {
    let Counters { bytes, packets, errors, dropped } = counters;
    Node::new(format!("{way} {bytes} bytes in {packets} packets, {errors} errors, {dropped} dropped"))
}

fn traffic(end: &End) -> [Node; 2] {
    [counters("received", end.received), counters("sent", end.sent)]
}

fn connection(view: &PodView) -> Vec<Node> {
    let mut nodes = Vec::new();
    nodes.push(match &view.pod_end {
        None => Node::new("no interface in the pod"),
        Some(inside) => {
            let addresses = inside.addresses.iter().map(|address| Node::new(format!("address {address}")));
            let routes = view.routes.iter().map(|route| {
                let by = route.gateway.map(|gateway| format!(" by {gateway}")).unwrap_or_default();
                Node::new(format!("route {}{by}", route.destination))
            });
            let below = addresses.chain(routes).chain(traffic(inside));
            Node::with(format!("{} in the pod: {}", inside.name, end(inside)), below)
        }
    });
    if let Some(host) = &view.host_end {
        let addresses = host.addresses.iter().map(|address| Node::new(format!("address {address}")));
        let below = addresses.chain(traffic(host));
        nodes.push(Node::with(format!("{} on the host: {}", host.name, end(host)), below));
    }
    if let Some(bridge) = &view.bridge {
        let addresses = bridge.addresses.iter().map(|address| Node::new(format!("address {address}")));
        nodes.push(Node::with(format!("bridge {}: {}", bridge.name, end(bridge)), addresses));
    }
    nodes.push(Node::list("ports of the host", view.host_ports.iter().cloned()));
    let limit = |way: &str, limit: Option<(u64, u32)>| {
        limit.map(|(rate, burst)| format!("{way} the pod {rate} bytes/s, {burst} at once"))
    };
    let limits = [limit("to", view.shaping.to_pod), limit("from", view.shaping.from_pod)];
    nodes.push(Node::list("limits", limits.into_iter().flatten()));
    nodes.push(match &view.table {
        None => Node::new("rules: another program's"),
        Some(table) => {
            let there = |yes| if yes { "" } else { "  MISSING" };
            let rules = view.rules.iter().map(|r| format!("{} {}{}", r.set, r.element, there(r.there)));
            Node::list(&format!("nf_tables table {table}"), rules)
        }
    });
    nodes
}

fn dns(report: &PodNetwork) -> Node {
    let dns = &report.dns;
    let one =
        |what: &str, words: &[String]| (!words.is_empty()).then(|| format!("{what} {}", words.join(" ")));
    let servers = dns.servers.iter().map(|server| format!("name server {server}"));
    Node::list("DNS", servers.chain(one("search", &dns.searches)).chain(one("options", &dns.options)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_a_small_tree() {
        let report: PodNetwork = serde_json::from_value(json!({
            "pod": { "id": "0123456789abcdef", "name": "demo/a", "network": "Berth's own", "ips": ["10.85.0.2"] },
            "ready": true,
            "netns": ["/proc/7/ns/net", 42],
            "dns": { "servers": ["10.0.0.10"], "options": ["ndots:5"] },
            "view": {
                "pod_end": {
                    "name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "up": true, "carrier": true,
                    "addresses": ["10.85.0.2/16"], "received": { "bytes": 10, "packets": 1, "errors": 0, "dropped": 2 },
                },
                "host_end": { "name": "vb0", "mac": "02:00:00:00:00:02", "mtu": 1450, "up": false, "master": "berth0" },
                "routes": [{ "destination": "default", "gateway": "10.85.0.1" }],
                "host_ports": ["TCP port 8080 to 80"],
                "table": "berth",
                "rules": [{ "set": "pods4", "element": "10.85.0.2", "there": false }],
                "differences": ["vb0 is down"],
            },
        }))
        .unwrap();
        let expected = "\
pod demo/a (0123456789ab): in Berth's own network
├─ namespace /proc/7/ns/net, inode 42
├─ eth0 in the pod: up, 02:00:00:00:00:01, MTU 1450
│  ├─ address 10.85.0.2/16
│  ├─ route default by 10.85.0.1
│  ├─ received 10 bytes in 1 packets, 0 errors, 2 dropped
│  └─ sent 0 bytes in 0 packets, 0 errors, 0 dropped
├─ vb0 on the host: DOWN, 02:00:00:00:00:02, MTU 1450, port of berth0
│  ├─ received 0 bytes in 0 packets, 0 errors, 0 dropped
│  └─ sent 0 bytes in 0 packets, 0 errors, 0 dropped
├─ ports of the host
│  └─ TCP port 8080 to 80
├─ limits: none
├─ nf_tables table berth
│  └─ pods4 10.85.0.2  MISSING
├─ DNS
│  ├─ name server 10.0.0.10
│  └─ options ndots:5
└─ differs from what was recorded
   └─ vb0 is down
";
        assert_eq!(draw(&report), expected);
    }
}
