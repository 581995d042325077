//! A pod's own user namespace, and the other namespaces as its property.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_launch::{UserNamespace, become_root_inside, clone_child};
use berth_shim_wire::{IdRange, SandboxPlan, UserNamespace as Maps};
use berth_sys::fd as sysfd;
use berth_sys::process::{self, CloneFlags};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::host::{Failed, Host, at};

impl Host {
    /// A child makes them all in one clone, so the user namespace owns the others; it configures them as their root,
    /// because kernel.* sysctls ask for just that. We, who stay outside, join what it made and it ends.
    pub(crate) fn own(&self, plan: &SandboxPlan, maps: &Maps) -> Result<UserNamespace, Failed> {
        let fail = |step| at(step, "");
        self.show_kernel_trees().map_err(fail("show proc and sysfs to the user namespace"))?;
        let ((go_read, go), (told, tell)) = pipes().map_err(fail("make pipes"))?;
        let (mut go, mut told) = (Some(go), Some(told));
        let flags = CloneFlags {
            new_user: true,
            new_net: plan.new_net,
            new_ipc: plan.new_ipc,
            new_uts: plan.new_uts,
            ..CloneFlags::default()
        };
        let child = || {
            drop((go.take(), told.take()));
            let mut byte = [0];
            if sysfd::read(&go_read, &mut byte).is_ok_and(|length| length == 1) {
                let _ = sysfd::write(&tell, &self.configure_inside(plan));
                // Until we were joined.
                let _ = sysfd::read(&go_read, &mut byte);
            }
        };
        let (pid, _pidfd) = clone_child(flags, None, child).map_err(fail("make the pod's user namespace"))?;
        drop((go_read, tell));
        let (Some(go), Some(told)) = (go, told) else {
            return Err(fail("make the pod's user namespace")(io::ErrorKind::BrokenPipe.into()));
        };
        for (file, ranges) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
            self.map(pid, file, ranges).map_err(at("map the ids of the user namespace", file))?;
        }
        sysfd::write(&go, b"g").map_err(fail("configure the pod's namespaces"))?;
        let mut answer = [0; 2048];
        let length = sysfd::read(&told, &mut answer).map_err(fail("configure the pod's namespaces"))?;
        understand(&answer[..length])?;
        let userns = self.namespace(pid, "user").map_err(fail("open the user namespace"))?;
        for (new, name, kind) in [
            (plan.new_net, "net", libc::CLONE_NEWNET),
            (plan.new_ipc, "ipc", libc::CLONE_NEWIPC),
            (plan.new_uts, "uts", libc::CLONE_NEWUTS),
        ] {
            if new {
                let joined = self.namespace(pid, name).and_then(|fd| process::enter(fd.as_fd(), kind));
                joined.map_err(at("join the pod's namespace", name))?;
            }
        }
        Ok(UserNamespace { fd: userns, maps: maps.clone() })
    }

    /// In the child: what came of it, for [`understand`].
    fn configure_inside(&self, plan: &SandboxPlan) -> Vec<u8> {
        let root = become_root_inside().map_err(|failed| (failed.step, failed.object, failed.error));
        match root.and_then(|()| self.configure(plan)) {
            Ok(()) => vec![0; 4],
            Err((step, object, error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let object = &object[..object.len().min(1024)];
                [&errno.to_le_bytes(), step.as_bytes(), b"\0", object.as_bytes()].concat()
            }
        }
    }

    /// user_namespaces(7): all lines in one write, once.
    fn map(&self, pid: i32, file: &str, ranges: &[IdRange]) -> io::Result<()> {
        let line = |r: &IdRange| format!("{} {} {}\n", r.inside, r.outside, r.count);
        let lines: String = ranges.iter().map(line).collect();
        let opened = self.of_process(pid, file, OFlag::O_WRONLY)?;
        sysfd::write(&opened, lines.as_bytes()).map(drop)
    }

    fn namespace(&self, pid: i32, name: &str) -> io::Result<OwnedFd> {
        self.of_process(pid, &format!("ns/{name}"), OFlag::O_RDONLY)
    }

    fn of_process(&self, pid: i32, file: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let path = std::ffi::CString::new(format!("{pid}/{file}"))?;
        Ok(nix::fcntl::openat(&self.proc, path.as_c_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }
}

type Pipe = (OwnedFd, OwnedFd);

fn pipes() -> io::Result<(Pipe, Pipe)> {
    Ok((sysfd::pipe(None)?, sysfd::pipe(None)?))
}

fn understand(answer: &[u8]) -> Result<(), Failed> {
    const STEP: &str = "configure the pod's namespaces";
    let Some((errno, text)) = answer.split_first_chunk::<4>() else {
        return Err(at(STEP, "")(io::ErrorKind::UnexpectedEof.into()));
    };
    match i32::from_le_bytes(*errno) {
        0 => Ok(()),
        errno => {
            let text = String::from_utf8_lossy(text).replace('\0', " ");
            Err(at(STEP, &text)(io::Error::from_raw_os_error(errno)))
        }
    }
}
