//! What Debian's programs (containernetworking-plugins 1.1.1) cannot do by their design, and what they leave.

use super::kind::Kind;

pub(super) struct Limit {
    pub(super) kind: Kind,
    /// The check.
    pub(super) what: &'static str,
    pub(super) why: &'static str,
}

const fn programs(what: &'static str, why: &'static str) -> Limit {
    Limit { kind: Kind::Programs, what, why }
}

const LOOPBACK6: &str =
    "portmap leads 127.0.0.1 to pods by route_localnet, which the kernel has for IPv4 alone";

const SHORT_WAY: &str =
    "bridge's pods answer each other past who translated, unless br_netfilter translates on the bridge";

pub(super) const LIMITS: &[Limit] = &[
    programs("from the machine to ::1", LOOPBACK6),
    programs("a port on ::1 alone, from the machine", LOOPBACK6),
    programs("datagrams to ::1 where no pod listens are refused", LOOPBACK6),
    programs("datagrams to ::1 reach the first pod", LOOPBACK6),
    programs("datagrams to ::1 reach the second pod", LOOPBACK6),
    programs("at its port on ::1", LOOPBACK6),
    programs("a pod reaches another by its Service, without br_netfilter, IPv4", SHORT_WAY),
    programs("a pod reaches another by its Service, without br_netfilter, IPv6", SHORT_WAY),
];

pub(super) struct Leaves {
    pub(super) plugin: &'static str,
    pub(super) what: &'static str,
    /// The command that takes it away.
    pub(super) away: &'static str,
}

const fn left(plugin: &'static str, what: &'static str, away: &'static str) -> Leaves {
    Leaves { plugin, what, away }
}

pub(super) const LEAVES: &[Leaves] = &[
    left("bridge", "does not remove the bridge that it made", "ip link delete lane0"),
    left("bridge", "does not remove the other one either", "ip link delete lane1"),
    left("firewall", "does not remove its chains, IPv4", "nft delete table ip filter"),
    left("firewall", "does not remove its chains, IPv6", "nft delete table ip6 filter"),
    left("portmap", "does not remove its chains without pods, IPv4", "nft delete table ip nat"),
    left("portmap", "does not remove its chains without pods, IPv6", "nft delete table ip6 nat"),
    left(
        "bridge",
        "does not stop what it made the kernel forward, IPv4",
        "sysctl -q -w net.ipv4.ip_forward=0",
    ),
    left(
        "bridge",
        "does not stop what it made the kernel forward, IPv6",
        "sysctl -q -w net.ipv6.conf.all.forwarding=0",
    ),
];
