//! The shim's own surroundings: a mount namespace with nearly nothing in it, and the pod's namespaces.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_launch::{Hierarchy, UserNamespace, node_name};
use berth_shim_wire::{DeviceNode, IdRange, SandboxPlan};
use berth_sys::mount::{self, Attributes, Context};
use berth_sys::process;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};

/// Names in the root of the shim's mount namespace.
pub(crate) const ROOTFS: &CStr = c"rootfs";
pub(crate) const SHM: &CStr = c"shm";
pub(crate) const SHM_PATH: &CStr = c"/shm";
pub(crate) const NULL_PATH: &CStr = c"/null";
const NODES: &CStr = c"dev";
pub(crate) const NODES_PATH: &CStr = c"/dev";
pub(crate) const SYS_PATH: &CStr = c"/sys";

/// What was opened before the host's tree went out of sight.
#[derive(Debug)]
pub(crate) struct Host {
    /// The host's /proc.
    pub(crate) proc: OwnedFd,
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// The root of our own mount namespace.
    pub(crate) base: OwnedFd,
    /// For standard streams of nobody.
    pub(crate) null: OwnedFd,
    /// The pid namespace we were born in.
    pub(crate) pid_namespace: OwnedFd,
    /// The pod's own, which owns its other namespaces.
    pub(crate) userns: Option<UserNamespace>,
    /// The pod has a network namespace of its own.
    pub(crate) own_net: bool,
}

fn open(path: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty())?)
}

impl Host {
    /// Leaves the host's mounts for a namespace with one small tmpfs: a container's namespace is a copy of it, so its
    /// cost does not grow with the host's mounts, and nothing of the host is pinned.
    pub(crate) fn leave() -> io::Result<Self> {
        let proc = open(c"/proc", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let null = open(c"/dev/null", OFlag::O_RDWR)?;
        let pid_namespace = open(c"/proc/self/ns/pid", OFlag::O_RDONLY)?;

        process::unshare(libc::CLONE_NEWNS)?;
        let root = open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        mount::set_propagation(root.as_fd(), mount::Propagation::Private, true)?;
        let context = Context::open(c"tmpfs")?;
        context.set_string(c"size", c"65536")?;
        // Passed through by those who are somebody else on the host: children in a user namespace.
        context.set_string(c"mode", c"0711")?;
        let base = context.mount(Attributes::default())?;
        for name in [ROOTFS, SHM] {
            mkdirat(&base, name, Mode::from_bits_truncate(0o700))?;
        }
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&base, c"null", SFlag::S_IFCHR, mode, makedev(1, 3))?;
        // Any directory will do as a place: it goes out of sight with the old root.
        mount::attach_at(base.as_fd(), root.as_fd(), c"proc")?;
        mount::pivot_to(base.as_fd())?;
        Ok(Self {
            proc,
            hierarchies: Hierarchy::parse(&mountinfo),
            base,
            null,
            pid_namespace,
            userns: None,
            own_net: false,
        })
    }

    /// Makes the pod's namespaces, in which the shim then lives, and gives the network namespace.
    pub(crate) fn set_up(&mut self, plan: &SandboxPlan) -> Result<OwnedFd, Failed> {
        self.own_net = plan.new_net;
        match &plan.userns {
            Some(maps) => self.userns = Some(self.own(plan, maps)?),
            None => {
                process::unshare(namespaces(plan)).map_err(at("make the pod's namespaces", ""))?;
                self.configure(plan)?;
            }
        }
        if plan.shm_size > 0 {
            self.shm(plan).map_err(at("make the pod's /dev/shm", ""))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&self.proc, c"self/ns/net", flags, Mode::empty())
            .map_err(|error| at("open the network namespace", "")(error.into()))
    }

    /// What the pod's namespaces are configured with, by somebody who is in them and their root.
    pub(crate) fn configure(&self, plan: &SandboxPlan) -> Result<(), Failed> {
        if let Some(name) = plan.hostname.as_deref().filter(|_| plan.new_uts) {
            process::set_hostname(name).map_err(at("set the hostname", &name.to_string_lossy()))?;
        }
        for (path, value) in &plan.sysctls {
            let name = path.to_string_lossy();
            self.sysctl(path.to_bytes(), value.to_bytes()).map_err(at("set the sysctl", &name))?;
        }
        Ok(())
    }

    /// Nodes for the devices of a container whose user namespace keeps it from making them.
    pub(crate) fn nodes(&self, devices: &[DeviceNode]) -> io::Result<()> {
        for device in devices {
            let (name, mode) = (node_name(device), Mode::from_bits_truncate(device.mode));
            let kind = if device.character { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
            let directory = nix::fcntl::openat(
                &self.base,
                NODES,
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            match mknodat(
                &directory,
                name.as_c_str(),
                kind,
                mode,
                makedev(device.major.into(), device.minor.into()),
            ) {
                Err(nix::Error::EEXIST) => continue,
                made => made?,
            }
            // The shim's umask took from the mode; nobody else writes here, so the name is still what was made.
            fchmodat(&directory, name.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
            let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
            fchownat(&directory, name.as_c_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn sysctl(&self, path: &[u8], value: &[u8]) -> io::Result<()> {
        let sys = nix::fcntl::openat(&self.proc, c"sys", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let path = std::ffi::CString::new(path)?;
        let file = berth_sys::path::open_in_root(&sys, path.as_c_str(), OFlag::O_WRONLY, Mode::empty())?;
        berth_sys::fd::write(&file, value).map(drop)
    }

    fn shm(&self, plan: &SandboxPlan) -> io::Result<()> {
        let context = Context::open(c"tmpfs")?;
        let text = |number: String| std::ffi::CString::new(number).unwrap_or_default();
        context.set_string(c"mode", c"1777")?;
        context.set_string(c"size", &text(plan.shm_size.to_string()))?;
        if let Some(maps) = &plan.userns {
            for (key, ranges) in [(c"uid", &maps.uids), (c"gid", &maps.gids)] {
                context.set_string(key, &text(IdRange::outside(ranges, 0).unwrap_or(0).to_string()))?;
            }
        }
        let shm = context.mount(Attributes::KERNEL)?;
        mount::attach_at(shm.as_fd(), self.base.as_fd(), SHM)
    }

    /// In our mount namespace, of which those of containers are copies. The kernel lets a user namespace mount a proc or
    /// sysfs only where it sees one whole already (mount_namespaces(7)); and devices are bound from here.
    pub(crate) fn show_kernel_trees(&self) -> io::Result<()> {
        for (filesystem, name) in [(c"proc", c"proc"), (c"sysfs", c"sys")] {
            mkdirat(&self.base, name, Mode::from_bits_truncate(0o755))?;
            let tree = Context::open(filesystem)?.mount(Attributes::default())?;
            mount::attach_at(tree.as_fd(), self.base.as_fd(), name)?;
        }
        let open = Mode::from_bits_truncate(0o711);
        mkdirat(&self.base, NODES, open)?;
        // The shim's umask took from it.
        Ok(fchmodat(&self.base, NODES, open, FchmodatFlags::FollowSymlink)?)
    }
}

/// Step, object, cause.
pub(crate) type Failed = (&'static str, String, io::Error);

pub(crate) fn at(step: &'static str, object: &str) -> impl FnOnce(io::Error) -> Failed {
    let object = object.to_owned();
    move |error| (step, object, error)
}

fn namespaces(plan: &SandboxPlan) -> i32 {
    let flag = |on, flag| if on { flag } else { 0 };
    flag(plan.new_net, libc::CLONE_NEWNET)
        | flag(plan.new_ipc, libc::CLONE_NEWIPC)
        | flag(plan.new_uts, libc::CLONE_NEWUTS)
}
