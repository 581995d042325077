//! The rules of kube-proxy in its modes iptables and nftables, and those of the kubelet beside them: tables, chains, their order,
//! marks and priorities are those of Kubernetes 1.33 (pkg/proxy/iptables, pkg/proxy/nftables).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::machine::{OWN, ip};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Iptables,
    Nftables,
}

/// One port of a Service, TCP.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) at: SocketAddr,
    pub(super) node_port: u16,
    /// None: whoever asks is told so.
    pub(super) endpoints: Vec<SocketAddr>,
    /// `externalTrafficPolicy: Local`: who asks from outside keeps its address.
    pub(super) local: bool,
}

/// A Service's address: of the networks that kubeadm has for them.
pub(super) fn cluster_ip(v6: bool, number: u8) -> IpAddr {
    ip(&if v6 { format!("fd00:10:96::{number}") } else { format!("10.96.0.{number}") })
}

const NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Iptables, Self::Nftables];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "kube-proxy and kubelet, iptables",
            Self::Nftables => "kube-proxy, nftables",
        }
    }

    /// The script that writes its rules for one IP version, on a node whose pods are of one network.
    pub(super) fn here(self, v6: bool, pods: &str, services: &[Service]) -> String {
        match self {
            Self::Iptables => iptables(v6, pods, services),
            Self::Nftables => nftables(v6, pods, services),
        }
    }

    /// Takes them away, and leaves what others have in the same tables.
    pub(super) fn away(self) -> &'static str {
        match self {
            Self::Iptables => {
                "for V in '' 6; do\n\
                 I=ip${V}tables-nft\n\
                 for table in filter nat; do\n\
                 $I-save -t $table | grep -v KUBE- | $I-restore -T $table\n\
                 $I-save -t $table | grep -q '^-A' || nft delete table ip$V $table\n\
                 done\n\
                 done\n"
            }
            Self::Nftables => "nft delete table ip kube-proxy\nnft delete table ip6 kube-proxy\n",
        }
    }
}

/// kube-proxy's names end with a hash of what they are for, of 16 letters.
fn hash(text: &str) -> String {
    let letters =
        text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase() as char);
    letters.chain(std::iter::repeat('A')).take(16).collect()
}

/// What leads from the kernel's chains to its own, what passes what it translated on, and the kubelet's own.
const FILTER: &str = "
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-FIREWALL - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment \"services from outside\" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"services from outside\" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment \"ports for probes of load balancers\" -j KUBE-NODEPORTS
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"services\" -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"services\" -j KUBE-SERVICES
-I FORWARD -m comment --comment \"forwarding\" -j KUBE-FORWARD
-I INPUT -m conntrack --ctstate NEW -m comment --comment \"load balancers\" -j KUBE-PROXY-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"load balancers\" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"load balancers\" -j KUBE-PROXY-FIREWALL
-I INPUT -j KUBE-FIREWALL
-I OUTPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
";

/// Of the kubelet, and of IPv4 alone (CVE-2020-8558).
const MARTIANS: &str = "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 \
    -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n";

const NAT: &str = "
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-I PREROUTING -m comment --comment \"services\" -j KUBE-SERVICES
-I OUTPUT -m comment --comment \"services\" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment \"services\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"what needs another source\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

fn iptables(v6: bool, pods: &str, services: &[Service]) -> String {
    let (program, refused) = if v6 {
        ("ip6tables-nft", "icmp6-port-unreachable")
    } else {
        ("iptables-nft", "icmp-port-unreachable")
    };
    let mut filter = String::from(FILTER);
    if !v6 {
        filter.push_str(MARTIANS);
    }
    let (mut chains, mut nat) = (String::new(), String::new());
    for Service { name, at, node_port, endpoints, local } in services {
        let (to, port) = (at.ip(), at.port());
        let tcp = format!("-p tcp -m comment --comment \"demo/{name}\" -m tcp --dport");
        if endpoints.is_empty() {
            let reject = format!("-j REJECT --reject-with {refused}\n");
            let _ = write!(filter, "-A KUBE-SERVICES -d {to} {tcp} {port} {reject}");
            let own = "-m addrtype --dst-type LOCAL";
            let _ = write!(filter, "-A KUBE-EXTERNAL-SERVICES {own} {tcp} {node_port} {reject}");
            continue;
        }
        let all = format!("KUBE-SVC-{}", hash(name));
        let external = format!("KUBE-EXT-{}", hash(name));
        let from_outside = if *local { format!("KUBE-SVL-{}", hash(name)) } else { all.clone() };
        let _ = write!(chains, ":{all} - [0:0]\n:{external} - [0:0]\n");
        let _ = writeln!(nat, "-A KUBE-SERVICES -d {to} {tcp} {port} -j {all}");
        let _ = writeln!(nat, "-A KUBE-NODEPORTS {tcp} {node_port} -j {external}");
        let _ = writeln!(nat, "-A {all} ! -s {pods} -d {to} {tcp} {port} -j KUBE-MARK-MASQ");
        if *local {
            let _ = writeln!(chains, ":{from_outside} - [0:0]");
            let _ = writeln!(nat, "-A {external} -s {pods} -j {all}");
            let own = "-m addrtype --src-type LOCAL";
            let _ = write!(nat, "-A {external} {own} -j KUBE-MARK-MASQ\n-A {external} {own} -j {all}\n");
        } else {
            let _ = writeln!(nat, "-A {external} -j KUBE-MARK-MASQ");
        }
        let _ = writeln!(nat, "-A {external} -j {from_outside}");
        for (index, endpoint) in endpoints.iter().enumerate() {
            let one = format!("KUBE-SEP-{}", hash(&format!("{index}{name}")));
            let left = endpoints.len() - index;
            let share = match left {
                1 => String::new(),
                _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
            };
            let _ = writeln!(chains, ":{one} - [0:0]");
            let _ = writeln!(nat, "-A {all} {share}-j {one}");
            if *local {
                let _ = writeln!(nat, "-A {from_outside} {share}-j {one}");
            }
            let _ = writeln!(nat, "-A {one} -s {} -j KUBE-MARK-MASQ", endpoint.ip());
            let _ = writeln!(nat, "-A {one} -p tcp -m tcp -j DNAT --to-destination {endpoint}");
        }
    }
    // The last of its chain.
    nat.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    format!(
        "{program}-restore --noflush <<'END'\n*filter{filter}COMMIT\n*nat\n{chains}{}{nat}COMMIT\nEND\n",
        NAT.trim_start()
    )
}

fn nftables(v6: bool, pods: &str, services: &[Service]) -> String {
    let (family, address) = if v6 { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
    let own = OWN[usize::from(v6)];
    let all = NETWORKS[usize::from(v6)];
    let (mut here, mut none, mut ports, mut no_ports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut chains = String::new();
    let ips: Vec<String> = services.iter().map(|service| service.at.ip().to_string()).collect();
    for Service { name, at, node_port, endpoints, local } in services {
        let (to, port, full) =
            (at.ip(), at.port(), format!("{}-demo/{name}/tcp/p{}", &hash(name)[..8], at.port()));
        if endpoints.is_empty() {
            none.push(format!("{to} . tcp . {port} : goto reject-chain"));
            no_ports.push(format!("tcp . {node_port} : goto reject-chain"));
            continue;
        }
        here.push(format!("{to} . tcp . {port} : goto service-{full}"));
        ports.push(format!("tcp . {node_port} : goto external-{full}"));
        let mut choices = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            // A name may have no colon.
            let at = endpoint.ip().to_string().replace(':', ".");
            let one = format!("endpoint-{full}__{at}/{}", endpoint.port());
            let _ = write!(
                chains,
                "chain {one} {{\n{family} saddr {} jump mark-for-masquerade\nmeta l4proto tcp dnat to {endpoint}\n}}\n",
                endpoint.ip()
            );
            choices.push(format!("{index} : goto {one}"));
        }
        let choice = format!("numgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", "));
        let _ = write!(
            chains,
            "chain service-{full} {{\n{family} daddr {to} tcp dport {port} {family} saddr != {pods} \
             jump mark-for-masquerade\n{choice}\n}}\n"
        );
        if *local {
            let _ = write!(chains, "chain local-{full} {{\n{choice}\n}}\n");
            let _ = write!(
                chains,
                "chain external-{full} {{\n{family} saddr {pods} goto service-{full}\n\
                 fib saddr type local jump mark-for-masquerade\nfib saddr type local goto service-{full}\n\
                 goto local-{full}\n}}\n"
            );
        } else {
            let _ = write!(
                chains,
                "chain external-{full} {{\njump mark-for-masquerade\ngoto service-{full}\n}}\n"
            );
        }
    }
    let elements = |all: &[String]| match all {
        [] => String::new(),
        some => format!("elements = {{ {} }}", some.join(", ")),
    };
    let service = format!("{address} . inet_proto . inet_service : verdict");
    let node_port = "inet_proto . inet_service : verdict";
    format!(
        "nft -f - <<'END'\ntable {family} kube-proxy {{\n\
         comment \"rules of the lane's kube-proxy\"\n\
         set cluster-ips {{\ntype {address}\n{}\n}}\n\
         set nodeport-ips {{\ntype {address}\nelements = {{ {own} }}\n}}\n\
         map firewall-ips {{\ntype {service}\n}}\n\
         map no-endpoint-services {{\ntype {service}\n{}\n}}\n\
         map no-endpoint-nodeports {{\ntype {node_port}\n{}\n}}\n\
         {}\n\
         chain firewall-check {{\n{family} daddr . meta l4proto . th dport vmap @firewall-ips\n}}\n\
         chain service-endpoints-check {{\n\
         {family} daddr . meta l4proto . th dport vmap @no-endpoint-services\n}}\n\
         chain nodeport-endpoints-check {{\n\
         {family} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports\n}}\n\
         chain cluster-ips-check {{\n{family} daddr @cluster-ips reject comment \"no such port\"\n\
         {family} daddr {{ {all} }} drop comment \"nobody's\"\n}}\n\
         {chains}\
         map service-ips {{\ntype {service}\n{}\n}}\n\
         map service-nodeports {{\ntype {node_port}\n{}\n}}\n\
         chain services {{\n{family} daddr . meta l4proto . th dport vmap @service-ips\n\
         {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n}}\n\
         {BASES}}}\nEND\n",
        elements(&ips),
        elements(&none),
        elements(&no_ports),
        HELPERS,
        elements(&here),
        elements(&ports),
    )
}

const HELPERS: &str = "\
chain reject-chain {
  reject
}
chain mark-for-masquerade {
  meta mark set meta mark | 0x4000
}
chain masquerading {
  meta mark & 0x4000 == 0 return
  meta mark set meta mark ^ 0x4000
  masquerade fully-random
}";

/// Its filters come before the translation, so that they see what was asked for.
const BASES: &str = "\
chain filter-prerouting {
  type filter hook prerouting priority -110
  ct state new jump firewall-check
}
chain filter-input {
  type filter hook input priority -110
  ct state new jump nodeport-endpoints-check
  ct state new jump service-endpoints-check
}
chain filter-forward {
  type filter hook forward priority -110
  ct state new jump service-endpoints-check
  ct state new jump cluster-ips-check
}
chain filter-output {
  type filter hook output priority -110
  ct state new jump service-endpoints-check
  ct state new jump firewall-check
}
chain filter-output-post-dnat {
  type filter hook output priority -90
  ct state new jump cluster-ips-check
}
chain nat-prerouting {
  type nat hook prerouting priority -100
  jump services
}
chain nat-output {
  type nat hook output priority -100
  jump services
}
chain nat-postrouting {
  type nat hook postrouting priority 100
  jump masquerading
}
";
