//! The life of a container's first process up to its own program.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_shim_wire::{LaunchPlan, MountKind};
use berth_sys::mount::{self, Attributes};
use berth_sys::{process, tty};
use nix::fcntl::OFlag;

use crate::identity::become_user;
use crate::mounts::{Materials, mount_one, protect, spread_root};
use crate::process::{enter_cwd, execute, give, oom_score, rlimits, streams, tie_to_parent};
use crate::report::{At as _, Failed, Report, Step};
use crate::root::Root;
use crate::{Hierarchy, UserNamespace, devices};

/// Where the standard streams go.
#[derive(Debug)]
pub enum Streams {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own; its master is sent over this socket.
    Terminal {
        socket: OwnedFd,
    },
}

/// What a birth needs besides its plan: prepared by the shim, used in the child only.
#[derive(Debug)]
pub struct Birth<'a> {
    pub plan: &'a LaunchPlan,
    /// What the plan's indices point into.
    pub fds: &'a [OwnedFd],
    pub streams: Streams,
    pub report: Report,
    /// One byte comes when the process is in its cgroups. `None`: it was born there.
    pub attached: Option<OwnedFd>,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    pub hierarchies: &'a [Hierarchy],
    /// In the root of the shim's mount namespace: an empty directory; and paths of the pod's shared memory and of a null
    /// device.
    pub rootfs: &'a CStr,
    pub shm: &'a CStr,
    pub null: &'a CStr,
    /// The pod's; [`crate::enter_for`] has entered it.
    pub userns: Option<&'a UserNamespace>,
    /// Where the nodes of the plan's devices are (see [`crate::node_name`]): in a user namespace nobody can make one.
    pub nodes: &'a CStr,
    /// The host's /sys, for a pod of the host's network in a user namespace of its own: that may not mount one.
    pub sysfs: Option<&'a CStr>,
}

/// Runs in the cloned child; never returns.
pub fn launch(birth: Birth<'_>) -> ! {
    let report = &birth.report;
    let failed = match run(&birth) {
        Err(failed) => failed,
        Ok(never) => never,
    };
    report.fail(&failed);
    // No destructors, no exit handlers: they belong to the shim this process is a copy of.
    // SAFETY: _exit(2) ends the process and touches nothing of it.
    unsafe { libc::_exit(127) }
}

fn run(birth: &Birth<'_>) -> Step<Failed> {
    let plan = birth.plan;
    process::set_dumpable(false).at("hide from tracing", "")?;
    process::umask(0);
    if birth.userns.is_none() {
        oom_score(plan.oom_score_adj, birth.proc, &birth.report)?;
    }
    let root = take_root(birth)?;
    let from = Materials {
        fds: birth.fds,
        shm: birth.shm,
        hierarchies: birth.hierarchies,
        sysfs: birth.sysfs,
        userns: birth.userns,
    };
    let nodes = birth.userns.map(|_| birth.nodes);
    let mut settled = false;
    for step in &plan.mounts {
        if step.kind == MountKind::Cgroup {
            settle_cgroup(birth, &mut settled)?;
        }
        mount_one(&root, step, &from)?;
        // Only in a /dev of our own: one bound from the host is not ours to fill.
        if step.target.as_c_str() == c"/dev" && matches!(step.kind, MountKind::Tmpfs { .. }) {
            devices::make_all(&root, plan, nodes)?;
        }
    }
    settle_cgroup(birth, &mut settled)?;
    let terminal = open_terminal(birth, &root)?;
    protect(&root, plan, birth.null)?;
    let cwd = root.directory(&plan.cwd).at("make the working directory", plan.cwd.to_bytes())?;
    drop(cwd);
    if plan.rootfs_readonly {
        let only_read = Attributes { readonly: true, ..Attributes::default() };
        mount::set_attributes(root.0.as_fd(), only_read, false).at("make read-only", "/")?;
    }
    mount::pivot_to(root.0.as_fd()).at("make the container's root ours", "")?;
    spread_root(&root, plan.rootfs_propagation)?;
    process::session_leader().at("lead a session", "")?;
    connect(birth, terminal)?;
    enter_cwd(&root, &plan.cwd)?;
    // Nothing is opened from here on: a low limit of descriptors is below the numbers of the shim's own, which are here too.
    rlimits(&plan.rlimits, &birth.report)?;
    become_user(&plan.identity)?;
    tie_to_parent(&birth.report)?;
    Ok(execute(&plan.argv, &plan.env))
}

/// The overlay, mounted in our copy of the shim's namespace.
fn take_root(birth: &Birth<'_>) -> Step<Root> {
    let overlay = birth.fds.get(usize::from(birth.plan.rootfs.0));
    let overlay = overlay.ok_or(nix::Error::EBADF).at("find the root filesystem", "")?;
    // Opened here: what the shim holds is in its namespace, not in our copy.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let base = nix::fcntl::open(c"/", flags, nix::sys::stat::Mode::empty()).at("open", "/")?;
    mount::attach_at(overlay.as_fd(), base.as_fd(), birth.rootfs).at("mount the root filesystem", "")?;
    let opened = overlay.try_clone().at("open the root filesystem", "")?;
    Ok(Root(opened))
}

/// A cgroup namespace is rooted where its maker is: so only after the process was put into its cgroups.
fn settle_cgroup(birth: &Birth<'_>, settled: &mut bool) -> Step<()> {
    if *settled {
        return Ok(());
    }
    *settled = true;
    if let Some(attached) = &birth.attached {
        let mut byte = [0];
        match berth_sys::fd::read(attached, &mut byte) {
            Ok(1) => {}
            // The shim closed it: it could not, and says so itself.
            Ok(_) => return Err(nix::Error::ECANCELED).at("join the cgroup", ""),
            Err(error) => return Err(error).at("join the cgroup", ""),
        }
    }
    process::unshare(libc::CLONE_NEWCGROUP).at("make a cgroup namespace", "")
}

/// A terminal of the container's devpts; its master goes to the shim, and /dev/console shows it.
fn open_terminal(birth: &Birth<'_>, root: &Root) -> Step<Option<OwnedFd>> {
    let Streams::Terminal { socket } = &birth.streams else { return Ok(None) };
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = root.open_as(c"/dev/pts/ptmx", flags).at("open", "/dev/pts/ptmx")?;
    let terminal = tty::open_peer(master.as_fd()).at("open the terminal", "")?;
    let console = root.place(c"/dev/console", false).at("make", "/dev/console")?;
    let tree = mount::clone_tree(terminal.as_fd(), false).at("clone the terminal", "")?;
    mount::attach(tree.as_fd(), console.as_fd()).at("mount", "/dev/console")?;
    berth_sys::fd::send_packet(socket.as_fd(), b"t", &[master.as_fd()]).at("hand over the terminal", "")?;
    Ok(Some(terminal))
}

fn connect(birth: &Birth<'_>, terminal: Option<OwnedFd>) -> Step<()> {
    let uid = birth.plan.identity.uid;
    match (&birth.streams, terminal) {
        (Streams::Pipes { stdin, stdout, stderr }, _) => {
            if birth.userns.is_none() {
                give(&[stdin, stdout, stderr], uid)?;
            }
            streams(stdin, stdout, stderr)
        }
        (Streams::Terminal { .. }, Some(terminal)) => {
            give(&[&terminal], uid)?;
            tty::control(terminal.as_fd()).at("take the terminal", "")?;
            streams(&terminal, &terminal, &terminal)
        }
        (Streams::Terminal { .. }, None) => Err(nix::Error::ENXIO).at("find the terminal", ""),
    }
}
