//! Against the kernel, in a namespace that plays the host.

use super::*;
use crate::subnet::Saved;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use berth_model::Protocol;

use berth_sys::netns::{new_netns, run_in};

pub(crate) struct Host {
    netns: OwnedFd,
    state: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let netns = new_netns().unwrap();
        run_in(netns.as_fd(), || Routes::open()?.set_up(1)).unwrap();
        Self { netns, state: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(self.netns.as_fd(), || Ok(work())).unwrap()
    }

    pub(crate) fn network(&self, subnets: &[&str]) -> Network {
        let config = NetworkConfig {
            instance: "test".into(),
            bridge: None,
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: None,
            isolate_host: false,
            state: self.state.path().into(),
        };
        self.with(|| Network::open(config).unwrap())
    }

    /// As if an instance had chosen them before.
    pub(crate) fn remember(&self, subnets: &[&str]) {
        let chosen = subnets.iter().map(|text| text.parse().unwrap()).collect();
        Saved::change(self.state.path(), |saved| saved.subnets = chosen).unwrap();
    }
}

pub(crate) fn id(n: u8) -> SandboxId {
    SandboxId::from_bytes([n; 32])
}

pub(crate) fn asks<'a>(id: &'a SandboxId, ports: &'a [PortMapping]) -> PodRequest<'a> {
    PodRequest { id, name: "test/pod", ports, bandwidth: None }
}

/// A pod that answers one connection on port 80 with its word.
fn serve(netns: &OwnedFd, word: &'static str) -> std::thread::JoinHandle<()> {
    let listener = run_in(netns.as_fd(), || TcpListener::bind(("::", 80))).unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(word.as_bytes()).unwrap())
}

fn get(at: (IpAddr, u16)) -> std::io::Result<String> {
    let mut answer = String::new();
    let stream = TcpStream::connect_timeout(&at.into(), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    (&stream).read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask(ip: IpAddr) -> String {
    get((ip, 80)).unwrap()
}

#[test]
fn two_pods_on_one_port_and_the_host() {
    let host = Host::new();
    let network = host.network(&[]);
    let (a, b) = (new_netns().unwrap(), new_netns().unwrap());
    let first = host.with(|| network.attach(asks(&id(1), &[]), a.as_fd()).unwrap());
    let second = host.with(|| network.attach(asks(&id(2), &[]), b.as_fd()).unwrap());
    assert_ne!(first.ips, second.ips);
    let servers = [serve(&a, "a"), serve(&b, "b")];
    let (from_host, to) = (first.ips[0], second.ips[0]);
    assert_eq!(host.with(|| ask(from_host)), "a");
    assert_eq!(run_in(a.as_fd(), || Ok(ask(to))).unwrap(), "b");
    for server in servers {
        server.join().unwrap();
    }
}

#[test]
fn a_restart_keeps_addresses_and_removes_strangers() {
    let host = Host::new();
    let network = host.network(&[]);
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    let kept = host.with(|| network.attach(asks(&id(1), &[]), pods[0].as_fd()).unwrap());
    host.with(|| network.attach(asks(&id(2), &[]), pods[1].as_fd()).unwrap());
    let subnet = network.subnets();
    drop(network);
    let network = host.network(&[]);
    assert_eq!(network.subnets(), subnet);
    host.with(|| network.restore(&[(id(1), kept.clone())]).unwrap());
    let ports = host.with(|| {
        let routes = Routes::open().unwrap();
        routes.ports(routes.index(network.bridge()).unwrap().unwrap()).unwrap()
    });
    assert_eq!(
        ports.into_iter().map(|(_, name)| name).collect::<Vec<_>>(),
        vec![kept.host_interface.clone()]
    );
    let next = new_netns().unwrap();
    let third = host.with(|| network.attach(asks(&id(3), &[]), next.as_fd()).unwrap());
    assert_ne!(third.ips, kept.ips);
}

#[test]
fn a_reset_leaves_nothing() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24", "fd77::/64"]);
    let pod = new_netns().unwrap();
    host.with(|| network.attach(asks(&id(1), &[]), pod.as_fd()).unwrap());
    network.detach(&id(1), None);
    network.set_pod_cidr("10.77.0.0/24,fd77::/64").unwrap();
    host.with(|| network.reset().unwrap());
    host.with(|| network.reset().unwrap());
    let left = host.with(|| {
        let routes = Routes::open().unwrap();
        (routes.index(network.bridge()).unwrap(), routes.networks(false).unwrap())
    });
    assert_eq!(left.0, None);
    assert!(!left.1.iter().any(|route| route.network.to_string().starts_with("10.77.")), "{left:?}");
    assert_eq!(std::fs::read_dir(host.state.path()).unwrap().count(), 0);
}

#[test]
fn a_reset_waits_for_the_last_pod_and_the_next_one_makes_all_anew() {
    let host = Host::new();
    let network = host.network(&[]);
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    host.with(|| network.attach(asks(&id(1), &[]), pods[0].as_fd()).unwrap());
    let refused = host.with(|| network.reset_unused().unwrap_err().to_string());
    assert!(refused.contains("test/pod"), "{refused}");
    let bridge = || host.with(|| Routes::open().unwrap().index(network.bridge()).unwrap());
    assert!(bridge().is_some());
    network.detach(&id(1), None);
    host.with(|| network.reset_unused().unwrap());
    host.with(|| network.probe().unwrap());
    assert_eq!((bridge(), std::fs::read_dir(host.state.path()).unwrap().count()), (None, 0));
    let before = network.subnets();
    let second = host.with(|| network.attach(asks(&id(2), &[]), pods[1].as_fd()).unwrap());
    assert!(bridge().is_some());
    let server = serve(&pods[1], "anew");
    assert_eq!(host.with(|| ask(second.ips[0])), "anew");
    server.join().unwrap();
    // A daemon after this one has the same networks.
    assert_eq!(host.network(&[]).subnets(), before);
}

#[test]
fn what_no_pod_owns_is_collected() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/29"]);
    let ports = [map(Protocol::Tcp, 8080, "")];
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    let limited = Bandwidth { egress_rate: 8_000_000, egress_burst: 8_000_000, ..Default::default() };
    let kept = host.with(|| {
        let first = id(1);
        let limited = PodRequest { bandwidth: Some(limited), ..asks(&first, &[]) };
        let kept = network.attach(limited, pods[0].as_fd()).unwrap();
        network.attach(asks(&id(2), &ports), pods[1].as_fd()).unwrap();
        kept
    });
    let links = || {
        host.with(|| {
            let routes = Routes::open().unwrap();
            network.links(&routes, routes.index(network.bridge()).unwrap().unwrap()).unwrap()
        })
    };
    assert_eq!(links().len(), 3);
    let all = || HashSet::from([id(1), id(2)]);
    assert_eq!(host.with(|| network.collect(all).unwrap()), 0);
    assert_eq!(host.with(|| network.collect(|| HashSet::from([id(1)])).unwrap()), 2);
    let mut left = links();
    left.sort_unstable();
    assert_eq!(left, [kept.host_interface.clone(), kept.ifb.clone().unwrap()]);
    // Port and address are free: five addresses, one of them in use.
    for n in 3..7 {
        let netns = new_netns().unwrap();
        let ports = if n == 3 { &ports[..] } else { &[] };
        host.with(|| network.attach(asks(&id(n), ports), netns.as_fd()).unwrap());
    }
}

#[test]
fn a_failed_attach_gives_its_address_back() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/29"]);
    let no_netns = std::fs::File::open("/dev/null").unwrap();
    for n in 0..20 {
        host.with(|| network.attach(asks(&id(n), &[]), no_netns.as_fd()).unwrap_err());
    }
    let pod = new_netns().unwrap();
    host.with(|| network.attach(asks(&id(99), &[]), pod.as_fd()).unwrap());
}

#[test]
fn an_address_is_free_once_nobody_answers_for_it() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/29"]);
    let pods: Vec<OwnedFd> = (0..5).map(|_| new_netns().unwrap()).collect();
    let attach = |n: u8, netns: &OwnedFd| host.with(|| network.attach(asks(&id(n), &[]), netns.as_fd()));
    let attached: Vec<_> = (0..).zip(&pods).map(|(n, pod)| attach(n, pod).unwrap()).collect();
    host.with(|| network.detach(&id(0), Some(&attached[0])));
    let next = new_netns().unwrap();
    let refused = attach(9, &next).unwrap_err().to_string();
    assert!(refused.contains("every address"), "{refused}");
    drop(pods);
    assert_eq!(attach(9, &next).unwrap().ips, attached[0].ips);
}

#[test]
fn host_and_pod_know_where_the_other_is() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24", "fd77::/64"]);
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    let attach = |n: usize| host.with(|| network.attach(asks(&id(n as u8), &[]), pods[n].as_fd()).unwrap());
    let (one, two) = (attach(0), attach(1));
    let known = |interface: &str| {
        let routes = Routes::open()?;
        let mut found = routes.neighbours(routes.index(interface)?.unwrap())?;
        found.sort_unstable();
        Ok(found)
    };
    let on_the_bridge = || host.with(|| known(network.bridge()).unwrap());
    let all = |of: &[&Attachment]| {
        let mut ips: Vec<IpAddr> = of.iter().flat_map(|attached| attached.ips.clone()).collect();
        ips.sort_unstable();
        ips
    };
    assert_eq!(on_the_bridge(), all(&[&one, &two]));
    assert_eq!(run_in(pods[0].as_fd(), || known(POD_INTERFACE)).unwrap(), one.gateways);
    host.with(|| network.detach(&id(0), Some(&one)));
    assert_eq!(on_the_bridge(), two.ips);
    // What a daemon did not come to do, the next one does.
    drop(network);
    let network = host.network(&["10.77.0.0/24", "fd77::/64"]);
    host.with(|| network.restore(&[]).unwrap());
    assert!(host.with(|| known(network.bridge()).unwrap()).is_empty());
}

pub(crate) fn map(protocol: Protocol, host_port: u16, host_ip: &str) -> PortMapping {
    PortMapping { protocol, container_port: 80, host_port, host_ip: host_ip.into() }
}

/// A neighbour of the host, and the host's addresses towards it.
fn neighbour(host: &Host) -> (OwnedFd, [IpAddr; 2]) {
    let netns = new_netns().unwrap();
    let (own, other): ([IpAddr; 2], [IpAddr; 2]) = (
        ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
    );
    let set = |routes: &Routes, name: &str, ips: [IpAddr; 2]| {
        let index = routes.index(name)?.unwrap();
        for ip in ips {
            routes.add_address(index, ip, if ip.is_ipv4() { 24 } else { 64 })?;
        }
        routes.set_up(index)
    };
    host.with(|| {
        let routes = Routes::open().unwrap();
        routes.add_bridge("uplink", 1450, [2, 0, 0, 0, 0, 1]).unwrap();
        let master = routes.index("uplink").unwrap().unwrap();
        let veth = Veth {
            name: "up0",
            up: true,
            master: Some(master),
            mac: None,
            peer: "eth0",
            peer_netns: netns.as_fd(),
            peer_mac: None,
            mtu: 1450,
        };
        routes.add_veth(&veth).unwrap();
        set(&routes, "uplink", own).unwrap();
    });
    run_in(netns.as_fd(), || set(&Routes::open()?, "eth0", other)).unwrap();
    (netns, own)
}

#[test]
fn a_host_port_from_everywhere() {
    let host = Host::new();
    let (outside, own) = neighbour(&host);
    let network = host.network(&[]);
    assert_eq!(network.subnets().len(), 2);
    let (a, b) = (new_netns().unwrap(), new_netns().unwrap());
    let ports = [map(Protocol::Tcp, 8080, "")];
    let served = host.with(|| network.attach(asks(&id(1), &ports), a.as_fd()).unwrap());
    host.with(|| network.attach(asks(&id(2), &[]), b.as_fd()).unwrap());
    let gateways: Vec<IpAddr> = network.subnets().iter().map(|subnet| subnet.gateway()).collect();
    let loopbacks: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let mut problems = Vec::new();
    let mut check = |what: &str, at: &dyn Fn() -> std::io::Result<String>| {
        let server = serve(&a, "served");
        match at() {
            Ok(word) if word == "served" => server.join().unwrap(),
            other => {
                problems.push(format!("{what}: {other:?}"));
                // Ends the server that nobody asked.
                let _ = host.with(|| get((served.ips[0], 80)));
                server.join().unwrap();
            }
        }
    };
    for to in own {
        check(&format!("outside to {to}"), &|| run_in(outside.as_fd(), || get((to, 8080))));
        check(&format!("host to {to}"), &|| host.with(|| get((to, 8080))));
        check(&format!("another pod to {to}"), &|| run_in(b.as_fd(), || get((to, 8080))));
        check(&format!("the pod itself to {to}"), &|| run_in(a.as_fd(), || get((to, 8080))));
    }
    for to in gateways {
        check(&format!("another pod to {to}"), &|| run_in(b.as_fd(), || get((to, 8080))));
    }
    for to in loopbacks {
        check(&format!("host to {to}"), &|| host.with(|| get((to, 8080))));
    }
    assert!(problems.is_empty(), "{problems:#?}");
    host.with(|| network.detach(&id(1), None));
    let gone = run_in(outside.as_fd(), || get((own[0], 8080))).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_host_port_has_one_holder() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24"]);
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    let attach = |n: usize, ports: &[PortMapping]| {
        host.with(|| {
            let name = format!("test/pod-{n}");
            let id = id(n as u8);
            network.attach(PodRequest { id: &id, name: &name, ports, bandwidth: None }, pods[n].as_fd())
        })
    };
    attach(0, &[map(Protocol::Tcp, 8080, "")]).unwrap();
    let taken = attach(1, &[map(Protocol::Tcp, 8080, "127.0.0.1")]).unwrap_err().to_string();
    assert_eq!(taken, "the host's TCP port 8080 on 127.0.0.1 leads to pod test/pod-0 already");
    let _listener = host.with(|| TcpListener::bind(("127.0.0.1", 8081)).unwrap());
    let used = attach(1, &[map(Protocol::Tcp, 8081, "")]).unwrap_err().to_string();
    assert_eq!(used, "a process of the host listens on TCP port 8081");
    let none = attach(1, &[map(Protocol::Tcp, 8082, "::")]).unwrap_err().to_string();
    assert!(none.contains("no address of that IP version"), "{none}");
    // Nothing was kept of the refused: another protocol, then the port itself once it is given back.
    attach(1, &[map(Protocol::Udp, 8080, ""), map(Protocol::Sctp, 8080, "")]).unwrap();
    host.with(|| {
        network.detach(&id(0), None);
        network.detach(&id(1), None);
    });
    let again = new_netns().unwrap();
    let ports = [map(Protocol::Tcp, 8080, ""), map(Protocol::Udp, 8080, "")];
    host.with(|| network.attach(asks(&id(7), &ports), again.as_fd()).unwrap());
}

#[test]
fn ports_outlive_the_daemon_and_a_flushed_table() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24"]);
    let (a, b) = (new_netns().unwrap(), new_netns().unwrap());
    let ports = [map(Protocol::Tcp, 8080, "")];
    let kept = host.with(|| network.attach(asks(&id(1), &ports), a.as_fd()).unwrap());
    host.with(|| network.attach(asks(&id(2), &[map(Protocol::Tcp, 8081, "")]), b.as_fd()).unwrap());
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let answers = |port| {
        let server = serve(&a, "kept");
        let answer = host.with(|| get((loopback, port)));
        if answer.is_err() {
            let _ = host.with(|| get((kept.ips[0], 80)));
        }
        server.join().unwrap();
        answer
    };
    drop(network);
    assert_eq!(answers(8080).unwrap(), "kept", "with no daemon");
    let network = host.network(&["10.77.0.0/24"]);
    host.with(|| network.restore(&[(id(1), kept.clone())]).unwrap());
    assert_eq!(answers(8080).unwrap(), "kept", "after the restart");
    // The other pod is gone and so is its port.
    let next = new_netns().unwrap();
    host.with(|| network.attach(asks(&id(3), &[map(Protocol::Tcp, 8081, "")]), next.as_fd()).unwrap());
    host.with(|| nft::Tables::default().delete(&names::table("test")).unwrap());
    let after = new_netns().unwrap();
    host.with(|| network.attach(asks(&id(4), &[]), after.as_fd()).unwrap());
    assert_eq!(answers(8080).unwrap(), "kept", "after somebody flushed the ruleset");
    host.with(|| nft::Tables::default().delete(&names::table("test")).unwrap());
    host.with(|| network.probe().unwrap());
    assert_eq!(answers(8080).unwrap(), "kept", "and without a pod that comes");
}

#[test]
fn udp_flows_follow_the_port() {
    let host = Host::new();
    let (outside, own) = neighbour(&host);
    let network = host.network(&["10.77.0.0/24"]);
    let ports = [PortMapping { container_port: 53, ..map(Protocol::Udp, 5353, "") }];
    let client = run_in(outside.as_fd(), || UdpSocket::bind("192.0.2.2:4000")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.connect((own[0], 5353)).unwrap();
    for n in 1..=2 {
        let pod = new_netns().unwrap();
        host.with(|| network.attach(asks(&id(n), &ports), pod.as_fd()).unwrap());
        let server = run_in(pod.as_fd(), || UdpSocket::bind("0.0.0.0:53")).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send(&[n]).unwrap();
        let mut byte = [0];
        let (_, from) = server.recv_from(&mut byte).unwrap_or_else(|error| panic!("pod {n}: {error}"));
        server.send_to(&byte, from).unwrap();
        assert_eq!((client.recv(&mut byte).unwrap(), byte), (1, [n]));
        host.with(|| network.detach(&id(n), None));
        // The same client from the same port: without the flush it would be led to the pod that is gone.
    }
}

#[test]
fn flows_that_only_have_the_same_port_go_on() {
    let host = Host::new();
    let (outside, own) = neighbour(&host);
    let network = host.network(&["10.77.0.0/24"]);
    let (pod, other) = (new_netns().unwrap(), new_netns().unwrap());
    let attach = |n: u8, netns: &OwnedFd, ports: &[PortMapping]| {
        host.with(|| network.attach(asks(&id(n), ports), netns.as_fd()).unwrap())
    };
    let first =
        attach(1, &pod, &[PortMapping { container_port: 53, ..map(Protocol::Udp, 5353, "192.0.2.1") }]);
    let server =
        |netns: &OwnedFd, port: u16| run_in(netns.as_fd(), || UdpSocket::bind(("0.0.0.0", port))).unwrap();
    let asks_from = |netns: &OwnedFd, to: IpAddr, server: &UdpSocket| {
        let client = run_in(netns.as_fd(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        for socket in [&client, server] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        client.connect((to, 5353)).unwrap();
        client.send(b"?").unwrap();
        let (_, from) = server.recv_from(&mut [0]).unwrap();
        server.send_to(b"!", from).unwrap();
        client.recv(&mut [0]).unwrap();
    };
    // To somebody outside, and by the port of another pod.
    asks_from(&host.netns, "192.0.2.2".parse().unwrap(), &server(&outside, 5353));
    asks_from(&outside, own[0], &server(&pod, 53));
    let forgotten = |pods: &[IpAddr]| {
        host.with(|| {
            let own = Routes::open().unwrap().all_addresses().unwrap();
            berth_netlink::conntrack::forget(pods, &[(17, 5353)], &own).unwrap()
        })
    };
    let second = attach(2, &other, &[]);
    assert_eq!(forgotten(&second.ips), 0);
    // The host itself, where the port leads nowhere.
    host.with(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", "127.0.0.1:5353").unwrap());
    assert_eq!(forgotten(&first.ips), 2, "the pod's own, and the host's");
}

#[test]
fn a_port_that_nobody_in_the_pod_listens_at_is_refused() {
    let host = Host::new();
    let (outside, own) = neighbour(&host);
    let network = host.network(&[]);
    let (pod, other) = (new_netns().unwrap(), new_netns().unwrap());
    let ports = [map(Protocol::Tcp, 8080, ""), map(Protocol::Udp, 8080, "")];
    let attached = host.with(|| network.attach(asks(&id(1), &ports), pod.as_fd()).unwrap());
    host.with(|| network.attach(asks(&id(2), &[]), other.as_fd()).unwrap());
    let datagram = |to: IpAddr| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((to, 8080))?;
        socket.send(b"?")?;
        socket.recv(&mut [0])
    };
    let gateways = attached.gateways.clone();
    let loopbacks: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let ways = own.iter().map(|to| (&outside, *to)).chain(own.iter().map(|to| (&host.netns, *to)));
    let ways = ways.chain(loopbacks.map(|to| (&host.netns, to)));
    for (from, to) in ways.chain(gateways.iter().map(|to| (&other, *to))) {
        let answers =
            run_in(from.as_fd(), || Ok([get((to, 8080)).map(drop), datagram(to).map(drop)])).unwrap();
        let kinds = answers.map(|answer| answer.unwrap_err().kind());
        assert_eq!(kinds, [std::io::ErrorKind::ConnectionRefused; 2], "{to}");
    }
}

#[test]
fn the_host_is_not_reached_by_its_loopback() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24"]);
    let pod = new_netns().unwrap();
    let attached = host.with(|| network.attach(asks(&id(1), &[]), pod.as_fd()).unwrap());
    let listener = host.with(|| UdpSocket::bind("127.0.0.1:7000").unwrap());
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    run_in(pod.as_fd(), || {
        // The pod takes 127.0.0.0/8 off its own loopback and sends it to the host.
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?;
        let done = std::process::Command::new("ip")
            .args(["route", "replace", "127.0.0.1/32", "via", "10.77.0.1", "dev", "eth0", "table", "10"])
            .status()?;
        assert!(done.success());
        for rule in [&["rule", "add", "pref", "1", "lookup", "10"][..], &["rule", "del", "pref", "0"]] {
            let _ = std::process::Command::new("ip").args(rule).status()?;
        }
        let socket = UdpSocket::bind((attached.ips[0], 0))?;
        socket.send_to(b"x", "127.0.0.1:7000").map(drop)
    })
    .unwrap();
    let heard = listener.recv(&mut [0]).unwrap_err();
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_uplink_says_how_long_a_packet_may_be() {
    let host = Host::new();
    let (_outside, _) = neighbour(&host);
    let read = |text: &str| std::fs::read_to_string(text).unwrap().trim().to_owned();
    host.with(|| {
        let routes = Routes::open().unwrap();
        let uplink = routes.index("uplink").unwrap().unwrap();
        routes.apply([Change::default_route("192.0.2.2".parse().unwrap(), uplink)]).unwrap();
    });
    let network = host.network(&["10.77.0.0/24", "fd77::/64"]);
    assert_eq!(network.mtu, 1450);
    let pod = new_netns().unwrap();
    let attached = host.with(|| network.attach(asks(&id(1), &[]), pod.as_fd()).unwrap());
    assert_eq!(attached.ips, ["10.77.0.2", "fd77::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let inside = run_in(pod.as_fd(), || Ok(read("/proc/sys/net/ipv6/conf/eth0/accept_ra"))).unwrap();
    assert_eq!(inside, "0");
    // As the kernel of a host that forwards would forget its own default route.
    assert_eq!(host.with(|| read("/proc/sys/net/ipv6/conf/uplink/accept_ra")), "2");
    host.with(|| network.reset().unwrap());
    assert_eq!(host.with(|| read("/proc/sys/net/ipv6/conf/uplink/accept_ra")), "1");
    assert_eq!(host.with(|| read("/proc/sys/net/ipv6/conf/all/forwarding")), "0");
}

#[test]
fn limits_come_and_go_with_the_pod() {
    let host = Host::new();
    let network = host.network(&["10.77.0.0/24"]);
    let pod = new_netns().unwrap();
    let bits = 8_000_000;
    let bandwidth =
        Bandwidth { ingress_rate: bits, ingress_burst: bits, egress_rate: bits, egress_burst: bits };
    let id = id(1);
    let asks = PodRequest { bandwidth: Some(bandwidth), ..asks(&id, &[]) };
    let attached = host.with(|| network.attach(asks, pod.as_fd()).unwrap());
    let kinds = |name: &str| {
        let name = name.to_owned();
        host.with(move || {
            let routes = Routes::open().unwrap();
            routes.index(&name).unwrap().map(|index| routes.disciplines(index).unwrap())
        })
    };
    let ifb = attached.ifb.clone().unwrap();
    assert_eq!(kinds(&ifb).unwrap(), ["tbf"]);
    let of_host = kinds(&attached.host_interface).unwrap();
    assert!(["tbf", "ingress"].iter().all(|kind| of_host.iter().any(|has| has == kind)), "{of_host:?}");
    host.with(|| network.restore(&[(id.clone(), attached.clone())]).unwrap());
    assert!(kinds(&ifb).is_some());
    host.with(|| network.detach(&id, Some(&attached)));
    assert!(kinds(&ifb).is_none());
    let without = PodRequest { bandwidth: Some(Bandwidth { ingress_burst: 0, ..bandwidth }), ..asks };
    let refused = host.with(|| network.attach(without, pod.as_fd()).unwrap_err().to_string());
    assert!(refused.contains("a rate and a burst"), "{refused}");
}

#[test]
fn an_isolated_host_answers_its_ports_alone() {
    let host = Host::new();
    let config = NetworkConfig { isolate_host: true, ..host.network(&["10.77.0.0/24", "fd77::/64"]).config };
    let network = host.with(|| Network::open(config).unwrap());
    let (a, b) = (new_netns().unwrap(), new_netns().unwrap());
    let ports = [map(Protocol::Tcp, 8080, "")];
    let served = host.with(|| network.attach(asks(&id(1), &ports), a.as_fd()).unwrap());
    host.with(|| network.attach(asks(&id(2), &[]), b.as_fd()).unwrap());
    let service = host.with(|| TcpListener::bind("[::]:7000").unwrap());
    for gateway in network.subnets().iter().map(|subnet| subnet.gateway()) {
        let refused = run_in(b.as_fd(), || get((gateway, 7000))).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{gateway}");
        let server = serve(&a, "a");
        assert_eq!(run_in(b.as_fd(), || get((gateway, 8080))).unwrap(), "a");
        server.join().unwrap();
    }
    drop(service);
    // The host asks as before: answers to it begin nothing.
    let server = serve(&a, "a");
    assert_eq!(host.with(|| ask(served.ips[0])), "a");
    server.join().unwrap();
}
