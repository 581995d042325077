//! The shim's own surroundings: a mount namespace with nearly nothing in it, and the pod's namespaces.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_launch::Hierarchy;
use berth_shim_wire::SandboxPlan;
use berth_sys::mount::{self, Attributes, Context};
use berth_sys::process;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};

/// Names in the root of the shim's mount namespace.
pub(crate) const ROOTFS: &CStr = c"rootfs";
pub(crate) const SHM: &CStr = c"shm";
pub(crate) const SHM_PATH: &CStr = c"/shm";
pub(crate) const NULL_PATH: &CStr = c"/null";

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
        context.set_string(c"mode", c"0700")?;
        let base = context.mount(Attributes::default())?;
        for name in [ROOTFS, SHM] {
            mkdirat(&base, name, Mode::from_bits_truncate(0o700))?;
        }
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&base, c"null", SFlag::S_IFCHR, mode, makedev(1, 3))?;
        // Any directory will do as a place: it goes out of sight with the old root.
        mount::attach_at(base.as_fd(), root.as_fd(), c"proc")?;
        mount::pivot_to(base.as_fd())?;
        Ok(Self { proc, hierarchies: Hierarchy::parse(&mountinfo), base, null, pid_namespace })
    }

    /// Makes the pod's namespaces, in which the shim then lives, and gives the network namespace.
    pub(crate) fn set_up(&self, plan: &SandboxPlan) -> Result<OwnedFd, (&'static str, String, io::Error)> {
        let at = |step, object: &str| {
            let object = object.to_owned();
            move |error| (step, object, error)
        };
        let flag = |on, flag| if on { flag } else { 0 };
        let flags = flag(plan.new_net, libc::CLONE_NEWNET)
            | flag(plan.new_ipc, libc::CLONE_NEWIPC)
            | flag(plan.new_uts, libc::CLONE_NEWUTS);
        process::unshare(flags).map_err(at("make the pod's namespaces", ""))?;
        if let Some(name) = plan.hostname.as_deref().filter(|_| plan.new_uts) {
            process::set_hostname(name).map_err(at("set the hostname", &name.to_string_lossy()))?;
        }
        for (path, value) in &plan.sysctls {
            let name = path.to_string_lossy();
            self.sysctl(path.to_bytes(), value.to_bytes()).map_err(at("set the sysctl", &name))?;
        }
        if plan.shm_size > 0 {
            self.shm(plan.shm_size).map_err(at("make the pod's /dev/shm", ""))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&self.proc, c"self/ns/net", flags, Mode::empty())
            .map_err(|error| ("open the network namespace", String::new(), error.into()))
    }

    fn sysctl(&self, path: &[u8], value: &[u8]) -> io::Result<()> {
        let sys = nix::fcntl::openat(&self.proc, c"sys", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let path = std::ffi::CString::new(path)?;
        let file = berth_sys::path::open_in_root(&sys, path.as_c_str(), OFlag::O_WRONLY, Mode::empty())?;
        berth_sys::fd::write(&file, value).map(drop)
    }

    fn shm(&self, size: u64) -> io::Result<()> {
        let context = Context::open(c"tmpfs")?;
        context.set_string(c"mode", c"1777")?;
        let size = std::ffi::CString::new(size.to_string())?;
        context.set_string(c"size", &size)?;
        let shm = context.mount(Attributes::KERNEL)?;
        mount::attach_at(shm.as_fd(), self.base.as_fd(), SHM)
    }
}
