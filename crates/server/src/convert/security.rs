use berth_cri_api::v1;
use berth_cri_api::v1::security_profile::ProfileType;
use berth_model::{
    Capabilities, ContainerSecurity, GroupsPolicy, IdMapping, NamespaceMode, NamespaceOptions, ProfileKind,
    SandboxSecurity, SecurityProfile, SelinuxOptions, UserNamespace,
};

use super::{invalid, known};
use crate::Failure;

fn mode(field: &str, number: i32) -> Result<NamespaceMode, Failure> {
    Ok(match known(field, number)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    })
}

fn to_mode(mode: NamespaceMode) -> i32 {
    let mode = match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target => v1::NamespaceMode::Target,
    };
    mode.into()
}

fn mappings(list: Vec<v1::IdMapping>) -> Vec<IdMapping> {
    list.into_iter()
        .map(|m| IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length })
        .collect()
}

pub(crate) fn id_mappings(list: Vec<v1::IdMapping>) -> Vec<IdMapping> {
    mappings(list)
}

pub(crate) fn namespaces(
    field: &str,
    given: Option<v1::NamespaceOption>,
) -> Result<NamespaceOptions, Failure> {
    let Some(given) = given else { return Ok(NamespaceOptions::default()) };
    let field = format!("{field}.namespace_options");
    let userns = given.userns_options.map(|u| {
        let mode = mode(&format!("{field}.userns_options.mode"), u.mode)?;
        Ok::<_, Failure>(UserNamespace { mode, uids: mappings(u.uids), gids: mappings(u.gids) })
    });
    Ok(NamespaceOptions {
        network: mode(&format!("{field}.network"), given.network)?,
        pid: mode(&format!("{field}.pid"), given.pid)?,
        ipc: mode(&format!("{field}.ipc"), given.ipc)?,
        target_id: given.target_id,
        userns: userns.transpose()?,
    })
}

pub(crate) fn to_namespaces(options: NamespaceOptions) -> v1::NamespaceOption {
    let back = |list: Vec<IdMapping>| {
        let one = |m: IdMapping| v1::IdMapping {
            host_id: m.host_id,
            container_id: m.container_id,
            length: m.length,
        };
        list.into_iter().map(one).collect()
    };
    v1::NamespaceOption {
        network: to_mode(options.network),
        pid: to_mode(options.pid),
        ipc: to_mode(options.ipc),
        target_id: options.target_id,
        userns_options: options.userns.map(|u| v1::UserNamespace {
            mode: to_mode(u.mode),
            uids: back(u.uids),
            gids: back(u.gids),
        }),
    }
}

/// The deprecated path field says the same in text: `runtime/default`, `unconfined`, `localhost/<path>`.
fn profile(
    field: &str,
    given: Option<v1::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, Failure> {
    let Some(given) = given else {
        let kind = match old {
            "" => return Ok(None),
            "runtime/default" | "docker/default" => ProfileKind::RuntimeDefault,
            "unconfined" => ProfileKind::Unconfined,
            path if path.starts_with("localhost/") => ProfileKind::Localhost,
            other => return Err(invalid(format!("{field}_profile"), format!("unknown profile {other:?}"))),
        };
        let localhost_ref = old.strip_prefix("localhost/").unwrap_or_default().to_owned();
        return Ok(Some(SecurityProfile { kind, localhost_ref }));
    };
    let kind = match known(format!("{field}.profile_type"), given.profile_type)? {
        ProfileType::RuntimeDefault => ProfileKind::RuntimeDefault,
        ProfileType::Unconfined => ProfileKind::Unconfined,
        ProfileType::Localhost => ProfileKind::Localhost,
    };
    if kind == ProfileKind::Localhost && given.localhost_ref.is_empty() {
        return Err(invalid(format!("{field}.localhost_ref"), "must be given with a localhost profile"));
    }
    Ok(Some(SecurityProfile { kind, localhost_ref: given.localhost_ref }))
}

fn selinux(given: Option<v1::SeLinuxOption>) -> Option<SelinuxOptions> {
    given.map(|s| SelinuxOptions { user: s.user, role: s.role, kind: s.r#type, level: s.level })
}

fn policy(field: &str, number: i32) -> Result<GroupsPolicy, Failure> {
    Ok(match known(format!("{field}.supplemental_groups_policy"), number)? {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

#[expect(deprecated, reason = "clients of older releases still send the path fields")]
pub(crate) fn sandbox_security(
    field: &str,
    given: Option<v1::LinuxSandboxSecurityContext>,
) -> Result<SandboxSecurity, Failure> {
    let Some(given) = given else { return Ok(SandboxSecurity::default()) };
    Ok(SandboxSecurity {
        namespaces: namespaces(field, given.namespace_options)?,
        selinux: selinux(given.selinux_options),
        run_as_user: given.run_as_user.map(|v| v.value),
        run_as_group: given.run_as_group.map(|v| v.value),
        readonly_rootfs: given.readonly_rootfs,
        supplemental_groups: given.supplemental_groups,
        groups_policy: policy(field, given.supplemental_groups_policy)?,
        privileged: given.privileged,
        seccomp: profile(&format!("{field}.seccomp"), given.seccomp, &given.seccomp_profile_path)?,
        apparmor: profile(&format!("{field}.apparmor"), given.apparmor, "")?,
    })
}

#[expect(deprecated, reason = "clients of older releases still send the path fields")]
pub(crate) fn container_security(
    field: &str,
    given: Option<v1::LinuxContainerSecurityContext>,
) -> Result<ContainerSecurity, Failure> {
    let Some(given) = given else { return Ok(ContainerSecurity::default()) };
    let capabilities = given.capabilities.unwrap_or_default();
    Ok(ContainerSecurity {
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: given.privileged,
        namespaces: namespaces(field, given.namespace_options)?,
        selinux: selinux(given.selinux_options),
        run_as_user: given.run_as_user.map(|v| v.value),
        run_as_group: given.run_as_group.map(|v| v.value),
        run_as_username: given.run_as_username,
        readonly_rootfs: given.readonly_rootfs,
        supplemental_groups: given.supplemental_groups,
        groups_policy: policy(field, given.supplemental_groups_policy)?,
        no_new_privs: given.no_new_privs,
        masked_paths: given.masked_paths,
        readonly_paths: given.readonly_paths,
        seccomp: profile(&format!("{field}.seccomp"), given.seccomp, &given.seccomp_profile_path)?,
        apparmor: profile(&format!("{field}.apparmor"), given.apparmor, &given.apparmor_profile)?,
    })
}
