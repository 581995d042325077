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

pub(super) const OTHERS: [Other; 4] = [
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
