//! Names in the host's network; an interface's has at most 15 bytes (IFNAMSIZ).

use std::net::{IpAddr, Ipv6Addr};

use berth_ids::SandboxId;

const INTERFACE: &str = "vb";

pub(crate) fn bridge(instance: &str) -> String {
    match instance {
        "berth" => "berth0".into(),
        // Not the name itself: two long ones could begin alike.
        other => format!("br-{:010x}", hash(other) & 0xff_ffff_ffff),
    }
}

pub(crate) fn table(instance: &str) -> String {
    if instance == "berth" { "berth".into() } else { format!("berth-{instance}") }
}

/// A table of this instance or of another.
pub(crate) fn is_table(name: &str) -> bool {
    name == "berth" || name.starts_with("berth-")
}

/// The address that stands for ::1 on the way to a pod: of the unique local addresses that the name points at, beside those
/// that pods may get.
pub(crate) fn loopback6(instance: &str) -> Ipv6Addr {
    Ipv6Addr::from(0xfd << 120 | global(instance) << 80 | 0xffff << 64 | 1)
}

/// The 40 bits that make a unique local network unique (RFC 4193). Not random: the same after a reboot.
pub(crate) fn global(instance: &str) -> u128 {
    u128::from(hash(instance) & 0xff_ffff_ffff)
}

/// The bridge's, locally administered. By itself a bridge has the lowest of its ports' addresses, another one each time a
/// pod comes or goes, and every pod would have to ask anew.
pub(crate) fn bridge_mac(bridge: &str) -> [u8; 6] {
    let [.., a, b, c, d] = hash(bridge).to_be_bytes();
    [0x0a, 0xbe, a, b, c, d]
}

/// A pod's, locally administered: the same whenever it is the same address, so that whoever remembers it is right.
pub(crate) fn pod_mac(ips: &[IpAddr]) -> [u8; 6] {
    let v4 = ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip.octets()) } else { None });
    let [a, b, c, d] = v4.unwrap_or_else(|| (hash(&format!("{ips:?}")) as u32).to_be_bytes());
    [0x0a, 0xbf, a, b, c, d]
}

/// Of a pod's interface by the names that a plugin is given, on the host; locally administered.
pub(crate) fn veth_mac(container: &str, interface: &str) -> [u8; 6] {
    let [.., a, b, c, d] = hash(&format!("{container}/{interface}")).to_be_bytes();
    [0x0a, 0xc0, a, b, c, d]
}

/// Of the pods that plugins connect.
pub(crate) fn plugin_table(instance: &str) -> String {
    format!("{}-plugins", table(instance))
}

/// A pod's interface by the names that a plugin is given.
pub(crate) fn veth(container: &str, interface: &str) -> String {
    format!("veth{:08x}", hash(&format!("{container}/{interface}")) as u32)
}

pub(crate) fn interface(id: &SandboxId) -> String {
    format!("{INTERFACE}{}", &id.as_str()[..12])
}

/// The interface that what a pod sends waits at: of the instance's, since the host's has no master to know it by.
pub(crate) fn ifb(instance: &str, id: &SandboxId) -> String {
    format!("{}{}", ifb_prefix(instance), &id.as_str()[..8])
}

pub(crate) fn ifb_prefix(instance: &str) -> String {
    format!("vi{:04x}.", hash(instance) as u16)
}

pub(crate) fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(INTERFACE);
    digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// FNV-1a: the same for ever, unlike the library's.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(bridge("berth"), "berth0");
        assert_ne!(bridge("a"), bridge("b"));
        assert!(bridge("a-very-long-name-of-an-instance").len() <= 15);
        assert_ne!(loopback6("a"), loopback6("b"));
        let mac = |ips: &[&str]| pod_mac(&ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(mac(&["fd00::2", "10.0.1.2"]), [0x0a, 0xbf, 10, 0, 1, 2]);
        assert_ne!(mac(&["fd00::2"]), mac(&["fd01::2"]));
        assert!(loopback6("a").is_unique_local());
        let id = SandboxId::from_bytes([0xab; 32]);
        assert!(interface(&id).len() <= 15 && is_ours(&interface(&id)));
        for other in ["eth0", "vb", "vb12", "vbxxxxxxxxxxxx", "veth0123456789ab"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
