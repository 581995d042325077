//! One cgroup: a directory in every hierarchy, handled as one.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_model::GroupUsage;
use berth_sys::process;

use crate::writes::Writes;
use crate::{CgroupError, CgroupPath, Cgroups, ExecLeaf, Kind, Limits, usage, v1, v2};

/// A handle; the cgroup itself may or may not be there.
#[derive(Debug, Clone)]
pub struct Cgroup {
    cgroups: Cgroups,
    path: CgroupPath,
}

impl Cgroup {
    pub(crate) fn new(cgroups: Cgroups, path: CgroupPath) -> Self {
        Self { cgroups, path }
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.cgroups.roots().map(|root| self.path.under(root)).collect()
    }

    /// Its directory in the v2 tree.
    fn v2(&self) -> Option<PathBuf> {
        self.cgroups.v2.as_ref().map(|root| self.path.under(root))
    }

    fn v1_of(&self, controller: &str) -> Option<PathBuf> {
        self.cgroups.tree(controller).map(|tree| self.path.under(&tree.root))
    }

    pub(crate) fn make(&self) -> Result<(), CgroupError> {
        for tree in &self.cgroups.v1 {
            v1::make(tree, &self.path)?;
        }
        match &self.cgroups.v2 {
            Some(root) => v2::make(root, &self.cgroups.v2_controllers, &self.path),
            None => Ok(()),
        }
    }

    pub(crate) fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.write(limits, &mut Writes::new())
    }

    /// Holds a living cgroup to other limits; what they do not name stays. All or nothing: after a refusal the files
    /// have their old values again.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        let mut writes = Writes::remembering();
        let written = self.write(limits, &mut writes);
        match written {
            Ok(()) => Ok(()),
            Err(error) => Err(writes.undo(error)),
        }
    }

    fn write(&self, limits: &Limits, writes: &mut Writes) -> Result<(), CgroupError> {
        match (self.cgroups.kind(), self.v2()) {
            (Kind::V2, Some(directory)) => {
                v2::apply(&directory, &self.cgroups.v2_controllers, limits, writes)
            }
            _ => v1::apply(&|controller| self.v1_of(controller), limits, writes),
        }
    }

    /// `cgroup.procs` opened for writing: one for each v1 tree, and the bare v2 one beside them. Empty on pure v2,
    /// where a process is born into [`Cgroup::dir_fd`].
    pub fn procs_files(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        match self.cgroups.kind() {
            Kind::V2 => Ok(Vec::new()),
            _ => self.directories().iter().map(|directory| open_procs(directory)).collect(),
        }
    }

    /// The v2 directory for CLONE_INTO_CGROUP (clone3(2)); `None` where controllers are on v1.
    pub fn dir_fd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match (self.cgroups.kind(), self.v2()) {
            (Kind::V2, Some(directory)) => open_directory(&directory).map(Some),
            _ => Ok(None),
        }
    }

    /// The file whose `oom_kill` line counts kills.
    pub fn oom_counter(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let path = match self.cgroups.kind() {
            Kind::V2 => self.v2().map(|directory| directory.join("memory.events")),
            _ => self.v1_of("memory").map(|directory| directory.join("memory.oom_control")),
        };
        match path {
            // A v2 host without the memory controller has no such file.
            Some(path) => match std::fs::File::open(&path) {
                Ok(file) => Ok(Some(file.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(CgroupError::file("open", path)(error)),
            },
            None => Ok(None),
        }
    }

    /// A cgroup of an exec's own inside this one, for killing all of it: in one tree only, the others account it to the
    /// container. That is the v2 tree, and without one a v1 tree in which a child changes nothing.
    pub fn exec_leaf(&self, name: &str) -> Result<ExecLeaf, CgroupError> {
        let harmless = || self.v1_of("freezer").or_else(|| self.v1_of("pids"));
        let Some(parent) = self.v2().or_else(harmless) else {
            return Ok(ExecLeaf::without(self.procs_files()?));
        };
        let leaf = parent.join(name);
        crate::writes::make(&leaf).map_err(CgroupError::file("make", &leaf))?;
        let open = || match self.cgroups.kind() {
            Kind::V2 => Ok((Vec::new(), Some(open_directory(&leaf)?))),
            _ => {
                let others = self.directories().into_iter().filter(|directory| *directory != parent);
                let all: Result<Vec<_>, CgroupError> =
                    others.chain([leaf.clone()]).map(|directory| open_procs(&directory)).collect();
                Ok((all?, None))
            }
        };
        match open() {
            Ok((procs_files, dir_fd)) => Ok(ExecLeaf::new(leaf, procs_files, dir_fd)),
            Err(error) => {
                let _ = std::fs::remove_dir(&leaf);
                Err(error)
            }
        }
    }

    /// Every process in it and below.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            collect(&directory, &mut pids);
        }
        pids.into_iter().collect()
    }

    /// SIGKILL to everything in it and below, also to what forks meanwhile. A cgroup that is not there has nothing.
    pub fn kill(&self, deadline: Duration) -> Result<(), CgroupError> {
        if let Some(directory) = self.v2() {
            kill_v2(&directory)?;
        }
        // What is only in a v1 tree: kill until nothing is left; a fork between two rounds is caught by the next.
        let started = Instant::now();
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return Ok(());
            }
            if started.elapsed() > deadline {
                return Err(self.busy(deadline, pids));
            }
            for pid in pids {
                kill_member(&self.directories(), pid);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn busy(&self, waited: Duration, mut pids: Vec<i32>) -> CgroupError {
        pids.truncate(16);
        let path = self.directories().into_iter().next().unwrap_or_default();
        CgroupError::Busy { path, waited, pids }
    }

    /// Removes it with what is below, in every hierarchy. The kernel needs a moment after the last process ended, so
    /// "busy" is tried again until the deadline. Not there is no error.
    pub fn remove(&self, deadline: Duration) -> Result<(), CgroupError> {
        let started = Instant::now();
        for directory in self.directories() {
            loop {
                match remove_tree(&directory) {
                    Ok(()) => break,
                    Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                        if started.elapsed() > deadline {
                            return Err(self.busy(deadline, self.pids()));
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(CgroupError::file("remove", &directory)(error)),
                }
            }
        }
        Ok(())
    }

    /// What it used; `None` when it is not there (any more).
    pub fn usage(&self) -> Option<GroupUsage> {
        match (self.cgroups.kind(), self.v2()) {
            (Kind::V2, Some(directory)) => {
                directory.is_dir().then(|| usage::v2(&directory, &self.cgroups.v2_controllers))
            }
            (_, bare) => {
                let any = self.cgroups.v1.iter().any(|tree| self.path.under(&tree.root).is_dir());
                any.then(|| usage::v1(&|controller| self.v1_of(controller), bare.as_deref()))
            }
        }
    }

    /// The processes in it and below, from one hierarchy: for counting, where [`Cgroup::pids`] is for killing.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = BTreeSet::new();
        // Every process of ours is in every hierarchy, so one of them tells.
        let first = self.v2().or_else(|| self.directories().into_iter().next());
        if let Some(directory) = first {
            collect(&directory, &mut pids);
        }
        pids.into_iter().collect()
    }
}

pub(crate) fn kill_v2(directory: &Path) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.kill");
    match std::fs::write(&file, "1") {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound) => {
            Err(CgroupError::file("write", file)(error))
        }
        _ => Ok(()),
    }
}

/// By pidfd, and only while it is still a member: a pid read from a file may belong to somebody else by now.
pub(crate) fn kill_member(directories: &[PathBuf], pid: i32) {
    let Ok(pidfd) = process::open_pidfd(pid) else { return };
    let mut members = BTreeSet::new();
    for directory in directories {
        collect(directory, &mut members);
    }
    if members.contains(&pid) {
        // It may have ended in between, which is what is wanted.
        let _ = process::send_signal(pidfd.as_fd(), nix::libc::SIGKILL);
    }
}

pub(crate) fn collect(directory: &Path, pids: &mut BTreeSet<i32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process outside of our pid namespace.
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(directory) {
        collect(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_tree(&child)?;
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn open_procs(directory: &Path) -> Result<OwnedFd, CgroupError> {
    let path = directory.join("cgroup.procs");
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    file.map(OwnedFd::from).map_err(CgroupError::file("open", path))
}

fn open_directory(directory: &Path) -> Result<OwnedFd, CgroupError> {
    std::fs::File::open(directory).map(OwnedFd::from).map_err(CgroupError::file("open", directory))
}

#[cfg(test)]
mod tests;
