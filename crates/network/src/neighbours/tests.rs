//! Rules written by nft(8) in a namespace of the test's own, and what is said of them.

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use super::*;

/// What is found with these tables.
fn found(script: &str) -> Vec<Finding> {
    found_on("berth0", None, script)
}

fn found_on(name: &str, other: Option<&str>, script: &str) -> Vec<Finding> {
    let netns = berth_sys::netns::new_netns().unwrap();
    berth_sys::netns::run_in(netns.as_fd(), || {
        use std::io::Write as _;
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        // It wants a brace that ends something on a line of its own.
        nft.stdin.take().unwrap().write_all(script.replace('}', "\n}\n").as_bytes())?;
        assert!(nft.wait()?.success(), "{script}");
        let network = |net: &str| {
            let at = |n: &str| format!("{net}{n}").parse::<IpAddr>().unwrap();
            PodNetwork { pod: at("2"), other: at("3"), gateway: Some(at("1")) }
        };
        let networks = ["10.85.0.", "fd85::"].map(network).into();
        let bridged = Bridged { name: name.into(), networks, other: other.map(str::to_owned) };
        let mut scenes = scenes(&Routes::open()?, &[bridged])?;
        for scene in &mut scenes {
            let own = if scene.pod.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
            let uplink = Interface { name: "eth0".into(), index: 3 };
            scene.uplink = Some((uplink, own.parse().unwrap()));
            scene.bridged_is_filtered = false;
        }
        findings(Reader::open()?, &scenes)
    })
    .unwrap()
}

fn traffics(found: &[Finding], version: u8) -> Vec<Traffic> {
    found.iter().filter(|f| f.ip_version == version && f.sure).map(|f| f.traffic).collect()
}

const FORWARDED: [Traffic; 3] = [Traffic::PodToOutside, Traffic::OutsideToPod, Traffic::PodToPodTranslated];

#[test]
fn nothing_stops_where_nobody_drops() {
    assert_eq!(found(""), []);
    let all = "table inet a { chain f { type filter hook forward priority 0; policy accept; ct state invalid drop; }
        chain n { type nat hook postrouting priority 100; policy accept; masquerade; } }";
    assert_eq!(found(all), []);
}

#[test]
fn a_policy_is_named_with_its_chain() {
    let drops = "table ip filter { chain DOCKER-USER { } chain FORWARD { type filter hook forward priority 0; policy drop; } }";
    let seen = found(drops);
    assert_eq!((traffics(&seen, 4), traffics(&seen, 6)), (FORWARDED.to_vec(), vec![]));
    assert_eq!(seen[0].by, "the policy of chain FORWARD (iptables, table filter)");
    assert!(seen[0].allow.starts_with("iptables -I DOCKER-USER -i berth0 -j ACCEPT"), "{}", seen[0].allow);
}

#[test]
fn pods_that_are_routed_meet_the_rules_for_what_is_passed_on() {
    let pairs = |script: &str| found_on("veth0a1b", Some("veth0c2d"), script);
    let seen =
        pairs("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }");
    let to_pods =
        [Traffic::PodToOutside, Traffic::OutsideToPod, Traffic::PodToPod, Traffic::PodToPodTranslated];
    assert_eq!((traffics(&seen, 4), traffics(&seen, 6)), (to_pods.to_vec(), vec![]));
    assert!(seen[0].what().contains("on interfaces veth* is stopped"), "{}", seen[0].what());
    let wanted = "iptables -I FORWARD -i veth+ -j ACCEPT && iptables -I FORWARD -o veth+ -j ACCEPT";
    assert_eq!(seen[0].allow, wanted);
    let input = "table inet f { chain i { type filter hook input priority 0; policy drop; ct state established accept; } }";
    let seen = pairs(input);
    assert_eq!(seen[0].allow, "nft insert rule inet f i iifname '\"veth*\"' accept");
    // By which interface a packet leaves counts.
    let other =
        "table inet f { chain f { type filter hook forward priority 0; oifname \"veth0c2d\" drop; } }";
    assert_eq!(traffics(&pairs(other), 6), [Traffic::PodToPod, Traffic::PodToPodTranslated]);
}

#[test]
fn sets_maps_ranges_and_jumps_are_followed() {
    let base = |rules: &str| {
        format!(
            "table inet f {{ set nets {{ type ipv4_addr; flags interval; elements = {{ 10.80.0.0/12 }} }}
             map to {{ type ifname : verdict; elements = {{ \"berth0\" : jump pods, \"other\" : drop }} }}
             chain pods {{ tcp dport 400-500 accept; udp dport 53 accept; }}
             chain last {{ reject; }}
             chain f {{ type filter hook forward priority 0; policy accept; ct state established,related accept; {rules} }} }}"
        )
    };
    let cases: [(&str, &[Traffic]); 7] = [
        ("ip saddr @nets drop", &[Traffic::PodToOutside, Traffic::PodToPodTranslated]),
        ("ip daddr != @nets tcp dport 80 reject", &[]),
        ("iifname vmap @to", &[]),
        ("iifname vmap { \"berth0\" : goto last }", &[Traffic::PodToOutside, Traffic::PodToPodTranslated]),
        ("iifname vmap @to; goto last", &[Traffic::OutsideToPod, Traffic::PodToPodTranslated]),
        ("ct status dnat accept; meta nfproto ipv4 drop", &[Traffic::PodToOutside]),
        ("meta mark set 0x4 ; meta mark & 0x4 == 0x4 accept; drop", &[]),
    ];
    for (rules, expected) in cases {
        let seen = found(&base(rules));
        assert_eq!(traffics(&seen, 4), expected, "{rules}: {seen:?}");
    }
}

#[test]
fn what_is_not_known_may_be() {
    let limited = "table inet f { chain f { type filter hook forward priority 0; policy drop; limit rate 5/second accept; } }";
    let seen = found(limited);
    assert!(seen.len() == 6 && seen.iter().all(|f| !f.sure), "{seen:?}");
    assert!(seen[0].to_string().contains("may be stopped"), "{}", seen[0]);
}

#[test]
fn input_and_output_are_the_hosts() {
    let input = "table inet f { chain i { type filter hook input priority 0; policy drop; ct state established accept; } }";
    assert_eq!(traffics(&found(input), 4), [Traffic::PodToHost]);
    let output = "table inet f { chain o { type filter hook output priority 0; oifname \"berth0\" drop; } }";
    assert_eq!(traffics(&found(output), 6), [Traffic::PodToHost, Traffic::HostToPod]);
}
