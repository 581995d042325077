//! The standard streams of a container that runs already.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use berth_ids::ContainerId;
use berth_shim_wire::{AttachPlan, FdIndex, Reply, Request};
use berth_sys::{fd as sysfd, tty};
use tokio::sync::watch;

use crate::pod::{Desk, PATIENCE, ShimPod, patient};
use crate::{Ends, ShimError};

/// How far a reader may be behind, in bytes: what the kernel keeps in a pipe for it.
const BEHIND_MAX: usize = 1024 * 1024;

/// Which standard streams somebody wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Wanted {
    /// Closes what was not asked for.
    pub(crate) fn of(self, ends: Ends) -> Ends {
        Ends {
            stdin: ends.stdin.filter(|_| self.stdin),
            stdout: ends.stdout.filter(|_| self.stdout),
            stderr: ends.stderr.filter(|_| self.stderr),
        }
    }
}

impl ShimPod {
    /// Everything the container writes from here on, and what it reads; `stdin_once`: its stdin ends with ours, `waits`: it
    /// writes no faster than we read. Closing the ends is all it takes to leave.
    pub async fn attach(
        &self,
        container: &ContainerId,
        wanted: Wanted,
        stdin_once: bool,
        waits: bool,
    ) -> Result<(Ends, Attach), ShimError> {
        let attach_id = self.number();
        let mut theirs: Vec<OwnedFd> = Vec::new();
        let mut pipe = |wanted: bool| -> Result<(Option<OwnedFd>, Option<FdIndex>), ShimError> {
            if !wanted {
                return Ok((None, None));
            }
            let (reader, writer) = sysfd::pipe(Some(BEHIND_MAX)).map_err(ShimError::Socket)?;
            sysfd::set_nonblocking(reader.as_fd(), true).map_err(ShimError::Socket)?;
            theirs.push(writer);
            Ok((Some(reader), Some(FdIndex(theirs.len() as u16 - 1))))
        };
        let ((stdout, stdout_index), (stderr, stderr_index)) = (pipe(wanted.stdout)?, pipe(wanted.stderr)?);
        let plan = AttachPlan {
            container_id: container.to_string(),
            attach_id,
            stdin: wanted.stdin,
            stdin_once,
            stdout: stdout_index,
            stderr: stderr_index,
            waits,
        };
        let (tell, ended) = watch::channel(None);
        self.desk.attaches.lock().insert(attach_id, tell);
        let place = Place { desk: self.desk.clone(), attach_id };
        let borrowed: Vec<BorrowedFd<'_>> = theirs.iter().map(|fd| fd.as_fd()).collect();
        let answer = patient(PATIENCE, self.connection.call(&Request::Attach(plan), &borrowed)).await?;
        drop(theirs);
        let (Reply::Attached { stdin, terminal }, given) = answer else { return Err(ShimError::Protocol) };
        let mut given: Vec<Option<OwnedFd>> = given.into_iter().map(Some).collect();
        let mut take = |index: Option<FdIndex>| match index {
            Some(index) => {
                let fd = given.get_mut(usize::from(index.0)).and_then(Option::take);
                fd.ok_or(ShimError::Protocol).map(Some)
            }
            None => Ok(None),
        };
        let (stdin, terminal) = (take(stdin)?, take(terminal)?);
        let stdin = match stdin {
            // A container without a stdin: a pipe that nobody reads from says so to whoever writes.
            None if wanted.stdin => Some(sysfd::pipe(None).map_err(ShimError::Socket)?.1),
            stdin => stdin,
        };
        if let Some(stdin) = &stdin {
            // Nobody but us and others like us writes to it.
            sysfd::set_nonblocking(stdin.as_fd(), true).map_err(ShimError::Socket)?;
        }
        Ok((Ends { stdin, stdout, stderr }, Attach { ended, terminal, _place: place }))
    }

    /// A TCP socket that lives in the pod's network, not connected and non-blocking, made by the shim: no thread of the
    /// daemon goes there.
    pub async fn socket(&self, ipv6: bool) -> Result<OwnedFd, ShimError> {
        match patient(PATIENCE, self.connection.call(&Request::Socket { ipv6 }, &[])).await? {
            (Reply::Socket { socket: FdIndex(0) }, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
            _ => Err(ShimError::Protocol),
        }
    }
}

/// Somebody reads along.
#[derive(Debug)]
pub struct Attach {
    ended: watch::Receiver<Option<bool>>,
    terminal: Option<OwnedFd>,
    _place: Place,
}

impl Attach {
    /// Without a terminal nothing happens.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), ShimError> {
        match &self.terminal {
            Some(terminal) => tty::resize(terminal.as_fd(), columns, rows).map_err(ShimError::Socket),
            None => Ok(()),
        }
    }

    /// Returns when all there is to read is in the pipes.
    pub async fn wait(&self) -> Result<(), ShimError> {
        match self.ended.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(false)) => Ok(()),
            Ok(_) => Err(ShimError::Behind { limit: BEHIND_MAX }),
            Err(_) => Err(ShimError::Gone),
        }
    }
}

/// An entry among those who wait for news.
#[derive(Debug)]
struct Place {
    desk: Arc<Desk>,
    attach_id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.attaches.lock().remove(&self.attach_id);
    }
}
