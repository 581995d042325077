//! The pod's /etc/hostname, /etc/hosts and /etc/resolv.conf.

use std::fmt::Write as _;
use std::net::IpAddr;

use berth_model::{DnsConfig, NamespaceMode, SandboxConfig};

use crate::ports::{Launcher, PodFileContents};

/// Contents for a sandbox with these addresses.
pub(crate) async fn contents(
    launcher: &dyn Launcher,
    config: &SandboxConfig,
    ips: &[IpAddr],
) -> PodFileContents {
    let host_network = config.security.namespaces.network == NamespaceMode::Node;
    let hostname = if config.hostname.is_empty() {
        let host = launcher.host_file("/proc/sys/kernel/hostname").await.unwrap_or_default();
        String::from_utf8_lossy(&host).trim().to_owned()
    } else {
        config.hostname.clone()
    };
    let hosts = match host_network {
        true => launcher.host_file("/etc/hosts").await.unwrap_or_default(),
        false => hosts(&hostname, ips).into_bytes(),
    };
    let resolv_conf = match &config.dns {
        Some(dns) if !is_empty(dns) => resolv_conf(dns).into_bytes(),
        _ => launcher.host_file("/etc/resolv.conf").await.unwrap_or_default(),
    };
    PodFileContents { hostname: format!("{hostname}\n").into_bytes(), hosts, resolv_conf }
}

fn is_empty(dns: &DnsConfig) -> bool {
    dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()
}

/// resolv.conf(5). The values passed `berth_plan::validate_sandbox`: no control characters.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// hosts(5): loopback, and the pod under its own name.
fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    if !hostname.is_empty() {
        for ip in ips {
            let _ = writeln!(text, "{ip}\t{hostname}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_what_is_given() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::10".into()],
            searches: vec!["a.local".into(), "local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.local local\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
        );
        assert_eq!(
            resolv_conf(&DnsConfig { servers: vec!["1.1.1.1".into()], ..Default::default() }),
            "nameserver 1.1.1.1\n"
        );
    }

    #[test]
    fn hosts_names_the_pod() {
        let text = hosts("web", &["10.85.0.2".parse().unwrap()]);
        assert!(text.contains("127.0.0.1\tlocalhost\n") && text.ends_with("10.85.0.2\tweb\n"), "{text}");
    }
}
