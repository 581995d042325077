//! Against the kernel: one thing is broken by hand, and that hop is named.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use berth_model::Protocol;
use berth_netlink::Routes;
use berth_sys::netns::{new_netns, run_in};

use super::*;
use crate::tests::{Host, asks, id, map};
use crate::{Attachment, Network, PodRequest, inspect_pod};

struct Scene {
    host: Host,
    network: Network,
    pod: (OwnedFd, Attachment),
    other: (OwnedFd, Attachment),
}

impl Scene {
    fn new() -> Self {
        let host = Host::new();
        let network = host.network(&[]);
        let ports = [map(Protocol::Tcp, 8080, ""), map(Protocol::Udp, 5353, "")];
        let (one, two) = (id(1), id(2));
        let attach = |pod: PodRequest<'_>| {
            let netns = new_netns().unwrap();
            let attachment = host.with(|| network.attach(pod, netns.as_fd()).unwrap());
            (netns, attachment)
        };
        let pod = attach(asks(&one, &ports));
        let other = attach(PodRequest { name: "test/other", ..asks(&two, &[]) });
        Self { host, network, pod, other }
    }

    /// Only what is not well.
    fn check(&self, nameservers: &[IpAddr]) -> Vec<String> {
        let recorded = self.network.recorded(&self.pod.1);
        let path = format!("/proc/self/fd/{}", self.pod.0.as_raw_fd());
        let subject = Subject {
            recorded: &recorded,
            netns: self.pod.0.as_fd(),
            path: &path,
            nameservers: nameservers.to_vec(),
            others: vec![("test/other".into(), self.other.1.ips.clone())],
        };
        let steps = self.host.with(|| check_pod(&subject));
        let bad = steps.iter().filter(|step| step.outcome == Outcome::Failed);
        bad.map(|step| format!("{}: {}", step.name, step.found)).collect()
    }

    fn differences(&self) -> Vec<String> {
        let recorded = self.network.recorded(&self.pod.1);
        self.host.with(|| inspect_pod(&recorded, self.pod.0.as_fd()).unwrap()).differences
    }

    fn in_pod<T: Send>(&self, work: impl FnOnce(&Routes, u32) -> std::io::Result<T> + Send) -> T {
        run_in(self.pod.0.as_fd(), || {
            let routes = Routes::open()?;
            let index = routes.index("eth0")?.unwrap();
            work(&routes, index)
        })
        .unwrap()
    }
}

#[test]
fn a_pod_that_is_well() {
    let scene = Scene::new();
    assert_eq!(scene.check(&[]), [""; 0]);
    assert_eq!(scene.differences(), [""; 0]);
    let _listens = run_in(scene.pod.0.as_fd(), || TcpListener::bind(("::", 80))).unwrap();
    assert_eq!(scene.check(&[]), [""; 0], "with somebody who listens at the port");
    let view = scene.host.with(|| scene.network.inspect().unwrap());
    assert_eq!(view.differences, [""; 0]);
    assert_eq!((view.subnets[0].used, view.host_ports.len(), view.table.masqueraded), (2, 2, 4));
}

#[test]
fn the_hop_that_is_broken_is_named() {
    let scene = Scene::new();
    let _listens = run_in(scene.pod.0.as_fd(), || TcpListener::bind(("::", 80))).unwrap();
    let (v4, gateway) = (scene.pod.1.ips[0], scene.pod.1.gateways[0]);
    let host_end = &scene.pod.1.host_interface;
    let first = |bad: &[String]| bad.first().cloned().unwrap_or_default();

    let table = scene.network.recorded(&scene.pod.1).rules.unwrap();
    let tables = berth_netlink::nft::Tables::default();
    let masquerade = berth_netlink::nft::Pod { forwards: Vec::new(), ..table.pod.clone() };
    scene.host.with(|| tables.remove(&table.table, &masquerade).unwrap());
    assert_eq!(
        first(&scene.check(&[])),
        format!(
            "masquerade: {v4} is not in set pods4 of table {0}; {1} is not in set pods6 of table {0}; \
         {v4} is not in set hidden4 of table {0}; {1} is not in set hidden6 of table {0}; \
         {v4} is not in set itself4 of table {0}; {1} is not in set itself6 of table {0}",
            table.table, scene.pod.1.ips[1]
        )
    );
    assert_eq!(scene.differences().len(), 6);
    assert_eq!(scene.host.with(|| scene.network.inspect().unwrap()).differences.len(), 2);
    scene.host.with(|| tables.add(&table.table, &masquerade).unwrap());

    let ports = berth_netlink::nft::Pod { forwards: table.pod.forwards.clone(), ..Default::default() };
    scene.host.with(|| tables.remove(&table.table, &ports).unwrap());
    let bad = scene.check(&[]);
    assert!(bad.len() == 2 && bad[0].starts_with("port TCP port 8080: TCP 8080 to "), "{bad:?}");
    scene.host.with(|| tables.add(&table.table, &ports).unwrap());
    assert_eq!(scene.check(&[]), [""; 0]);

    let bridge = |work: &(dyn Fn(&Routes, u32) -> std::io::Result<()> + Sync)| {
        scene.host.with(|| {
            let routes = Routes::open().unwrap();
            let index = routes.index(scene.network.bridge()).unwrap().unwrap();
            work(&routes, index).unwrap();
        });
    };
    let prefix = scene.network.subnets()[0].prefix();
    bridge(&|routes, index| routes.remove_address(index, gateway, prefix));
    let bad = scene.check(&[]);
    let lost = format!("{} has lost {gateway}", scene.network.bridge());
    assert_eq!(first(&bad), format!("IPv4 gateway: {lost}: no interface of the host has it"));
    let found = scene.host.with(|| scene.network.inspect().unwrap()).differences;
    assert_eq!(found, [lost]);
    bridge(&|routes, index| routes.add_address(index, gateway, prefix));

    let silent = run_in(scene.other.0.as_fd(), || UdpSocket::bind(("::", 53))).unwrap();
    let at = scene.other.1.ips[0];
    assert_eq!(scene.check(&[at]), [format!("name server {at}: does not answer over UDP")]);
    drop(silent);
    assert_eq!(scene.check(&[at]), [format!("name server {at}: nothing listens on UDP port 53 there")]);

    scene.in_pod(|routes, index| routes.remove_address(index, v4, prefix));
    let bad = scene.check(&[]);
    assert_eq!(first(&bad), format!("IPv4 address: eth0 has lost {v4}"));
    assert!(!bad.iter().any(|line| line.starts_with("IPv6")), "{bad:?}");
    assert!(scene.differences()[0].contains("has lost"));

    let set = |up: bool| {
        scene.host.with(|| {
            let routes = Routes::open().unwrap();
            let index = routes.index(host_end).unwrap().unwrap();
            if up { routes.set_up(index) } else { routes.set_down(index) }.unwrap();
        });
    };
    set(false);
    let bad = scene.check(&[]);
    assert_eq!(first(&bad), format!("host's end: {host_end} is down"));
    set(true);
    scene.in_pod(|routes, index| routes.set_down(index));
    assert_eq!(first(&scene.check(&[])), "interface in the pod: eth0 is down");
    scene.in_pod(|routes, index| routes.delete_link(index));
    assert_eq!(first(&scene.check(&[])), "interface in the pod: there is no eth0");
    assert!(scene.differences().contains(&format!("the host's end {host_end} is not there")));
}
