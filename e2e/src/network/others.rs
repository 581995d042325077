//! Rules in the form that well-known programs give them.

/// Who writes rules, and what they do to pods.
pub(super) struct Other {
    pub(super) name: &'static str,
    pub(super) here: &'static str,
    pub(super) away: &'static str,
    pub(super) stops: &'static [&'static str],
    /// What the status calls it by.
    pub(super) named: &'static str,
    /// The command that lets pods pass is of a program that is there.
    pub(super) has_programs: bool,
}

const FORWARDED4: &[&str] =
    &["pod_to_outside IPv4", "outside_to_pod IPv4", "pod_to_pod IPv4", "pod_to_pod_translated IPv4"];

/// Both tables of iptables over nf_tables.
const AWAY: &str = "nft delete table ip filter\nnft delete table ip6 filter 2>/dev/null || true\n";

macro_rules! docker {
    ($iptables:literal) => {
        concat!(
            "I=", $iptables, "\n",
            "$I -P FORWARD DROP\n",
            "for chain in DOCKER DOCKER-USER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2; do $I -N $chain; done\n",
            "$I -A FORWARD -j DOCKER-USER\n",
            "$I -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n",
            "$I -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
            "$I -A FORWARD -o docker0 -j DOCKER\n",
            "$I -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n",
            "$I -A FORWARD -i docker0 -o docker0 -j ACCEPT\n",
            "$I -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n",
            "$I -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n",
            "$I -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n",
            "$I -A DOCKER-USER -j RETURN\n",
        )
    };
}

pub(super) const OTHERS: [Other; 6] = [
    Other {
        name: "Docker, iptables over nf_tables",
        here: docker!("iptables-nft"),
        away: AWAY,
        stops: FORWARDED4,
        named: "the policy of chain FORWARD (iptables, table filter)",
        has_programs: true,
    },
    Other {
        name: "Docker, iptables-legacy",
        here: docker!("iptables-legacy"),
        away: "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F; iptables-legacy -X\n",
        stops: FORWARDED4,
        named: "(iptables-legacy, table filter)",
        has_programs: true,
    },
    Other {
        name: "firewalld",
        here: FIREWALLD,
        away: "nft delete table inet firewalld\n",
        // What is translated may pass; what pods begin may not.
        stops: &[
            "pod_to_outside IPv4",
            "pod_to_outside IPv6",
            "pod_to_pod IPv4",
            "pod_to_pod IPv6",
            "pod_to_host IPv4",
            "pod_to_host IPv6",
        ],
        named: "of chain inet firewalld filter_FORWARD (nftables)",
        has_programs: false,
    },
    Other {
        name: "ufw",
        here: UFW,
        away: AWAY,
        stops: &[
            "pod_to_outside IPv4",
            "pod_to_outside IPv6",
            "outside_to_pod IPv4",
            "outside_to_pod IPv6",
            "pod_to_pod IPv4",
            "pod_to_pod IPv6",
            "pod_to_pod_translated IPv4",
            "pod_to_pod_translated IPv6",
            "pod_to_host IPv4",
            "pod_to_host IPv6",
        ],
        named: "the policy of chain INPUT (ip6tables, table filter); to let it pass: ufw allow in on ",
        has_programs: false,
    },
    Other {
        name: "kube-proxy and kubelet, iptables",
        here: KUBE_IPTABLES,
        away: AWAY,
        stops: &[],
        named: "",
        has_programs: true,
    },
    Other {
        name: "kube-proxy, nftables",
        here: KUBE_NFTABLES,
        away: "nft delete table ip kube-proxy\n",
        stops: &[],
        named: "",
        has_programs: true,
    },
];

const FIREWALLD: &str = r#"nft -f - <<'END'
table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 addr-unreachable
    jump filter_FORWARD_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_OUTPUT {
    type filter hook output priority filter + 10; policy accept;
    ct state { established, related } accept
    oifname "lo" accept
    ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 addr-unreachable
  }
  chain filter_INPUT_ZONES {
    iifname "up0" goto filter_IN_public
    goto filter_IN_public
  }
  chain filter_IN_public {
    tcp dport 22 accept
    ip6 daddr fe80::/64 udp dport 546 accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
  chain filter_FORWARD_ZONES {
    iifname "up0" goto filter_FWD_public
    goto filter_FWD_public
  }
  chain filter_FWD_public {
    meta l4proto { icmp, ipv6-icmp } accept
  }
}
END
"#;

const UFW: &str = r"
for V in '' 6; do
I=ip${V}tables-nft
$I -P INPUT DROP; $I -P FORWARD DROP; $I -P OUTPUT ACCEPT
for hook in input forward output; do
  for kind in before user after; do $I -N ufw$V-$kind-$hook; done
done
$I -A INPUT -j ufw$V-before-input; $I -A INPUT -j ufw$V-user-input; $I -A INPUT -j ufw$V-after-input
$I -A FORWARD -j ufw$V-before-forward; $I -A FORWARD -j ufw$V-user-forward
$I -A OUTPUT -j ufw$V-before-output; $I -A OUTPUT -j ufw$V-user-output
$I -A ufw$V-before-input -i lo -j ACCEPT
$I -A ufw$V-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$I -A ufw$V-before-input -m conntrack --ctstate INVALID -j DROP
$I -A ufw$V-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$I -A ufw$V-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$I -A ufw$V-user-input -p tcp -m tcp --dport 22 -j ACCEPT
$I -A ufw$V-after-input -p udp -m udp --dport 137 -j DROP
done
ip6tables-nft -I ufw6-before-input -p icmpv6 -j ACCEPT
ip6tables-nft -I ufw6-before-forward -p icmpv6 -j ACCEPT
";

const KUBE_IPTABLES: &str = r"
I=iptables-nft
for chain in KUBE-FORWARD KUBE-SERVICES KUBE-EXTERNAL-SERVICES KUBE-NODEPORTS KUBE-FIREWALL KUBE-PROXY-FIREWALL; do $I -N $chain; done
new='-m conntrack --ctstate NEW -m comment --comment a-service'
$I -A INPUT $new -j KUBE-PROXY-FIREWALL
$I -A INPUT -j KUBE-NODEPORTS
$I -A INPUT $new -j KUBE-EXTERNAL-SERVICES
$I -A INPUT -j KUBE-FIREWALL
$I -A FORWARD $new -j KUBE-PROXY-FIREWALL
$I -A FORWARD -j KUBE-FORWARD
$I -A FORWARD $new -j KUBE-SERVICES
$I -A FORWARD $new -j KUBE-EXTERNAL-SERVICES
$I -A OUTPUT $new -j KUBE-SERVICES
$I -A OUTPUT -j KUBE-FIREWALL
$I -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
$I -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
$I -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
$I -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$I -A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
";

const KUBE_NFTABLES: &str = r#"nft -f - <<'END'
table ip kube-proxy {
  set cluster-ips {
    type ipv4_addr
    elements = { 10.96.0.20, 10.96.0.1 }
  }
  map no-endpoint-services {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 10.96.0.20 . tcp . 80 : goto reject-chain }
  }
  map firewall-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
  }
  chain filter-prerouting {
    type filter hook prerouting priority dstnat - 10; policy accept;
    ct state new jump firewall-check
  }
  chain filter-input {
    type filter hook input priority -110; policy accept;
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }
  chain firewall-check {
    ip daddr . meta l4proto . th dport vmap @firewall-ips
  }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
    ip daddr { 10.96.0.0/16 } drop comment "Drop traffic to unallocated ClusterIPs"
  }
  chain reject-chain {
    reject
  }
}
END
"#;
