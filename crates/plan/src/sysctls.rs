//! Which sysctls a pod may set: only those of namespaces it has to itself.

use berth_model::{NamespaceMode, SandboxConfig};

use crate::PlanError;
use crate::error::plain;

/// sysctl(5) names of the IPC namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

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
        let dotted = dotted(name);
        let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if dotted.is_empty() || dotted.len() > 256 || dotted.split('.').any(str::is_empty) {
            return Err(PlanError::invalid(field, "is no sysctl name"));
        }
        // Interface names may hold more characters; inside net.* they stand between dots as well.
        if !dotted.chars().all(ok) {
            return Err(PlanError::invalid(field, "the name has a character that no allowed sysctl has"));
        }
        let (allowed, host) = if dotted.starts_with("net.") {
            (true, namespaces.network == NamespaceMode::Node)
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            (true, namespaces.ipc == NamespaceMode::Node)
        } else {
            (false, false)
        };
        if !allowed {
            return Err(PlanError::invalid(field, "is not namespaced: it would change the whole node"));
        }
        if host {
            return Err(PlanError::invalid(field, "would change the host, whose namespace this pod uses"));
        }
        found.push((dotted.replace('.', "/"), value.clone()));
    }
    Ok(found)
}

/// sysctl(8) takes `a.b` and `a/b`; in the latter a dot is part of a name, which none of the allowed has.
fn dotted(name: &str) -> String {
    name.replace('/', ".")
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
            ("kernel.shmmax", "1", host_ipc),
            ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x", none),
            ("net..x", "1", none),
            ("net.../../../kernel/core_pattern", "1", none),
            ("net.ipv4.a+b", "1", none),
            ("", "1", none),
        ] {
            let error = check(name, value, change).unwrap_err();
            assert!(error.to_string().contains("config.linux.sysctls"), "{name}: {error}");
        }
    }
}
