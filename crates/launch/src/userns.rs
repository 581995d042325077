//! The pod's user namespace: entered by whoever is born into it.

use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::IdRange;
use berth_sys::process;

use crate::child::{Birth, Streams};
use crate::process::{give, oom_score};
use crate::report::{At as _, Step};

/// A user namespace with its mappings.
#[derive(Debug)]
pub struct UserNamespace {
    pub fd: OwnedFd,
    pub maps: berth_shim_wire::UserNamespace,
}

impl UserNamespace {
    /// What the host calls a user of the namespace; the kernel's "nobody" for one that is not mapped, who then fails to
    /// become that user.
    pub(crate) fn outside_uid(&self, uid: u32) -> u32 {
        /// /proc/sys/kernel/overflowuid, as every kernel has it.
        const NOBODY: u32 = 65534;
        IdRange::outside(&self.maps.uids, uid).unwrap_or(NOBODY)
    }
}

/// Root of a user namespace just joined, with every capability in it and none outside.
pub fn become_root_inside() -> Step<()> {
    process::set_groups(&[]).at("drop groups", "")?;
    process::set_gid(0).at("become root of the user namespace", "")?;
    process::set_uid(0).at("become root of the user namespace", "")
}

/// What needs the host's privileges, then the namespace and a mount namespace that belongs to it: what is mounted from
/// here on is the user namespace's. `false`: it failed, and the report says how.
pub fn enter_for(birth: &Birth<'_>) -> bool {
    let enter = || -> Step<()> {
        let Some(userns) = birth.userns else { return Ok(()) };
        process::set_dumpable(false).at("hide from tracing", "")?;
        oom_score(birth.plan.oom_score_adj, birth.proc, &birth.report)?;
        if let Streams::Pipes { stdin, stdout, stderr } = &birth.streams {
            give(&[stdin, stdout, stderr], userns.outside_uid(birth.plan.identity.uid))?;
        }
        process::enter(userns.fd.as_fd(), libc::CLONE_NEWUSER).at("enter the user namespace", "")?;
        become_root_inside()?;
        process::unshare(libc::CLONE_NEWNS).at("make a mount namespace", "")
    };
    let entered = enter();
    if let Err(failed) = &entered {
        birth.report.fail(failed);
    }
    entered.is_ok()
}
