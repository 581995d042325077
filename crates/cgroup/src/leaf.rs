use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::CgroupError;
use crate::group::{collect, kill_member, kill_v2};

/// The cgroup of one exec.
#[derive(Debug)]
pub struct ExecLeaf {
    /// `None` on a host without a tree for it: then there is nothing of the exec's own.
    directory: Option<PathBuf>,
    /// `cgroup.procs` files the exec's process is written to.
    pub procs_files: Vec<OwnedFd>,
    /// For CLONE_INTO_CGROUP on a pure v2 host.
    pub dir_fd: Option<OwnedFd>,
    /// `cgroup.kill` (Linux 5.14).
    pub kill_fd: Option<OwnedFd>,
}

impl ExecLeaf {
    pub(crate) fn new(directory: PathBuf, procs_files: Vec<OwnedFd>, dir_fd: Option<OwnedFd>) -> Self {
        let kill = std::fs::OpenOptions::new().write(true).open(directory.join("cgroup.kill"));
        Self { directory: Some(directory), procs_files, dir_fd, kill_fd: kill.ok().map(OwnedFd::from) }
    }

    pub(crate) fn without(procs_files: Vec<OwnedFd>) -> Self {
        Self { directory: None, procs_files, dir_fd: None, kill_fd: None }
    }

    /// Removes it when nothing is in it any more; a straggler keeps it until the container goes.
    pub fn remove_if_empty(&self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir(directory);
        }
    }

    /// SIGKILL to everything in it, then its removal; bounded by `deadline`.
    pub fn kill_and_remove(&self, deadline: Duration) -> Result<(), CgroupError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let at_once = directory.join("cgroup.kill").exists();
        if at_once {
            kill_v2(directory)?;
        }
        let started = Instant::now();
        loop {
            if !at_once {
                // A fork between two rounds is caught by the next.
                let mut pids = BTreeSet::new();
                collect(directory, &mut pids);
                pids.into_iter().for_each(|pid| kill_member(std::slice::from_ref(directory), pid));
            }
            match std::fs::remove_dir(directory) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) if started.elapsed() > deadline => {
                    return Err(CgroupError::file("remove", directory)(error));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
