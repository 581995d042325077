//! A process born into a running container.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_shim_wire::ExecPlan;
use berth_sys::{process, tty};
use nix::fcntl::OFlag;

use crate::identity::become_user;
use crate::process::{enter_cwd, execute, give, oom_score, rlimits, streams, tie_to_parent};
use crate::report::{At as _, Failed, Report, Step};
use crate::root::Root;
use crate::{Streams, UserNamespace, become_root_inside};

/// What an exec needs besides its plan. The pid namespace is the shim's doing, before the clone.
#[derive(Debug)]
pub struct ExecBirth<'a> {
    pub plan: &'a ExecPlan,
    pub streams: Streams,
    pub report: Report,
    /// One byte comes when the process is in its cgroups.
    pub attached: Option<OwnedFd>,
    /// Of the container's process 1.
    pub container: BorrowedFd<'a>,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// The pod's, entered together with the container's other namespaces.
    pub userns: Option<&'a UserNamespace>,
}

/// Runs in the cloned child; never returns.
pub fn exec(birth: ExecBirth<'_>) -> ! {
    let failed = match run(&birth) {
        Err(failed) => failed,
        Ok(never) => never,
    };
    birth.report.fail(&failed);
    // SAFETY: _exit(2) ends the process and touches nothing of it; destructors belong to the shim we are a copy of.
    unsafe { libc::_exit(127) }
}

fn run(birth: &ExecBirth<'_>) -> Step<Failed> {
    let plan = birth.plan;
    process::set_dumpable(false).at("hide from tracing", "")?;
    oom_score(plan.oom_score_adj, birth.proc, &birth.report)?;
    if let Some(attached) = &birth.attached {
        let mut byte = [0];
        if berth_sys::fd::read(attached, &mut byte).at("join the cgroup", "")? == 0 {
            return Err(nix::Error::ECANCELED).at("join the cgroup", "");
        }
    }
    // The root and working directory become the container's with its mount namespace.
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    if let Some(userns) = birth.userns {
        namespaces |= libc::CLONE_NEWUSER;
        // While it is still ours to give.
        if let Streams::Pipes { stdin, stdout, stderr } = &birth.streams {
            give(&[stdin, stdout, stderr], userns.outside_uid(plan.identity.uid))?;
        }
    }
    process::enter(birth.container, namespaces).at("enter the container", &plan.container_id)?;
    if birth.userns.is_some() {
        become_root_inside()?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(c"/", flags, nix::sys::stat::Mode::empty()).at("open", "/")?;
    let root = Root(root);
    process::session_leader().at("lead a session", "")?;
    match &birth.streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            if birth.userns.is_none() {
                give(&[stdin, stdout, stderr], plan.identity.uid)?;
            }
            streams(stdin, stdout, stderr)?;
        }
        Streams::Terminal { socket } => {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
            let master = root.open_as(c"/dev/pts/ptmx", flags).at("open", "/dev/pts/ptmx")?;
            let terminal = tty::open_peer(master.as_fd()).at("open the terminal", "")?;
            berth_sys::fd::send_packet(socket.as_fd(), b"t", &[master.as_fd()])
                .at("hand over the terminal", "")?;
            give(&[&terminal], plan.identity.uid)?;
            tty::control(terminal.as_fd()).at("take the terminal", "")?;
            streams(&terminal, &terminal, &terminal)?;
        }
    }
    enter_cwd(&root, &plan.cwd)?;
    // Nothing is opened from here on: a low limit of descriptors is below the numbers of the shim's own, which are here too.
    rlimits(&plan.rlimits, &birth.report)?;
    become_user(&plan.identity)?;
    tie_to_parent(&birth.report)?;
    Ok(execute(&plan.argv, &plan.env))
}
