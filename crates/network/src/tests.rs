//! Against the kernel, in a namespace that plays the host.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use berth_sys::netns::{new_netns, run_in};

struct Host {
    netns: OwnedFd,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let netns = new_netns().unwrap();
        run_in(netns.as_fd(), || Routes::open()?.set_up(1)).unwrap();
        Self { netns, state: tempfile::tempdir().unwrap() }
    }

    fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(self.netns.as_fd(), || Ok(work())).unwrap()
    }

    fn network(&self, subnet: Option<&str>) -> Network {
        let config = NetworkConfig {
            instance: "test".into(),
            bridge: None,
            subnet: subnet.map(|text| text.parse().unwrap()),
            mtu: None,
            state: self.state.path().into(),
        };
        self.with(|| Network::open(config).unwrap())
    }
}

fn id(n: u8) -> SandboxId {
    SandboxId::from_bytes([n; 32])
}

/// A pod that answers one connection on port 80 with its word.
fn serve(netns: &OwnedFd, word: &'static str) -> std::thread::JoinHandle<()> {
    let listener = run_in(netns.as_fd(), || TcpListener::bind(("0.0.0.0", 80))).unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(word.as_bytes()).unwrap())
}

fn ask(ip: IpAddr) -> String {
    let mut answer = String::new();
    let stream = TcpStream::connect_timeout(&(ip, 80).into(), Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (&stream).read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn two_pods_on_one_port_and_the_host() {
    let host = Host::new();
    let network = host.network(None);
    let (a, b) = (new_netns().unwrap(), new_netns().unwrap());
    let first = host.with(|| network.attach(&id(1), a.as_fd()).unwrap());
    let second = host.with(|| network.attach(&id(2), b.as_fd()).unwrap());
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
    let network = host.network(None);
    let pods = [new_netns().unwrap(), new_netns().unwrap()];
    let kept = host.with(|| network.attach(&id(1), pods[0].as_fd()).unwrap());
    host.with(|| network.attach(&id(2), pods[1].as_fd()).unwrap());
    let subnet = network.subnet();
    drop(network);
    let network = host.network(None);
    assert_eq!(network.subnet(), subnet);
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
    let third = host.with(|| network.attach(&id(3), next.as_fd()).unwrap());
    assert_ne!(third.ips, kept.ips);
}

#[test]
fn a_reset_leaves_nothing() {
    let host = Host::new();
    let network = host.network(Some("10.77.0.0/24"));
    let pod = new_netns().unwrap();
    host.with(|| network.attach(&id(1), pod.as_fd()).unwrap());
    network.detach(&id(1));
    host.with(|| network.reset().unwrap());
    host.with(|| network.reset().unwrap());
    let left = host.with(|| {
        let routes = Routes::open().unwrap();
        (routes.index(network.bridge()).unwrap(), routes.networks().unwrap())
    });
    assert_eq!(left.0, None);
    assert!(!left.1.iter().any(|(net, ..)| net.octets()[..2] == [10, 77]), "{left:?}");
    assert_eq!(std::fs::read_dir(host.state.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_attach_gives_its_address_back() {
    let host = Host::new();
    let network = host.network(Some("10.77.0.0/29"));
    let no_netns = std::fs::File::open("/dev/null").unwrap();
    for n in 0..20 {
        host.with(|| network.attach(&id(n), no_netns.as_fd()).unwrap_err());
    }
    let pod = new_netns().unwrap();
    host.with(|| network.attach(&id(99), pod.as_fd()).unwrap());
}
