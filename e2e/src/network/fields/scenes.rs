//! The configurations that are compared, what of the machine belongs to them, and what may differ.

use std::path::Path;

use serde_json::{Value, json};

use crate::network::kind::{BRIDGE, NETWORK};

pub(in crate::network) struct Scene {
    pub(super) what: &'static str,
    /// Its name in the configuration.
    pub(super) network: &'static str,
    /// `None`: the lane's own, which is in use.
    pub(super) conf: Option<fn(&Path) -> Value>,
    pub(super) bridge: Option<&'static str>,
    /// Commands that prepare the machine.
    pub(super) before: &'static [&'static str],
    /// Whether the pod asks for a port and limits.
    pub(super) asks: bool,
    /// What may differ, and why it does: fields, and members of lists by the beginning of their text.
    pub(super) allowed: &'static [(&'static str, &'static str)],
    /// What is to be in-process where the programs say something else.
    pub(super) in_process: &'static [(&'static str, &'static str)],
    /// There are more fields than this.
    pub(super) least: usize,
}

pub(in crate::network) const SCENES: [Scene; 3] = [
    Scene {
        what: "the usual chain",
        network: NETWORK,
        conf: None,
        bridge: Some(BRIDGE),
        before: &[],
        asks: true,
        allowed: USUAL,
        in_process: &[],
        least: 500,
    },
    Scene {
        what: "ptp, static, tuning and loopback",
        network: "routed",
        conf: Some(routed),
        bridge: None,
        before: &[],
        asks: false,
        allowed: ROUTED,
        in_process: &[("pod.link.txqlen", "321")],
        least: 550,
    },
    Scene {
        what: "a bridge that was there, with the other options",
        network: "found",
        conf: Some(found),
        bridge: Some(FOUND),
        before: &[
            "ip link add lane2 type bridge",
            "ip address add 10.80.9.1/24 dev lane2",
            "ip address add fd00:80::1:9/120 dev lane2 nodad",
            "ip address add fd00:81::1/64 dev lane2 nodad",
            "ip link set lane2 up",
        ],
        asks: false,
        allowed: OPTIONS,
        in_process: &[
            ("port.link.linkinfo.info_slave_data.isolated", "true"),
            ("bridge.keeps its address", "true"),
        ],
        least: 700,
    },
];

/// The bridge that the lane makes itself, and takes away.
pub(in crate::network) const FOUND: &str = "lane2";

pub(super) const RESOLV_CONF: &str = "nameserver 10.80.0.53\nsearch a.test b.test\noptions ndots:3\n";

fn routed(home: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "routed",
        "plugins": [
            {
                "type": "ptp", "ipMasq": true, "mtu": 1400,
                "ipam": {
                    "type": "static",
                    "addresses": [
                        { "address": "10.79.0.2/24", "gateway": "10.79.0.1" },
                        { "address": "fd00:79::2/64", "gateway": "fd00:79::1" },
                    ],
                    "routes": [
                        { "dst": "0.0.0.0/0" }, { "dst": "10.99.0.0/16", "gw": "10.79.0.1" },
                        { "dst": "::/0" }, { "dst": "fd00:99::/48", "gw": "fd00:79::1" },
                    ],
                    "dns": {
                        "nameservers": ["10.79.0.53", "fd00:79::53"], "domain": "lane.test", "search": ["a.test"],
                        "options": ["ndots:2"],
                    },
                },
                "dns": {},
            },
            {
                "type": "tuning", "mac": "02:00:00:00:79:02", "mtu": 1380, "promisc": true, "allmulti": true, "txQLen": 321,
                "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "501" },
                "dataDir": home.join("tuning"),
            },
            { "type": "loopback" },
        ],
    })
}

fn found(home: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "found",
        "plugins": [{
            "type": "bridge", "bridge": FOUND, "isDefaultGateway": true, "forceAddress": true, "promiscMode": true,
            "portIsolation": true,
            "ipam": {
                "type": "host-local", "dataDir": home.join("ipam"), "resolvConf": home.join("resolv.conf"),
                "ranges": [
                    [{ "subnet": "10.80.0.0/24", "rangeStart": "10.80.0.20", "rangeEnd": "10.80.0.30", "gateway": "10.80.0.9" }],
                    [{ "subnet": "fd00:80::/64" }],
                ],
            },
        }],
    })
}

const ROUTED: &[(&str, &str)] = &[
    ("pod.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:79::2\"", ALONE),
    ("pod.tunables.eth0.ipv6.accept_dad", ALONE),
    ("port.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:79::1\"", ALONE),
    ("port.tunables.ipv6.accept_dad", ALONE),
    ("pod.tunables.eth0.ipv6.accept_ra", CVE),
    ("pod.link.txqlen", "the program of Debian's version does not know txQLen"),
    ("port.link.txqlen", QUEUE),
    ("tuning.POD_eth0.json.mode", BEFORE),
    ("tuning.POD_eth0.json.text", BEFORE),
];

const OPTIONS: &[(&str, &str)] = &[
    ("bridge.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:80::1\"", AT_ONCE),
    ("pod.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:80::2\"", AT_ONCE),
    ("pod.tunables.eth0.ipv6.accept_ra", CVE),
    ("port.tunables.ipv6.accept_ra", PORT),
    ("port.tunables.ipv6.disable_ipv6", PORT),
    ("port.addresses.addr_info {\"family\":\"inet6\",\"local\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL/64\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"ff00::/8\"", PORT),
    ("pod.link.txqlen", QUEUE),
    ("port.link.txqlen", QUEUE),
    (
        "port.link.linkinfo.info_slave_data.isolated",
        "the program of Debian's version does not know portIsolation",
    ),
    ("result.dns.nameservers \"10.80.0.53\"", RESOLVER),
    ("result.dns.search \"a.test\"", RESOLVER),
    ("result.dns.search \"b.test\"", RESOLVER),
    ("result.dns.options \"ndots:3\"", RESOLVER),
    ("ipam.lock.mode", LOCK),
];

const ALONE: &str = "who is alone with the host has no duplicates";
const BEFORE: &str = "the interface goes with its pod: nothing is to be put back";
const RESOLVER: &str = "the program of Debian's version drops what its IPAM says of DNS; later ones keep it";
const LOCK: &str = "nobody executes a lock";
const CVE: &str = "no pod tells another its routes (CVE-2020-10749)";

/// What leads a pod's packets to where they wait, with more that is done to them.
macro_rules! filter {
    ($more:literal) => {
        concat!(
            r#"port.filter {"chain":0,"kind":"u32","options":{"actions":["#,
            r#"{"bind":1,"control_action":{"type":"stolen"},"direction":"egress","index":1,"kind":"mirred","mirred_action":"redirect","order":1,"ref":1,"to_dev":"IFB"}"#,
            $more,
            r#"],"bkt":"0","fh":"800::800","flowid":"1:1","key_ht":"800","match":{"mask":"0","off":0,"offmask":"","value":"0"},"not_in_hw":true,"order":2048},"pref":1,"protocol":"all"}"#
        )
    };
}

/// What may differ, and why it does: fields, and members of lists by the beginning of their text.
const USUAL: &[(&str, &str)] = &[
    ("bridge.addresses.addr_info {\"family\":\"inet6\",\"local\":\"STAND-IN\"", STAND_IN),
    ("host.routes6 {\"dev\":\"lane0\",\"dst\":\"STAND-IN\"", STAND_IN),
    ("bridge.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:77::1\"", AT_ONCE),
    ("bridge.tunables.ipv6.accept_dad", AT_ONCE),
    ("pod.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:77::2\"", AT_ONCE),
    ("pod.tunables.eth0.ipv6.accept_ra", CVE),
    ("port.tunables.ipv6.accept_ra", PORT),
    ("port.tunables.ipv6.disable_ipv6", PORT),
    ("port.addresses.addr_info {\"family\":\"inet6\",\"local\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL/64\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"ff00::/8\"", PORT),
    (
        "ifb.tunables.ipv6.accept_ra",
        "the host goes on to learn routes while it forwards; the program's forgets its own",
    ),
    ("pod.link.txqlen", QUEUE),
    ("ifb.link.txqlen", QUEUE),
    (filter!(""), TWICE),
    (
        filter!(
            r#",{"bind":1,"control_action":{"type":"pass"},"direction":"egress","index":2,"kind":"mirred","mirred_action":"redirect","order":2,"ref":1,"to_dev":"IFB"}"#
        ),
        TWICE,
    ),
    ("ipam.lock.mode", LOCK),
];

const STAND_IN: &str = "it stands for ::1 on the way to a pod, which the program does not lead there";
const AT_ONCE: &str = "one gives all addresses of the network, so nobody is asked for duplicates";
const PORT: &str = "a port of a bridge speaks no IPv6 itself, and is up sooner without";
const TWICE: &str = "the program redirects each packet twice";
const QUEUE: &str = "the kernel's own length; the program asks for none";
