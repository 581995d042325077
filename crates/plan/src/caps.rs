//! Capabilities: CRI's add and drop over the default set.

use berth_model::{Capabilities, ContainerSecurity};
use berth_shim_wire::CapSets;

use crate::{HostFacts, PlanError};

/// capabilities(7), in the kernel's numbering.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it asks otherwise: the set that containerd and Docker give.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|n| 1 << n)
}

/// The `CAP_…` names of a set, in the kernel's order.
pub(crate) fn names(set: u64) -> Vec<String> {
    let held = NAMES.iter().enumerate().filter(|(n, _)| set & (1 << n) != 0);
    held.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Everything the kernel knows and the daemon itself may have.
fn all(host: &HostFacts) -> u64 {
    let known = u64::MAX >> (63 - u32::from(host.cap_last.min(63)));
    known & host.cap_bounding
}

/// A list of names: the single ones, and whether `ALL` is among them.
struct Asked {
    single: u64,
    all: bool,
}

fn parse(field: &str, names: &[String]) -> Result<Asked, PlanError> {
    let mut asked = Asked { single: 0, all: false };
    for (n, text) in names.iter().enumerate() {
        let upper = text.to_ascii_uppercase();
        match upper.strip_prefix("CAP_").unwrap_or(&upper) {
            "ALL" => asked.all = true,
            name => {
                asked.single |= bit(name).ok_or_else(|| {
                    PlanError::invalid(format!("{field}[{n}]"), format!("{text:?} is no capability"))
                })?;
            }
        }
    }
    Ok(asked)
}

const FIELD: &str = "config.linux.security_context.capabilities";

/// `ALL` comes first, then the single ones, dropping after adding: drop ALL and add X leaves X; add ALL and drop X
/// leaves all but X; add ALL and drop ALL leaves nothing (as containerd and CRI-O have it).
fn resolve(caps: &Capabilities, host: &HostFacts) -> Result<u64, PlanError> {
    let add = parse(&format!("{FIELD}.add_capabilities"), &caps.add)?;
    let drop = parse(&format!("{FIELD}.drop_capabilities"), &caps.drop)?;
    let base = match (add.all, drop.all) {
        (_, true) => 0,
        (true, false) => all(host),
        (false, false) => DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, b| set | b),
    };
    Ok((base | add.single) & !drop.single & all(host))
}

/// The bounding set of a container; the seccomp default profile opens system calls by it.
pub fn bounding_caps(security: &ContainerSecurity, host: &HostFacts) -> Result<u64, PlanError> {
    match security.privileged {
        true => Ok(all(host)),
        false => resolve(&security.capabilities, host),
    }
}

/// Capabilities asked for by name that the kernel does not know or the daemon itself may not have (OCI runtime spec,
/// "capabilities": what cannot be granted must be said).
pub(crate) fn missing(security: &ContainerSecurity, host: &HostFacts) -> Vec<String> {
    let caps = &security.capabilities;
    let single = |list: &[String]| parse(FIELD, list).map_or(0, |asked| asked.single);
    let drop = single(&caps.drop);
    names(((single(&caps.add) & !drop) | single(&caps.add_ambient)) & !all(host))
}

/// Inheritable stays empty unless ambient needs it: CVE-2022-29162.
pub(crate) fn sets(security: &ContainerSecurity, host: &HostFacts) -> Result<CapSets, PlanError> {
    let base = bounding_caps(security, host)?;
    let field = format!("{FIELD}.add_ambient_capabilities");
    let asked = parse(&field, &security.capabilities.add_ambient)?;
    let ambient = if asked.all { all(host) } else { asked.single & all(host) };
    let held = base | ambient;
    Ok(CapSets { bounding: held, permitted: held, effective: held, inheritable: ambient, ambient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let caps = Capabilities { add: own(add), drop: own(drop), add_ambient: Vec::new() };
        let mut expected: Vec<_> = expected.iter().map(|n| format!("CAP_{n}")).collect();
        let mut found = names(resolve(&caps, &HostFacts::default()).unwrap());
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "add {add:?} drop {drop:?}");
    }

    #[test]
    fn add_and_drop() {
        check(&[], &[], &DEFAULT);
        check(&[], &["ALL"], &[]);
        check(&["NET_ADMIN"], &["all"], &["NET_ADMIN"]);
        check(&["CAP_SYS_TIME"], &["ALL"], &["SYS_TIME"]);
        check(&["ALL"], &["ALL"], &[]);
        check(&["ALL", "KILL"], &["ALL"], &["KILL"]);
        check(&["KILL", "CHOWN"], &["ALL", "KILL"], &["CHOWN"]);
        let but_chown: Vec<_> = NAMES.iter().copied().filter(|n| *n != "CHOWN").collect();
        check(&["ALL"], &["CHOWN"], &but_chown);
        let but_kill: Vec<_> = DEFAULT.iter().copied().filter(|n| *n != "KILL").collect();
        check(&[], &["KILL"], &but_kill);
    }

    #[test]
    fn unknown_names_are_refused_by_field() {
        let caps = Capabilities { add: vec!["CHOWN".into(), "FLY".into()], ..Default::default() };
        let error = resolve(&caps, &HostFacts::default()).unwrap_err().to_string();
        assert!(error.contains("capabilities.add_capabilities[1]") && error.contains("FLY"), "{error}");
    }

    #[test]
    fn nothing_beyond_the_hosts() {
        let host = HostFacts { cap_last: 5, ..HostFacts::default() };
        let security = ContainerSecurity { privileged: true, ..Default::default() };
        assert_eq!(bounding_caps(&security, &host).unwrap(), 0b11_1111);
        let without_chown = HostFacts { cap_bounding: !1, ..HostFacts::default() };
        assert_eq!(bounding_caps(&ContainerSecurity::default(), &without_chown).unwrap() & 1, 0);
    }

    #[test]
    fn inheritable_is_empty_unless_ambient() {
        let sets_of = |caps| {
            let security = ContainerSecurity { capabilities: caps, ..Default::default() };
            sets(&security, &HostFacts::default()).unwrap()
        };
        let plain = sets_of(Capabilities::default());
        assert_eq!((plain.inheritable, plain.ambient), (0, 0));
        let ambient = sets_of(Capabilities { add_ambient: vec!["NET_ADMIN".into()], ..Default::default() });
        assert_eq!((ambient.inheritable, ambient.ambient), (1 << 12, 1 << 12));
        assert_eq!(ambient.bounding & (1 << 12), 1 << 12);
    }
}
