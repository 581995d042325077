//! Who the process becomes, and the last things before it is somebody else's program.

use berth_shim_wire::Identity;
use berth_sys::process::{self, Capabilities};

use crate::report::{At as _, Step};

/// In the order that works: the bounding set while there is a capability to change it, groups before the user, the
/// filter while CAP_SYS_ADMIN is still there (without no_new_privs it needs that), the final sets last.
pub(crate) fn become_user(identity: &Identity) -> Step<()> {
    let caps = identity.caps;
    process::umask(identity.umask);
    process::keep_capabilities().at("keep capabilities", "")?;
    process::drop_bounding(caps.bounding).at("drop capabilities", "")?;
    process::set_groups(&identity.groups).at("set groups", "")?;
    process::set_gid(identity.gid).at("set the group", identity.gid.to_string())?;
    process::set_uid(identity.uid).at("set the user", identity.uid.to_string())?;
    let last =
        Capabilities { effective: caps.effective, permitted: caps.permitted, inheritable: caps.inheritable };
    if identity.no_new_privs {
        process::set_capabilities(last).at("set capabilities", "")?;
        ambient(caps.ambient)?;
        process::set_no_new_privs().at("set no_new_privs", "")?;
        return filter(identity);
    }
    if !identity.seccomp.is_empty() {
        /// capabilities(7): CAP_SYS_ADMIN.
        const SYS_ADMIN: u64 = 1 << 21;
        // Kept permitted over the change of user, but no longer in effect then.
        let install = Capabilities {
            effective: caps.permitted | SYS_ADMIN,
            permitted: caps.permitted | SYS_ADMIN,
            inheritable: caps.inheritable,
        };
        process::set_capabilities(install).at("set capabilities", "")?;
        filter(identity)?;
    }
    process::set_capabilities(last).at("set capabilities", "")?;
    ambient(caps.ambient)
}

fn ambient(wanted: u64) -> Step<()> {
    process::clear_ambient().at("clear ambient capabilities", "")?;
    process::raise_ambient(wanted).at("raise ambient capabilities", "")
}

fn filter(identity: &Identity) -> Step<()> {
    match identity.seccomp.is_empty() {
        true => Ok(()),
        false => process::install_seccomp(&identity.seccomp, identity.seccomp_flags)
            .at("install the seccomp filter", ""),
    }
}
