use berth_cri_api::v1;
use berth_model::{DnsConfig, PortMapping, Protocol, SandboxConfig, SandboxMetadata};

use super::security::sandbox_security;
use super::{invalid, known, map, resources};
use crate::Failure;

/// The configuration of a sandbox; `handler` is the request's own field.
pub(crate) fn sandbox_config(
    given: Option<v1::PodSandboxConfig>,
    handler: String,
) -> Result<SandboxConfig, Failure> {
    let given = given.ok_or_else(|| invalid("config", "must be given"))?;
    let metadata = given.metadata.ok_or_else(|| invalid("config.metadata", "must be given"))?;
    for (field, text) in
        [("name", &metadata.name), ("uid", &metadata.uid), ("namespace", &metadata.namespace)]
    {
        if text.is_empty() {
            return Err(invalid(format!("config.metadata.{field}"), "must not be empty"));
        }
    }
    let linux = given.linux.unwrap_or_default();
    let ports = given.port_mappings.into_iter().enumerate();
    Ok(SandboxConfig {
        metadata: SandboxMetadata {
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
        },
        hostname: given.hostname,
        log_directory: given.log_directory,
        dns: given.dns_config.map(|d| DnsConfig {
            servers: d.servers,
            searches: d.searches,
            options: d.options,
        }),
        port_mappings: ports.map(|(n, port)| port_mapping(n, port)).collect::<Result<_, _>>()?,
        labels: map("config.labels", given.labels)?,
        annotations: map("config.annotations", given.annotations)?,
        cgroup_parent: linux.cgroup_parent,
        security: sandbox_security("config.linux.security_context", linux.security_context)?,
        sysctls: map("config.linux.sysctls", linux.sysctls)?,
        overhead: linux.overhead.map(|r| resources("config.linux.overhead", r)).transpose()?,
        resources: linux.resources.map(|r| resources("config.linux.resources", r)).transpose()?,
        runtime_handler: handler,
    })
}

fn port_mapping(n: usize, given: v1::PortMapping) -> Result<PortMapping, Failure> {
    let field = |part: &str| format!("config.port_mappings[{n}].{part}");
    let port = |part: &str, value: i32| {
        u16::try_from(value).map_err(|_| invalid(field(part), format!("{value} is no port")))
    };
    Ok(PortMapping {
        protocol: match known(field("protocol"), given.protocol)? {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port("container_port", given.container_port)?,
        host_port: port("host_port", given.host_port)?,
        host_ip: given.host_ip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "n".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 1,
            }),
            ..Default::default()
        }
    }

    fn refused(field: &str, change: impl FnOnce(&mut v1::PodSandboxConfig)) {
        let mut config = good();
        change(&mut config);
        let failure = sandbox_config(Some(config), String::new()).expect_err(field);
        assert!(failure.message.starts_with(field), "{failure:?} does not name {field}");
        assert_eq!(failure.class, berth_ids::ErrorClass::InvalidArgument);
    }

    #[test]
    fn bad_requests_name_their_field() {
        assert!(sandbox_config(None, String::new()).unwrap_err().message.starts_with("config"));
        refused("config.metadata", |c| c.metadata = None);
        refused("config.metadata.uid", |c| c.metadata.as_mut().unwrap().uid.clear());
        let port = |container_port, protocol| {
            vec![v1::PortMapping { container_port, protocol, ..Default::default() }]
        };
        refused("config.port_mappings[0].container_port", |c| c.port_mappings = port(70_000, 0));
        refused("config.port_mappings[0].container_port", |c| c.port_mappings = port(-1, 0));
        refused("config.port_mappings[0].protocol", |c| c.port_mappings = port(1, 9));
        refused("config.labels", |c| drop(c.labels.insert("k".into(), "v".repeat(2 << 20))));
        refused("config.linux.security_context.namespace_options.pid", |c| {
            let options = v1::NamespaceOption { pid: 77, ..Default::default() };
            let security =
                v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
            c.linux =
                Some(v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
        });
        assert_eq!(sandbox_config(Some(good()), "h".into()).unwrap().metadata.attempt, 1);
    }
}
