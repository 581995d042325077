//! Against the kernel, in a namespace that plays the host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use berth_cni::{
    Bandwidth, Call, CniResult, Does, InProcess as _, InUse, Known, PluginError, PortMapping, RuntimeConfig,
    Version,
};
use berth_netlink::nft::{HeldState, Reader};
use berth_netlink::{Change, Routes, Veth};
use berth_sys::netns::{new_netns, run_in};
use serde_json::json;

use super::Plugins;

mod options;

struct Host {
    netns: OwnedFd,
    state: tempfile::TempDir,
    plugins: Plugins,
}

const POD: &str = "0123456789abcdef0123456789abcdef";

impl Host {
    fn new() -> Self {
        let netns = new_netns().unwrap();
        run_in(netns.as_fd(), || Routes::open()?.set_up(1)).unwrap();
        let state = tempfile::tempdir().unwrap();
        let plugins = run_in(netns.as_fd(), || Ok(Plugins::open("test", state.path()).unwrap())).unwrap();
        Self { netns, state, plugins }
    }

    fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(self.netns.as_fd(), || Ok(work())).unwrap()
    }

    fn known(&self, conf: serde_json::Value) -> Known {
        let known = Known::read(conf.as_object().unwrap()).unwrap();
        assert_eq!(self.plugins.does(&known), Does::Everything, "{conf}");
        known
    }

    fn bridge(&self) -> Known {
        self.known(json!({
            "type": "bridge", "bridge": "cni-test", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": { "type": "host-local", "dataDir": self.state.path().join("ipam"),
                "ranges": [[{ "subnet": "10.78.0.0/24" }], [{ "subnet": "fd78::/64" }]] },
        }))
    }

    fn ipam(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.state.path().join("ipam/net"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[derive(Debug)]
struct Pod {
    netns: OwnedFd,
    id: String,
    runtime: RuntimeConfig,
}

impl Pod {
    fn new(n: u8) -> Self {
        let id = format!("{}{n:02x}", &POD[2..]);
        Self { netns: new_netns().unwrap(), id, runtime: RuntimeConfig::default() }
    }

    fn call<'a>(&'a self, previous: Option<&'a CniResult>) -> Call<'a> {
        Call {
            network: "net",
            version: Version::V1_0_0,
            container: &self.id,
            interface: "eth0",
            netns: Some(self.netns.as_fd()),
            sandbox: "/run/netns/x",
            namespace: "test",
            name: "pod",
            runtime: &self.runtime,
            previous,
        }
    }

    /// Its port 80 is the host's 8080.
    fn with_port(number: u8) -> Self {
        let mut pod = Self::new(number);
        pod.runtime.port_mappings = Some(vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "tcp".into(),
            host_ip: String::new(),
        }]);
        pod
    }

    fn up(
        &self,
        host: &Host,
        plugin: &Known,
        previous: Option<&CniResult>,
    ) -> Result<CniResult, PluginError> {
        host.with(|| {
            if previous.is_none() {
                host.plugins.come(Some(plugin), self.netns.as_fd())?;
            }
            host.plugins.add(plugin, &self.call(previous))
        })
    }

    /// Answers one connection on port 80.
    fn serve(&self, word: &'static str) -> std::thread::JoinHandle<()> {
        let listener = run_in(self.netns.as_fd(), || TcpListener::bind(("::", 80))).unwrap();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(word.as_bytes()).unwrap())
    }
}

fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_bridge_with_addresses_of_its_own_directory() {
    let host = Host::new();
    let bridge = host.bridge();
    let (a, b) = (Pod::new(1), Pod::new(2));
    let result = a.up(&host, &bridge, None).unwrap();
    let names: Vec<&str> = result.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!((names[0], names[2]), ("cni-test", "eth0"));
    assert_eq!(result.interfaces[2].sandbox, "/run/netns/x");
    let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["10.78.0.2/24", "fd78::2/64"]);
    assert_eq!(result.ips[1].gateway, Some("fd78::1".parse().unwrap()));
    assert_eq!(host.ipam(), ["10.78.0.2", "fd78::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    let file = std::fs::read_to_string(host.state.path().join("ipam/net/10.78.0.2")).unwrap();
    assert_eq!(file, format!("{}\r\neth0", a.id));
    let other = b.up(&host, &bridge, None).unwrap();
    for ip in result.addresses("eth0") {
        let server = a.serve("a");
        assert_eq!(run_in(b.netns.as_fd(), || get((ip, 80).into())).unwrap(), "a");
        server.join().unwrap();
    }
    host.with(|| host.plugins.check(&bridge, &a.call(Some(&result)))).unwrap();
    // The same call again, as after one that was cut off: new interfaces, the same addresses.
    assert_eq!(b.up(&host, &bridge, None).unwrap().ips, other.ips);
    host.with(|| host.plugins.del(&bridge, &a.call(Some(&result)))).unwrap();
    host.with(|| host.plugins.del(&bridge, &a.call(None))).unwrap();
    assert!(host.with(|| host.plugins.check(&bridge, &a.call(Some(&result)))).is_err());
    let used = [InUse { container: b.id.clone(), interface: "eth0".into() }];
    host.with(|| host.plugins.gc(&bridge, "net", &used)).unwrap();
    host.with(|| host.plugins.check(&bridge, &b.call(Some(&other)))).unwrap();
    host.with(|| host.plugins.gc(&bridge, "net", &[])).unwrap();
    assert_eq!(host.ipam(), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    host.with(|| host.plugins.reset()).unwrap();
    assert!(host.with(|| Routes::open().unwrap().index("cni-test").unwrap()).is_none());
}

#[test]
fn ports_of_the_host_and_a_new_daemon() {
    let host = Host::new();
    let bridge = host.bridge();
    let portmap = host.known(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    let port = |host_port, host_ip: &str| PortMapping {
        host_port,
        container_port: 80,
        protocol: "tcp".into(),
        host_ip: host_ip.into(),
    };
    let mut a = Pod::new(1);
    a.runtime.port_mappings = Some(vec![port(8080, "")]);
    let result = a.up(&host, &bridge, None).unwrap();
    let result = a.up(&host, &portmap, Some(&result)).unwrap();
    let reached = |from: &OwnedFd, to: &str| {
        let server = a.serve("a");
        let answer = run_in(from.as_fd(), || get(SocketAddr::new(to.parse().unwrap(), 8080)));
        if answer.is_err() {
            let _ = host.with(|| get((result.addresses("eth0")[0], 80).into()));
        }
        server.join().unwrap();
        answer.unwrap_or_else(|error| format!("{to}: {error}"))
    };
    for to in ["127.0.0.1", "::1", "10.78.0.1", "fd78::1"] {
        assert_eq!(reached(&host.netns, to), "a", "from the host to {to}");
    }
    for to in ["10.78.0.1", "fd78::1"] {
        assert_eq!(reached(&a.netns, to), "a", "from the pod itself to {to}");
    }
    let mut b = Pod::new(2);
    b.runtime.port_mappings = Some(vec![port(8080, "127.0.0.1")]);
    let of_b = b.up(&host, &bridge, None).unwrap();
    let taken = b.up(&host, &portmap, Some(&of_b)).unwrap_err();
    assert!(taken.to_string().contains("leads to pod test/pod already"), "{taken}");
    assert_eq!(taken.class, Some(berth_ids::ErrorClass::FailedPrecondition));
    host.with(|| host.plugins.check(&portmap, &a.call(Some(&result)))).unwrap();
    // Another daemon knows who holds what, and makes the table anew.
    let next = host.with(|| Plugins::open("test", host.state.path()).unwrap());
    host.with(|| berth_netlink::nft::Tables::default().delete("berth-test-plugins")).unwrap();
    host.with(|| next.restore()).unwrap();
    assert_eq!(reached(&host.netns, "127.0.0.1"), "a");
    // Somebody flushed it: who asks how the plugin is mends it.
    host.with(|| berth_netlink::nft::Tables::default().delete("berth-test-plugins")).unwrap();
    host.with(|| next.status(&bridge, "net")).unwrap();
    assert_eq!(reached(&host.netns, "127.0.0.1"), "a");
    assert!(host.with(|| next.add(&portmap, &b.call(Some(&of_b)))).is_err());
    host.with(|| next.del(&portmap, &a.call(Some(&result)))).unwrap();
    host.with(|| next.add(&portmap, &b.call(Some(&of_b)))).unwrap();
}

#[test]
fn ports_of_a_pod_that_a_program_connected() {
    let host = Host::new();
    let bridge = host.bridge();
    let portmap = host.known(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    // Whose interface it is, this one knows as little as of a program's.
    let state = tempfile::tempdir().unwrap();
    let plugins = host.with(|| Plugins::open("own", state.path()).unwrap());
    let pod = Pod::with_port(1);
    let result = pod.up(&host, &bridge, None).unwrap();
    let result = host.with(|| plugins.add(&portmap, &pod.call(Some(&result)))).unwrap();
    let recorded = plugins.rules_of(&pod.id);
    let there = || {
        let held = host.with(|| Reader::open().unwrap().held(&recorded.table, &recorded.pod, None).unwrap());
        held.into_iter()
            .filter(|held| held.state == HeldState::There)
            .map(|held| held.set)
            .collect::<Vec<_>>()
    };
    assert_eq!(there(), ["pods4", "pods6", "itself4", "itself6", "ports4", "ports6"]);
    host.with(|| plugins.del(&portmap, &pod.call(Some(&result)))).unwrap();
    assert!(there().is_empty(), "{:?}", there());
    let files: Vec<_> =
        std::fs::read_dir(state.path().join("plugins")).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.iter().all(|file| file.ends_with("bridges")), "{files:?}");
    host.with(|| plugins.del(&portmap, &pod.call(Some(&result)))).unwrap();
    // The interface's plugin gives back the rest, also where it is done here too.
    host.with(|| host.plugins.del(&portmap, &pod.call(Some(&result)))).unwrap();
    host.with(|| host.plugins.del(&bridge, &pod.call(Some(&result)))).unwrap();
    assert_eq!(host.ipam(), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
}

#[test]
fn a_bridge_of_somebody_elses_is_as_it_was_after_a_reset() {
    let host = Host::new();
    host.with(|| Routes::open().unwrap().add_bridge("cni-test", 1500, [2, 0, 0, 0, 0, 1]).unwrap());
    let seen = || {
        let localnet = std::fs::read_to_string("/proc/sys/net/ipv4/conf/cni-test/route_localnet").unwrap();
        let routes = Routes::open().unwrap();
        let addresses = routes.addresses(routes.index("cni-test").unwrap().unwrap()).unwrap();
        (localnet.trim().to_owned(), addresses.iter().filter(|(_, prefix)| *prefix == 128).count())
    };
    let portmap = host.known(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    let pod = Pod::with_port(1);
    let bridge = host.bridge();
    let result = pod.up(&host, &bridge, None).unwrap();
    let result = pod.up(&host, &portmap, Some(&result)).unwrap();
    assert_eq!(host.with(seen), ("1".to_owned(), 1));
    for plugin in [&portmap, &bridge] {
        host.with(|| host.plugins.del(plugin, &pod.call(Some(&result)))).unwrap();
    }
    // As after a restart.
    let next = host.with(|| Plugins::open("test", host.state.path()).unwrap());
    for _ in 0..2 {
        host.with(|| next.reset()).unwrap();
        assert_eq!(host.with(seen), ("0".to_owned(), 0));
    }
}

#[test]
fn a_bridge_is_recorded_as_ours_before_it_is_there() {
    let host = Host::new();
    let bridge = host.bridge();
    let there = || host.with(|| Routes::open().unwrap().index("cni-test").unwrap().is_some());
    // Nothing can be recorded where the directory would be.
    std::fs::write(host.state.path().join("plugins"), "").unwrap();
    assert!(Pod::new(1).up(&host, &bridge, None).is_err());
    assert!(!there());
    std::fs::remove_file(host.state.path().join("plugins")).unwrap();
    // One that somebody else makes at this moment stays theirs.
    let made = host.with(|| {
        host.plugins.rules.make("cni-test", || {
            Routes::open()?.add_bridge("cni-test", 1500, [2, 0, 0, 0, 0, 1])?;
            Err(std::io::ErrorKind::AlreadyExists.into())
        })
    });
    made.unwrap();
    host.with(|| host.plugins.reset()).unwrap();
    assert!(there());
    // One that was being made when the daemon was killed is ours.
    host.with(|| {
        Routes::open().unwrap().delete_link(Routes::open().unwrap().index("cni-test").unwrap().unwrap())
    })
    .unwrap();
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        host.with(|| {
            host.plugins.rules.make("cni-test", || {
                Routes::open()?.add_bridge("cni-test", 1500, [2, 0, 0, 0, 0, 1])?;
                panic!("killed")
            })
        })
    }));
    assert!(killed.is_err() && there());
    let next = host.with(|| Plugins::open("test", host.state.path()).unwrap());
    host.with(|| next.reset()).unwrap();
    assert!(!there());
}

/// Bits a second of a transfer of `bytes` from one namespace to another.
fn speed(from: &OwnedFd, to: &OwnedFd, at: IpAddr, bytes: usize) -> f64 {
    let listener = run_in(to.as_fd(), || TcpListener::bind((at, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
        let mut since = Instant::now();
        loop {
            let read = stream.read(&mut buffer).unwrap();
            if read == 0 {
                return (total as f64) * 8.0 / since.elapsed().as_secs_f64();
            }
            // The burst comes at once; what follows shows the rate.
            if since.elapsed() < Duration::from_millis(200) && total == 0 {
                total = 1;
            }
            total += read;
            if total < 400_000 {
                (total, since) = (total, Instant::now());
            }
        }
    });
    run_in(from.as_fd(), || {
        let mut stream = TcpStream::connect((at, port))?;
        stream.write_all(&vec![0; bytes])
    })
    .unwrap();
    receiver.join().unwrap()
}

#[test]
fn what_a_pod_sends_and_receives_keeps_to_its_rates() {
    let host = Host::new();
    let bridge = host.bridge();
    let bandwidth = host.known(json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }));
    let mut pod = Pod::new(1);
    let (ingress, egress) = (20_000_000, 40_000_000);
    pod.runtime.bandwidth = Some(Bandwidth {
        ingress_rate: ingress,
        ingress_burst: 800_000,
        egress_rate: egress,
        egress_burst: 800_000,
    });
    let result = pod.up(&host, &bridge, None).unwrap();
    let ip = result.addresses("eth0")[0];
    let gateway: IpAddr = "10.78.0.1".parse().unwrap();
    let free = speed(&host.netns, &pod.netns, ip, 20_000_000);
    assert!(free > 200e6, "{free} bits a second without a limit");
    let result = pod.up(&host, &bandwidth, Some(&result)).unwrap();
    let ifb = result.interfaces.last().unwrap().name.clone();
    assert!(ifb.starts_with("bwp") && ifb.len() == 15, "{ifb}");
    host.with(|| host.plugins.check(&bandwidth, &pod.call(Some(&result)))).unwrap();
    for (what, from, to, at, rate) in [
        ("receives", &host.netns, &pod.netns, ip, ingress),
        ("sends", &pod.netns, &host.netns, gateway, egress),
    ] {
        let found = speed(from, to, at, usize::try_from(rate / 8 * 2).unwrap());
        let share = found / rate as f64;
        assert!((0.85..=1.15).contains(&share), "{what} {found:.0} bits a second instead of {rate}");
    }
    host.with(|| host.plugins.del(&bandwidth, &pod.call(Some(&result)))).unwrap();
    assert!(host.with(|| Routes::open().unwrap().index(&ifb).unwrap()).is_none());
    host.with(|| host.plugins.del(&bandwidth, &pod.call(Some(&result)))).unwrap();
}

#[test]
fn a_pod_alone_with_the_host() {
    let host = Host::new();
    let ptp = host.known(json!({
        "type": "ptp", "ipMasq": true,
        "ipam": { "type": "host-local", "dataDir": host.state.path().join("ipam"),
            "ranges": [[{ "subnet": "10.79.0.0/24" }], [{ "subnet": "fd79::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] },
    }));
    let (a, b) = (Pod::new(1), Pod::new(2));
    let of_a = a.up(&host, &ptp, None).unwrap();
    let of_b = b.up(&host, &ptp, None).unwrap();
    for ip in of_a.addresses("eth0") {
        for from in [&host.netns, &b.netns] {
            let server = a.serve("a");
            assert_eq!(run_in(from.as_fd(), || get((ip, 80).into())).unwrap(), "a", "{ip}");
            server.join().unwrap();
        }
    }
    host.with(|| host.plugins.del(&ptp, &b.call(Some(&of_b)))).unwrap();
    assert!(!host.ipam().contains(&"10.79.0.3".to_owned()));
}

#[test]
fn loopback_and_tunables() {
    let host = Host::new();
    let pod = Pod::new(1);
    let result = pod.up(&host, &Known::Loopback, None).unwrap();
    let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["127.0.0.1/8", "::1/128"]);
    host.with(|| host.plugins.check(&Known::Loopback, &pod.call(None))).unwrap();
    // Whoever connects a pod.
    for (n, first) in [(2, Some(host.bridge())), (3, None)] {
        let pod = Pod::new(n);
        match first {
            Some(plugin) => drop(pod.up(&host, &plugin, None).unwrap()),
            None => host.plugins.come(None, pod.netns.as_fd()).unwrap(),
        }
        host.with(|| host.plugins.check(&Known::Loopback, &pod.call(None))).unwrap();
    }
    let result = pod.up(&host, &host.bridge(), None).unwrap();
    let tuning = host.known(json!({
        "type": "tuning", "sysctl": { "net.core.somaxconn": "567", "net.ipv4.conf.IFNAME.arp_filter": "1" },
        "mac": "02:00:00:00:00:77", "mtu": 1400, "promisc": true,
        "dataDir": host.state.path().join("tuning"),
    }));
    let tuned = pod.up(&host, &tuning, Some(&result)).unwrap();
    assert_eq!(tuned.interfaces[2].mac, "02:00:00:00:00:77");
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
    let inside = run_in(pod.netns.as_fd(), || {
        Ok((
            read("core/somaxconn"),
            read("ipv4/conf/eth0/arp_filter"),
            Routes::open()?.link("eth0")?.unwrap(),
        ))
    })
    .unwrap();
    assert_eq!((inside.0.trim(), inside.1.trim()), ("567", "1"));
    assert_eq!((inside.2.mtu, inside.2.promiscuous), (1400, true));
    host.with(|| host.plugins.check(&tuning, &pod.call(Some(&tuned)))).unwrap();
    run_in(pod.netns.as_fd(), || std::fs::write("/proc/sys/net/core/somaxconn", "9")).unwrap();
    assert!(host.with(|| host.plugins.check(&tuning, &pod.call(Some(&tuned)))).is_err());
    host.with(|| host.plugins.del(&tuning, &pod.call(Some(&tuned)))).unwrap();
}

#[test]
fn addresses_that_are_asked_for_and_those_that_run_out() {
    let host = Host::new();
    let bridge = host.known(json!({
        "type": "bridge", "bridge": "cni-test", "isGateway": true, "capabilities": { "ips": true },
        "ipam": { "type": "host-local", "dataDir": host.state.path().join("ipam"), "subnet": "10.78.0.0/29" },
    }));
    let asks = |n: u8, ip: &str| {
        let mut pod = Pod::new(n);
        pod.runtime.ips = (!ip.is_empty()).then(|| vec![ip.to_owned()]);
        let made = pod.up(&host, &bridge, None);
        made.map(|result| (result.addresses("eth0")[0].to_string(), pod))
    };
    let (given, _first) = asks(1, "10.78.0.5").unwrap();
    assert_eq!(given, "10.78.0.5");
    assert!(asks(2, "10.78.0.5").unwrap_err().to_string().contains("another pod's"));
    assert!(asks(2, "10.78.0.1").unwrap_err().to_string().contains("the gateway's"));
    assert!(asks(2, "10.9.0.1").unwrap_err().to_string().contains("none of the ranges"));
    let rest: Vec<_> = (2..6).map(|n| asks(n, "").unwrap()).collect();
    assert!(!rest.iter().any(|(ip, _)| ip == "10.78.0.5"));
    let full = asks(9, "").unwrap_err().to_string();
    assert!(full.contains("10.78.0.1-10.78.0.6") && full.contains("in use"), "{full}");
    let class = asks(9, "").unwrap_err().class;
    assert_eq!(class, Some(berth_ids::ErrorClass::ResourceExhausted));
    assert!(host.plugins.status(&bridge, "net").is_err());
}

#[test]
fn a_bridge_without_a_free_port_says_so() {
    let host = Host::new();
    let bridge = host.bridge();
    let first = Pod::new(1);
    let result = first.up(&host, &bridge, None).unwrap();
    let elsewhere = new_netns().unwrap();
    let port = |at: usize, master| {
        let (name, peer, peer_netns) = (format!("port{at}"), format!("end{at}"), elsewhere.as_fd());
        let (name, peer) = (name.as_str(), peer.as_str());
        Change::veth(&Veth { name, mac: None, up: false, master, peer, peer_netns, peer_mac: None, mtu: 0 })
    };
    host.with(|| {
        let routes = Routes::open().unwrap();
        let master = routes.index("cni-test").unwrap();
        // As many as there can be, with the pod's own.
        for at in 1..1023 {
            routes.apply([port(at, master)]).unwrap();
        }
    });
    let full = Pod::new(2).up(&host, &bridge, None).unwrap_err();
    assert_eq!(full.class, Some(berth_ids::ErrorClass::ResourceExhausted), "{full}");
    assert!(full.to_string().contains("bridge cni-test leads to 1023 pods"), "{full}");
    // Neither an address nor a record of it is left.
    assert_eq!(host.ipam(), ["10.78.0.2", "fd78::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    host.with(|| host.plugins.del(&bridge, &first.call(Some(&result)))).unwrap();
}
