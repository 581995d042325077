//! Names in the host's network; an interface's has at most 15 bytes (IFNAMSIZ).

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

pub(crate) fn interface(id: &SandboxId) -> String {
    format!("{INTERFACE}{}", &id.as_str()[..12])
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
        let id = SandboxId::from_bytes([0xab; 32]);
        assert!(interface(&id).len() <= 15 && is_ours(&interface(&id)));
        for other in ["eth0", "vb", "vb12", "vbxxxxxxxxxxxx", "veth0123456789ab"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
