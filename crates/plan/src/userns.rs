//! A pod's user namespace: the CRI's mappings, checked.

use berth_model::{ContainerConfig, IdMapping, NamespaceMode, Propagation, SandboxConfig};
use berth_shim_wire::{IdRange, UserNamespace};

use crate::{HostFacts, Owner, PlanError, ResolvedUser};

const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";
/// user_namespaces(7): lines of a map.
const LINES: usize = 340;

/// The mappings of a sandbox that has a user namespace of its own.
pub(crate) fn of(sandbox: &SandboxConfig) -> Option<&berth_model::UserNamespace> {
    sandbox.security.namespaces.userns.as_ref().filter(|userns| userns.mode == NamespaceMode::Pod)
}

fn ranges(list: &[IdMapping]) -> Vec<IdRange> {
    let one = |m: &IdMapping| IdRange { inside: m.container_id, outside: m.host_id, count: m.length };
    list.iter().map(one).collect()
}

pub(crate) fn plan(sandbox: &SandboxConfig) -> Option<UserNamespace> {
    of(sandbox).map(|userns| UserNamespace { uids: ranges(&userns.uids), gids: ranges(&userns.gids) })
}

/// Whom the host sees when the container's root writes.
pub(crate) fn owner(sandbox: &SandboxConfig) -> Option<Owner> {
    let plan = plan(sandbox)?;
    Some(Owner { uid: IdRange::outside(&plan.uids, 0)?, gid: IdRange::outside(&plan.gids, 0)? })
}

pub(crate) fn validate(sandbox: &SandboxConfig, host: &HostFacts) -> Result<(), PlanError> {
    let options = &sandbox.security.namespaces;
    match &options.userns {
        None => return Ok(()),
        Some(userns) if userns.mode == NamespaceMode::Node => {
            // A mapping to nowhere means that somebody expects one.
            return match userns.uids.is_empty() && userns.gids.is_empty() {
                true => Ok(()),
                false => Err(PlanError::invalid(format!("{FIELD}.uids"), "mappings need mode POD")),
            };
        }
        Some(userns) if userns.mode != NamespaceMode::Pod => {
            return Err(PlanError::invalid(format!("{FIELD}.mode"), "must be POD or NODE"));
        }
        Some(userns) => {
            mappings(&format!("{FIELD}.uids"), &userns.uids)?;
            mappings(&format!("{FIELD}.gids"), &userns.gids)?;
        }
    }
    // Whoever is in one of these of the host's has no power over it, and could neither mount its filesystem nor see it
    // rightly.
    for (kind, mode) in [("ipc", options.ipc), ("pid", options.pid)] {
        if mode == NamespaceMode::Node {
            let field = format!("config.linux.security_context.namespace_options.{kind}");
            return Err(PlanError::invalid(
                field,
                "NODE cannot be together with a user namespace of the pod",
            ));
        }
    }
    match host.user_namespaces {
        true => Ok(()),
        false => Err(PlanError::unsupported(
            FIELD,
            "this host's kernel or filesystem cannot show image layers inside a user namespace",
        )),
    }
}

fn mappings(field: &str, list: &[IdMapping]) -> Result<(), PlanError> {
    if list.is_empty() || list.len() > LINES {
        return Err(PlanError::invalid(field, format!("must have 1 to {LINES} mappings")));
    }
    for (n, mapping) in list.iter().enumerate() {
        let refuse =
            |part: &str, problem: &str| Err(PlanError::invalid(format!("{field}[{n}].{part}"), problem));
        // The last id of 32 bits is nobody's: -1 to chown(2).
        if mapping.length == 0 || mapping.container_id.checked_add(mapping.length).is_none() {
            return refuse("length", "must be at least 1 and end below 4294967295");
        }
        if mapping.host_id.checked_add(mapping.length).is_none() {
            return refuse("host_id", "with the length it passes 4294967295");
        }
        let overlaps = |a: u32, b: u32, other: &IdMapping| a < b + other.length && b < a + mapping.length;
        for other in &list[..n] {
            if overlaps(mapping.container_id, other.container_id, other) {
                return refuse("container_id", "overlaps an earlier mapping");
            }
            if overlaps(mapping.host_id, other.host_id, other) {
                return refuse("host_id", "overlaps an earlier mapping");
            }
        }
    }
    match IdRange::outside(&ranges(list), 0) {
        None => Err(PlanError::invalid(field, "container id 0 must be mapped")),
        // Root inside would be root outside.
        Some(0) => Err(PlanError::invalid(
            format!("{field}[0].host_id"),
            "root of the container would be the host's",
        )),
        Some(_) => Ok(()),
    }
}

/// A container of the sandbox: it says the same or nothing, and asks for nothing that its namespace forbids.
pub(crate) fn validate_container(
    sandbox: &SandboxConfig,
    container: &ContainerConfig,
) -> Result<(), PlanError> {
    let pods = of(sandbox);
    match (&container.security.namespaces.userns, pods) {
        (Some(own), None) if own.mode == NamespaceMode::Pod && !own.uids.is_empty() => {
            return Err(PlanError::invalid(
                FIELD,
                "asks for a user namespace that the sandbox does not have",
            ));
        }
        (Some(own), Some(_)) if own.mode == NamespaceMode::Node => {
            return Err(PlanError::invalid(FIELD, "is NODE while the sandbox has a user namespace"));
        }
        (Some(own), Some(pods)) if !own.uids.is_empty() && own != pods => {
            return Err(PlanError::invalid(FIELD, "differs from the sandbox's"));
        }
        _ => {}
    }
    for (n, mount) in container.mounts.iter().enumerate() {
        let at = |part: &str| format!("config.mounts[{n}].{part}");
        // CRI: the volume's ids, which the kubelet takes from the pod.
        for (part, list, expected) in [
            ("uidMappings", &mount.uid_mappings, pods.map(|p| &p.uids)),
            ("gidMappings", &mount.gid_mappings, pods.map(|p| &p.gids)),
        ] {
            if !list.is_empty() && expected != Some(list) {
                return Err(PlanError::invalid(at(part), "must be those of the pod's user namespace"));
            }
        }
        if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
            return Err(PlanError::invalid(at("gidMappings"), "must be given together with uidMappings"));
        }
        // What root of the namespace mounts must not appear on the host.
        if pods.is_some() && mount.propagation == Propagation::Bidirectional {
            let problem = "PROPAGATION_BIDIRECTIONAL cannot be together with a user namespace of the pod";
            return Err(PlanError::invalid(at("propagation"), problem));
        }
    }
    Ok(())
}

/// Every id of the process has to have a place in the pod's user namespace.
pub fn validate_user(sandbox: &SandboxConfig, user: &ResolvedUser) -> Result<(), PlanError> {
    let Some(plan) = plan(sandbox) else { return Ok(()) };
    let check = |field: &str, ranges: &[IdRange], id: u32| match IdRange::outside(ranges, id) {
        Some(_) => Ok(()),
        None => Err(PlanError::invalid(
            format!("config.linux.security_context.{field}"),
            format!("{id} is not mapped in the pod's user namespace"),
        )),
    };
    check("run_as_user", &plan.uids, user.uid)?;
    check("run_as_group", &plan.gids, user.gid)?;
    user.groups.iter().try_for_each(|group| check("supplemental_groups", &plan.gids, *group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::{Mount, UserNamespace as Asked};

    fn map(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping { container_id, host_id, length }
    }

    fn pod(maps: &[IdMapping]) -> SandboxConfig {
        let mut config = SandboxConfig::default();
        let userns = Asked { mode: NamespaceMode::Pod, uids: maps.to_vec(), gids: maps.to_vec() };
        config.security.namespaces.userns = Some(userns);
        config.security.namespaces.pid = NamespaceMode::Container;
        config
    }

    fn problem(config: &SandboxConfig) -> String {
        validate(config, &HostFacts::default()).expect_err("refused").to_string()
    }

    #[test]
    fn wrong_mappings_name_their_field() {
        for (maps, field) in [
            (&[][..], "userns_options.uids"),
            (&[map(1, 1000, 10)], "userns_options.uids"),
            (&[map(0, 0, 10)], "uids[0].host_id"),
            (&[map(0, 1000, 0)], "uids[0].length"),
            (&[map(0, u32::MAX - 5, 10)], "uids[0].host_id"),
            (&[map(0, 1000, 10), map(9, 3000, 10)], "uids[1].container_id"),
            (&[map(0, 1000, 10), map(10, 1009, 10)], "uids[1].host_id"),
        ] {
            assert!(problem(&pod(maps)).contains(field), "{maps:?}");
        }
        validate(&pod(&[map(0, 1000, 10), map(10, 1010, 10)]), &HostFacts::default()).unwrap();
        let mut gids = pod(&[map(0, 1000, 10)]);
        gids.security.namespaces.userns.as_mut().unwrap().gids.clear();
        assert!(problem(&gids).contains("userns_options.gids"));
    }

    #[test]
    fn not_with_the_hosts_namespaces_nor_without_support() {
        let good = pod(&[map(0, 1000, 65536)]);
        let mut config = good.clone();
        config.security.namespaces.ipc = NamespaceMode::Node;
        assert!(problem(&config).contains("namespace_options.ipc"));
        let mut config = good.clone();
        config.security.namespaces.pid = NamespaceMode::Node;
        assert!(problem(&config).contains("namespace_options.pid"));
        let host = HostFacts { user_namespaces: false, ..HostFacts::default() };
        assert!(validate(&good, &host).unwrap_err().to_string().contains("userns_options"));
        for mode in [NamespaceMode::Container, NamespaceMode::Target] {
            let mut config = good.clone();
            config.security.namespaces.userns.as_mut().unwrap().mode = mode;
            assert!(problem(&config).contains("userns_options.mode"));
        }
    }

    #[test]
    fn containers_keep_to_their_pods() {
        let maps = [map(0, 1000, 100)];
        let sandbox = pod(&maps);
        let refused = |sandbox: &SandboxConfig, container: &ContainerConfig| {
            validate_container(sandbox, container).expect_err("refused").to_string()
        };
        let mut container = ContainerConfig::default();
        validate_container(&sandbox, &container).unwrap();
        container.security.namespaces.userns =
            Some(Asked { mode: NamespaceMode::Pod, uids: vec![map(0, 5, 5)], gids: vec![map(0, 5, 5)] });
        assert!(refused(&sandbox, &container).contains("userns_options"));
        assert!(refused(&SandboxConfig::default(), &container).contains("userns_options"));
        let mount = |change: fn(&mut Mount)| {
            let mut mount = Mount::default();
            change(&mut mount);
            ContainerConfig { mounts: vec![mount], ..Default::default() }
        };
        let twice = mount(|m| m.propagation = Propagation::Bidirectional);
        assert!(refused(&sandbox, &twice).contains("mounts[0].propagation"));
        let other = mount(|m| m.uid_mappings = vec![map(0, 7, 7)]);
        assert!(refused(&sandbox, &other).contains("mounts[0].uidMappings"));
        let user = |uid| ResolvedUser { uid, ..Default::default() };
        validate_user(&sandbox, &user(99)).unwrap();
        assert!(validate_user(&sandbox, &user(100)).unwrap_err().to_string().contains("run_as_user"));
        assert_eq!(owner(&sandbox), Some(Owner { uid: 1000, gid: 1000 }));
    }
}
