//! What fewer configurations ask for.

use super::super::link;
use super::*;

#[test]
fn a_bridge_hears_everything_or_gives_back_what_a_port_sent() {
    let host = Host::new();
    let both = host.known(json!({ "type": "bridge", "hairpinMode": true, "promiscMode": true }));
    let said = Pod::new(1).up(&host, &both, None).unwrap_err().to_string();
    assert!(said.contains("hairpinMode and promiscMode exclude each other"), "{said}");
    assert_eq!(host.with(|| host.plugins.status(&both, "net")).unwrap_err().to_string(), said);
}

#[test]
fn another_address_of_the_same_network_is_in_the_way() {
    let host = Host::new();
    let ipam =
        json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"), "subnet": "fd78::/64" });
    let conf = |force: bool| json!({ "type": "bridge", "bridge": "cni-test", "isGateway": true, "forceAddress": force, "ipam": ipam });
    host.with(|| {
        let routes = Routes::open().unwrap();
        routes.add_bridge("cni-test", 1500, [2, 0, 0, 0, 0, 1]).unwrap();
        let index = routes.index("cni-test").unwrap().unwrap();
        // The one is a part of the pods' network, the other is not.
        for (ip, prefix) in [("fd78::1:9", 120), ("fd79::9", 64)] {
            routes.add_address(index, ip.parse().unwrap(), prefix).unwrap();
        }
    });
    let pod = Pod::new(1);
    let said = pod.up(&host, &host.known(conf(false)), None).unwrap_err().to_string();
    assert!(said.contains("fd78::1:9/120") && said.contains("forceAddress"), "{said}");
    pod.up(&host, &host.known(conf(true)), None).unwrap();
    let found = host.with(|| {
        let routes = Routes::open().unwrap();
        let index = routes.index("cni-test").unwrap().unwrap();
        routes.addresses(index).unwrap()
    });
    let has = |ip: &str| found.iter().any(|(has, _)| has.to_string() == ip);
    assert!(has("fd78::1") && has("fd79::9") && !has("fd78::1:9"), "{found:?}");
}

#[test]
fn a_gateway_that_somebody_took_away_is_there_for_the_next_pod() {
    let host = Host::new();
    let ranges = json!([[{ "subnet": "10.78.0.0/24" }], [{ "subnet": "fd78::/64" }]]);
    let ipam = json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"), "ranges": ranges });
    let conf = json!({ "type": "bridge", "bridge": "cni-test", "isGateway": true, "ipam": ipam });
    let bridge = host.known(conf);
    let gateways = [("10.78.0.1", 24), ("fd78::1", 64)].map(|(ip, prefix)| (ip.parse().unwrap(), prefix));
    for n in 1..4 {
        let pod = Pod::new(n);
        pod.up(&host, &bridge, None).unwrap();
        host.with(|| {
            let routes = Routes::open().unwrap();
            let index = routes.index("cni-test").unwrap().unwrap();
            let found = routes.addresses(index).unwrap();
            for (ip, prefix) in gateways {
                assert_eq!(found.iter().filter(|one| **one == (ip, prefix)).count(), 1, "{n} {found:?}");
                routes.remove_address(index, ip, prefix).unwrap();
            }
        });
    }
}

#[test]
fn ears_and_queue_of_the_pods_interface() {
    let host = Host::new();
    let pod = Pod::new(1);
    let result = pod.up(&host, &host.bridge(), None).unwrap();
    let tuning = host.known(json!({ "type": "tuning", "allmulti": true, "txQLen": 321, "promisc": true }));
    let tuned = pod.up(&host, &tuning, Some(&result)).unwrap();
    let look = || run_in(pod.netns.as_fd(), || Routes::open()?.link("eth0")).unwrap().unwrap();
    let link = look();
    assert_eq!((link.all_multicast, link.queue_length, link.promiscuous), (true, 321, true));
    let check = || host.with(|| host.plugins.check(&tuning, &pod.call(Some(&tuned))));
    check().unwrap();
    for (change, words) in [(0, "allmulti is off, not on"), (1, "queue's length is 5, not 321")] {
        run_in(pod.netns.as_fd(), || {
            let routes = Routes::open()?;
            match change {
                0 => routes.set_all_multicast(link.index, false),
                _ => routes.set_queue_length(link.index, 5),
            }
        })
        .unwrap();
        let said = check().unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        pod.up(&host, &tuning, Some(&result)).unwrap();
    }
}

#[test]
fn a_program_does_not_see_who_listens() {
    let host = Host::new();
    let pod = Pod::with_port(1);
    let _listens = host.with(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let said = host.with(|| host.plugins.foresee("portmap", &pod.runtime)).unwrap_err().to_string();
    assert!(said.contains("a process of the host listens on TCP port 8080"), "{said}");
    for (kind, runtime) in [("portmap", &Pod::new(2).runtime), ("cilium-cni", &pod.runtime)] {
        host.with(|| host.plugins.foresee(kind, runtime)).unwrap();
    }
}

#[test]
fn an_address_that_another_pod_had_is_reached_at_once() {
    let host = Host::new();
    // Two addresses: who comes after the second pod has what that had.
    let ipam = json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"), "subnet": "10.78.0.0/24",
        "rangeStart": "10.78.0.2", "rangeEnd": "10.78.0.3" });
    let conf = host.known(json!({ "type": "bridge", "bridge": "cni-test", "isGateway": true, "ipam": ipam }));
    let asks = Pod::new(1);
    asks.up(&host, &conf, None).unwrap();
    let at = "10.78.0.3:80".parse().unwrap();
    let mut seen = Vec::new();
    // One known by its address, one that is given another hardware address and tells so, and one of the first kind.
    for (number, mac) in [(2, None), (3, Some("02:00:00:00:00:77")), (4, None)] {
        let mut pod = Pod::new(number);
        pod.runtime.mac = mac.map(str::to_owned);
        let result = pod.up(&host, &conf, None).unwrap();
        let served = pod.serve("here");
        let reached = run_in(asks.netns.as_fd(), || TcpStream::connect_timeout(&at, Duration::from_secs(2)));
        reached.unwrap_or_else(|error| panic!("{number}: {error}"));
        served.join().unwrap();
        let announces = "/proc/sys/net/ipv4/conf/eth0/arp_notify";
        assert_eq!(run_in(pod.netns.as_fd(), || std::fs::read_to_string(announces)).unwrap(), "1\n");
        host.with(|| host.plugins.del(&conf, &pod.call(Some(&result)))).unwrap();
        seen.push(result.interfaces[2].mac.clone());
    }
    assert_eq!(seen, ["0a:bf:0a:4e:00:03", "02:00:00:00:00:77", "0a:bf:0a:4e:00:03"]);
}

#[test]
fn a_pod_that_has_ended_does_not_answer_for_the_next_one() {
    for mut conf in
        [json!({ "type": "bridge", "bridge": "cni-test", "isGateway": true }), json!({ "type": "ptp" })]
    {
        let kind = conf["type"].to_string();
        let host = Host::new();
        let ipam = json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"),
            "ranges": [[{ "subnet": "10.77.0.0/24", "rangeStart": "10.77.0.2", "rangeEnd": "10.77.0.2" }],
                [{ "subnet": "fd77::/64", "rangeStart": "fd77::2", "rangeEnd": "fd77::2" }]] });
        conf["ipam"] = ipam;
        let conf = host.known(conf);
        // Somebody holds their namespaces: the kernel does not clear them.
        let mut ended = Vec::new();
        for number in 1..=3 {
            let pod = Pod::new(number);
            let result = pod.up(&host, &conf, None).unwrap();
            for at in ["10.77.0.2:80", "[fd77::2]:80"] {
                let served = pod.serve("here");
                let said = host.with(|| get(at.parse().unwrap()));
                assert_eq!(said.unwrap_or_else(|error| panic!("{kind}, {number}, {at}: {error}")), "here");
                served.join().unwrap();
            }
            host.with(|| host.plugins.del(&conf, &pod.call(Some(&result)))).unwrap();
            ended.push(pod);
        }
    }
}

#[test]
fn a_pod_that_comes_again_has_not_ended() {
    let host = Host::new();
    let ipam = json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"), "subnet": "10.76.0.0/24",
        "rangeStart": "10.76.0.2", "rangeEnd": "10.76.0.3" });
    let conf = host.known(json!({ "type": "bridge", "bridge": "cni-test", "isGateway": true, "ipam": ipam }));
    let [again, other] = [1, 2].map(Pod::new);
    let first = again.up(&host, &conf, None).unwrap();
    host.with(|| host.plugins.del(&conf, &again.call(Some(&first)))).unwrap();
    let second = again.up(&host, &conf, None).unwrap();
    let after = other.up(&host, &conf, None).unwrap();
    let addresses = [&first, &second, &after].map(|made| made.ips[0].address.address.to_string());
    assert_eq!(addresses, ["10.76.0.2", "10.76.0.3", "10.76.0.2"]);
    let served = again.serve("here");
    assert_eq!(host.with(|| get("10.76.0.3:80".parse().unwrap())).unwrap(), "here");
    served.join().unwrap();
}

#[test]
fn what_a_pod_sends_first_is_not_lost() {
    let host = Host::new();
    let ipam =
        json!({ "type": "host-local", "dataDir": host.state.path().join("ipam"), "subnet": "10.79.0.0/24" });
    let ptp = host.known(json!({ "type": "ptp", "ipam": ipam }));
    // The kernel drops what is sent before it says that an interface runs, and is asked here without making it hurry.
    let runs = |routes: &Routes, name: &str| {
        let found = routes.glance(name)?;
        std::io::Result::Ok(found.is_some_and(|found| found.is(nix::libc::IFF_RUNNING)))
    };
    let mut asleep = Vec::new();
    for plugin in [&host.bridge(), &ptp] {
        for number in 1..=100 {
            let pod = Pod::new(number);
            // At once, on the thread that connects it.
            let (result, ends) = host.with(|| {
                let (call, routes) = (pod.call(None), Routes::open().unwrap());
                host.plugins.come(Some(plugin), pod.netns.as_fd()).unwrap();
                let result = host.plugins.add(plugin, &call).unwrap();
                let outer = runs(&routes, &link::host_name(&call)).unwrap();
                let inner = run_in(pod.netns.as_fd(), || runs(&Routes::open()?, "eth0")).unwrap();
                (result, (outer, inner))
            });
            asleep.extend((ends != (true, true)).then_some((number, ends)));
            host.with(|| host.plugins.del(plugin, &pod.call(Some(&result)))).unwrap();
        }
    }
    let kernel = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = kernel.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    // Older kernels cannot be told to be quick.
    if (numbers.next(), numbers.next()) >= (Some(6), Some(8)) {
        assert!(asleep.is_empty(), "{asleep:?}");
    }
}
