//! Which sysctls a pod may set: only those of namespaces it has to itself.

use berth_model::{NamespaceMode, SandboxConfig};

use crate::PlanError;
use crate::error::plain;

/// Those of the IPC namespace (ipc_namespaces(7)), as paths below /proc/sys.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];
/// Of the UTS namespace; the host name is the sandbox's `hostname`.
const DOMAIN: &str = "kernel/domainname";

/// The checked sysctls as (path below /proc/sys, value).
pub(crate) fn checked(config: &SandboxConfig) -> Result<Vec<(String, String)>, PlanError> {
    let namespaces = &config.security.namespaces;
    let mut found = Vec::with_capacity(config.sysctls.len());
    for (name, value) in &config.sysctls {
        let field = format!("config.linux.sysctls[{name:?}]");
        plain(&field, value, 4096)?;
        // One write is one value: a second line could be another sysctl to a helper (CVE-2022-0811).
        if value.contains(['\n', '\r']) {
            return Err(PlanError::invalid(field, "the value has more than one line"));
        }
        let path = path(name);
        let ok = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let climbs = path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if climbs || path.len() > 256 {
            return Err(PlanError::invalid(field, "is no sysctl name"));
        }
        if !path.chars().all(ok) {
            return Err(PlanError::invalid(field, "the name has a character that no allowed sysctl has"));
        }
        // The host's UTS namespace goes with its network.
        let (allowed, host) = if path.starts_with("net/") || path == DOMAIN {
            (true, namespaces.network == NamespaceMode::Node)
        } else {
            let ipc = IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/");
            (ipc, namespaces.ipc == NamespaceMode::Node)
        };
        if !allowed {
            return Err(PlanError::invalid(field, "is not namespaced: it would change the whole node"));
        }
        if host {
            return Err(PlanError::invalid(field, "would change the host, whose namespace this pod uses"));
        }
        found.push((path, value.clone()));
    }
    // `a.b` and `a/b` are one.
    found.sort();
    match found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            Err(PlanError::invalid(format!("config.linux.sysctls[{:?}]", pair[0].0), "is given twice"))
        }
        None => Ok(found),
    }
}

/// sysctl.d(5): the first separator tells which of `.` and `/` separates; the other one is part of a name, as in
/// `net/ipv4/conf/eth0.100/rp_filter`.
fn path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some(".") => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        name: &str,
        value: &str,
        change: impl FnOnce(&mut SandboxConfig),
    ) -> Result<Vec<(String, String)>, PlanError> {
        let mut config =
            SandboxConfig { sysctls: [(name.to_owned(), value.to_owned())].into(), ..Default::default() };
        change(&mut config);
        checked(&config)
    }

    #[test]
    fn namespaced_ones_pass() {
        let one = |path: &str| vec![(path.to_owned(), "1".to_owned())];
        assert_eq!(check("net.ipv4.ip_forward", "1", |_| {}).unwrap(), one("net/ipv4/ip_forward"));
        assert_eq!(check("kernel.shm_rmid_forced", "1", |_| {}).unwrap(), one("kernel/shm_rmid_forced"));
        assert_eq!(check("net/ipv4/ip_forward", "1", |_| {}).unwrap(), one("net/ipv4/ip_forward"));
        let tagged = "net/ipv4/conf/eth0.100/rp_filter";
        assert_eq!(check(tagged, "1", |_| {}).unwrap(), one(tagged));
        assert_eq!(check("net.ipv4.conf.eth0/100.rp_filter", "1", |_| {}).unwrap(), one(tagged));
        assert_eq!(check("kernel.domainname", "1", |_| {}).unwrap(), one("kernel/domainname"));
        assert_eq!(check("fs.mqueue.msg_max", "1", |_| {}).unwrap(), one("fs/mqueue/msg_max"));
    }

    #[test]
    fn the_hosts_are_refused() {
        let host_net: fn(&mut SandboxConfig) = |c| c.security.namespaces.network = NamespaceMode::Node;
        let host_ipc: fn(&mut SandboxConfig) = |c| c.security.namespaces.ipc = NamespaceMode::Node;
        let none: fn(&mut SandboxConfig) = |_| {};
        for (name, value, change) in [
            ("kernel.core_pattern", "|x", none),
            ("vm.swappiness", "1", none),
            ("net.ipv4.ip_forward", "1", host_net),
            ("kernel.domainname", "x", host_net),
            ("kernel.hostname", "x", none),
            ("kernel.shmmax", "1", host_ipc),
            ("fs.mqueue.msg_max", "1", host_ipc),
            ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x", none),
            ("net..x", "1", none),
            ("net.../../../kernel/core_pattern", "1", none),
            ("net./.x", "1", none),
            ("net/ipv4/../../kernel/core_pattern", "1", none),
            ("net", "1", none),
            ("net.ipv4.a+b", "1", none),
            ("net.ipv4.a\0b", "1", none),
            ("net.ipv4.ip_forward", "1\0", none),
            ("net/ipv4/ip_forward", "0", |c| {
                c.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
            }),
            ("", "1", none),
        ] {
            let error = check(name, value, change).unwrap_err();
            assert!(error.to_string().contains("config.linux.sysctls"), "{name}: {error}");
        }
    }
}
