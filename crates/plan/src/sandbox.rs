//! A sandbox's configuration: checked, and compiled to what its shim sets up.

use std::collections::HashMap;
use std::ffi::CString;
use std::net::IpAddr;

use berth_ids::SandboxId;
use berth_model::{NamespaceMode, PortMapping, SandboxConfig, SandboxSecurity, SecurityProfile};
use berth_shim_wire::SandboxPlan;

use crate::error::{plain, word};
use crate::{HostFacts, PlanError, resources, sysctls, userns};

/// What Docker and containerd give a /dev/shm.
const SHM_SIZE: u64 = 64 * 1024 * 1024;
/// resolv.conf(5) readers take six; glibc since 2.26 any number; the kubelet allows 32.
const SEARCHES: usize = 32;
/// The same bound for what has no natural one.
const MANY: usize = 4096;

/// Refuses what cannot be carried out, before anything is made.
pub fn validate_sandbox(config: &SandboxConfig, host: &HostFacts) -> Result<(), PlanError> {
    for (field, text) in [
        ("config.metadata.name", &config.metadata.name),
        ("config.metadata.namespace", &config.metadata.namespace),
        ("config.metadata.uid", &config.metadata.uid),
    ] {
        plain(field, text, MANY)?;
    }
    hostname(config)?;
    log_directory(config)?;
    cgroup_parent(config)?;
    dns(config)?;
    namespaces(config)?;
    userns::validate(config, host)?;
    profiles(config.security.apparmor.as_ref())?;
    user(&config.security)?;
    resources::check_as("config.linux.resources", config.resources.as_ref(), host)?;
    resources::check_as("config.linux.overhead", config.overhead.as_ref(), host)?;
    ports(&config.port_mappings)?;
    sysctls::checked(config).map(drop)
}

fn ports(ports: &[PortMapping]) -> Result<(), PlanError> {
    let mut taken = HashMap::new();
    for (n, port) in ports.iter().enumerate().filter(|(_, p)| p.host_port != 0) {
        let field = |part: &str| format!("config.port_mappings[{n}].{part}");
        if port.container_port == 0 {
            return Err(PlanError::invalid(field("container_port"), "must be given with a host_port"));
        }
        if !port.host_ip.is_empty() && port.host_ip.parse::<IpAddr>().is_err() {
            return Err(PlanError::invalid(field("host_ip"), format!("{:?} is no address", port.host_ip)));
        }
        let key = (port.protocol, port.host_port, port.host_ip.as_str());
        if let Some(other) = taken.insert(key, n) {
            let problem = format!("{} is that of port_mappings[{other}] too", port.host_port);
            return Err(PlanError::invalid(field("host_port"), problem));
        }
    }
    Ok(())
}

/// The sandbox runs no process of its own; the fields are held to the rules of their CRI comments all the same.
fn user(security: &SandboxSecurity) -> Result<(), PlanError> {
    const CONTEXT: &str = "config.linux.security_context";
    let id = |field: &str, value: i64| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(()),
        _ => Err(PlanError::invalid(format!("{CONTEXT}.{field}"), format!("{value} is no user or group id"))),
    };
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(PlanError::invalid(format!("{CONTEXT}.run_as_group"), "needs run_as_user"));
    }
    security.run_as_user.map_or(Ok(()), |value| id("run_as_user", value))?;
    security.run_as_group.map_or(Ok(()), |value| id("run_as_group", value))?;
    security.supplemental_groups.iter().try_for_each(|value| id("supplemental_groups", *value))
}

fn hostname(config: &SandboxConfig) -> Result<(), PlanError> {
    // sethostname(2): at most 64 bytes.
    word("config.hostname", &config.hostname, 64)?;
    match config.hostname.contains('/') {
        true => Err(PlanError::invalid("config.hostname", "contains a slash")),
        false => Ok(()),
    }
}

fn log_directory(config: &SandboxConfig) -> Result<(), PlanError> {
    let (field, text) = ("config.log_directory", &config.log_directory);
    plain(field, text, MANY)?;
    if !text.is_empty() && !text.starts_with('/') {
        return Err(PlanError::invalid(field, "must be absolute"));
    }
    Ok(())
}

fn cgroup_parent(config: &SandboxConfig) -> Result<(), PlanError> {
    let (field, text) = ("config.linux.cgroup_parent", &config.cgroup_parent);
    plain(field, text, MANY)?;
    if text.split('/').any(|part| part == ".." || part == ".") {
        return Err(PlanError::invalid(field, "contains a relative component"));
    }
    Ok(())
}

fn dns(config: &SandboxConfig) -> Result<(), PlanError> {
    let Some(dns) = &config.dns else { return Ok(()) };
    for (n, server) in dns.servers.iter().enumerate() {
        // A scope id (`fe80::1%eth0`) is not part of an address to the parser.
        if server.split('%').next().is_none_or(|ip| ip.parse::<IpAddr>().is_err()) {
            let field = format!("config.dns_config.servers[{n}]");
            return Err(PlanError::invalid(field, format!("{server:?} is no address")));
        }
    }
    if dns.searches.len() > SEARCHES {
        return Err(PlanError::invalid("config.dns_config.searches", format!("more than {SEARCHES}")));
    }
    for (kind, list) in [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)] {
        if list.len() > 256 {
            return Err(PlanError::invalid(format!("config.dns_config.{kind}"), "more than 256"));
        }
        for (n, text) in list.iter().enumerate() {
            word(&format!("config.dns_config.{kind}[{n}]"), text, 1024)?;
        }
    }
    Ok(())
}

fn namespaces(config: &SandboxConfig) -> Result<(), PlanError> {
    const FIELD: &str = "config.linux.security_context.namespace_options";
    let options = &config.security.namespaces;
    for (kind, mode) in [("network", options.network), ("ipc", options.ipc)] {
        if !matches!(mode, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(PlanError::invalid(format!("{FIELD}.{kind}"), "must be POD or NODE"));
        }
    }
    // A sandbox has no process to share: TARGET and CONTAINER concern the containers alone.
    Ok(())
}

fn profiles(apparmor: Option<&SecurityProfile>) -> Result<(), PlanError> {
    match apparmor {
        Some(profile) => {
            plain("config.linux.security_context.apparmor.localhost_ref", &profile.localhost_ref, MANY)
        }
        None => Ok(()),
    }
}

/// What the sandbox's shim sets up. `host_name` is the node's own name, for pods that bring none.
pub fn sandbox_plan(
    id: &SandboxId,
    config: &SandboxConfig,
    host_name: &str,
) -> Result<SandboxPlan, PlanError> {
    let options = &config.security.namespaces;
    let own_network = options.network == NamespaceMode::Pod;
    let hostname = if config.hostname.is_empty() { host_name } else { &config.hostname };
    let text = |field: &str, text: &str| {
        CString::new(text).map_err(|_| PlanError::invalid(field, "contains a NUL byte"))
    };
    let sysctls = sysctls::checked(config)?.into_iter().map(|(path, value)| {
        let field = format!("config.linux.sysctls[{path:?}]");
        Ok((text(&field, &path)?, text(&field, &value)?))
    });
    Ok(SandboxPlan {
        sandbox_id: id.to_string(),
        new_net: own_network,
        new_ipc: options.ipc == NamespaceMode::Pod,
        // With the host's network a pod has the host's name (CRI comment on `hostname`).
        new_uts: own_network,
        shared_pid: options.pid == NamespaceMode::Pod,
        hostname: (own_network && !hostname.is_empty())
            .then(|| text("config.hostname", hostname))
            .transpose()?,
        sysctls: sysctls.collect::<Result<_, PlanError>>()?,
        shm_size: if options.ipc == NamespaceMode::Pod { SHM_SIZE } else { 0 },
        userns: userns::plan(config),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::{DnsConfig, PortMapping, UserNamespace};

    fn refused(field: &str, change: impl FnOnce(&mut SandboxConfig)) {
        let mut config = SandboxConfig::default();
        change(&mut config);
        let error = validate_sandbox(&config, &HostFacts::default()).expect_err(field).to_string();
        assert!(error.contains(field), "{error} lacks {field}");
    }

    #[test]
    fn bad_sandboxes_name_their_field() {
        refused("config.hostname", |c| c.hostname = "a b".into());
        refused("config.hostname", |c| c.hostname = "a".repeat(65));
        refused("config.log_directory", |c| c.log_directory = "var/log".into());
        refused("config.linux.cgroup_parent", |c| c.cgroup_parent = "/a/../b".into());
        let dns = |servers: &[&str], searches: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
            Some(DnsConfig { servers: own(servers), searches: own(searches), options: Vec::new() })
        };
        refused("config.dns_config.servers[1]", |c| c.dns = dns(&["1.1.1.1", "x"], &[]));
        refused("config.dns_config.searches[0]", |c| c.dns = dns(&[], &["a\nnameserver 6.6.6.6"]));
        refused("config.dns_config.searches", |c| c.dns = dns(&[], &["a"; 33]));
        refused("namespace_options.network", |c| c.security.namespaces.network = NamespaceMode::Container);
        refused("userns_options", |c| {
            c.security.namespaces.userns =
                Some(UserNamespace { mode: NamespaceMode::Pod, ..Default::default() });
        });
        refused("config.port_mappings[0].container_port", |c| {
            c.port_mappings = vec![PortMapping { host_port: 80, ..Default::default() }];
        });
        refused("config.port_mappings[0].host_ip", |c| {
            c.port_mappings = vec![PortMapping {
                host_port: 80,
                container_port: 80,
                host_ip: "x".into(),
                ..Default::default()
            }];
        });
        validate_sandbox(&SandboxConfig::default(), &HostFacts::default()).unwrap();
    }

    #[test]
    fn namespaces_follow_the_modes() {
        let id = SandboxId::from_bytes([1; 32]);
        let mut config = SandboxConfig { hostname: "pod".into(), ..Default::default() };
        let plan = sandbox_plan(&id, &config, "node").unwrap();
        assert!(plan.new_net && plan.new_ipc && plan.new_uts && plan.shared_pid);
        assert_eq!((plan.hostname.as_deref(), plan.shm_size), (Some(c"pod"), SHM_SIZE));
        config.security.namespaces.network = NamespaceMode::Node;
        config.security.namespaces.ipc = NamespaceMode::Node;
        config.security.namespaces.pid = NamespaceMode::Container;
        let plan = sandbox_plan(&id, &config, "node").unwrap();
        assert!(!plan.new_net && !plan.new_ipc && !plan.new_uts && !plan.shared_pid);
        assert_eq!((plan.hostname, plan.shm_size), (None, 0));
    }
}
