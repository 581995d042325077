//! Attaches: descriptors for a running container's standard streams.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::{AttachPlan, FdIndex, Reply, StepError};
use berth_sys::fd as sysfd;

use crate::log::Stream;
use crate::requests::{At as _, failed, pick};
use crate::shim::{Shim, TAP};
use crate::taps::Tap;

impl Shim {
    /// Which container it was, and the answer. Nothing of it stays when it fails.
    pub(crate) fn attach(
        &mut self,
        plan: &AttachPlan,
        fds: &[OwnedFd],
    ) -> Result<(u32, Reply, Vec<OwnedFd>), StepError> {
        let id = plan.container_id.as_str();
        self.running(id)?;
        let wanted = [(Stream::Stdout, plan.stdout), (Stream::Stderr, plan.stderr)];
        let mut taps = Vec::new();
        for (stream, index) in wanted {
            let Some(index) = index else { continue };
            let pipe = pick(fds, index)?.try_clone().at("open the pipe of an attach to", id)?;
            sysfd::set_nonblocking(pipe.as_fd(), true).at("open the pipe of an attach to", id)?;
            let event = TAP | u64::from(self.number());
            let attach_id = plan.attach_id;
            taps.push(Tap::new(event, attach_id, stream, pipe, plan.waits));
        }
        let gone = || failed("find a running container", id, &io::Error::from_raw_os_error(libc::ESRCH));
        let found = self.containers.iter_mut().find(|(_, c)| c.id == id);
        let (number, container) = found.map(|(number, c)| (*number, c)).ok_or_else(gone)?;

        let mut given = Vec::new();
        let mut give = |fd: OwnedFd| {
            given.push(fd);
            FdIndex(given.len() as u16 - 1)
        };
        let copy = |fd: &Option<OwnedFd>| {
            fd.as_ref().map(OwnedFd::try_clone).transpose().at("copy the stdin of", id)
        };
        let terminal = if container.terminal { copy(&container.stdin)?.map(&mut give) } else { None };
        let copied = if plan.stdin && container.takes_stdin { copy(&container.stdin)? } else { None };
        for mut tap in taps {
            tap.terminal = container.terminal;
            // An ended stream has nobody to wait for: the pipe closes, and its reader sees the end.
            if !container.has_ended(tap.stream)
                && let Err(error) = container.taps.add(tap, &self.epoll)
            {
                container.taps.take_back(plan.attach_id, &self.epoll);
                return Err(failed("attach one more reader to", id, &error));
            }
        }
        container.taps.attached(plan.attach_id);
        if copied.is_some() && plan.stdin_once && !container.terminal {
            // The copy is the last end: whoever has it closes the container's stdin with it.
            container.stdin = None;
        }
        let stdin = copied.map(&mut give);
        Ok((number, Reply::Attached { stdin, terminal }, given))
    }
}
