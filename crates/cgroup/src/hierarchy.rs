//! Which hierarchies the host has mounted, read once from /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::path::{Path, PathBuf};

use crate::{Cgroup, CgroupError, CgroupPath, Limits};

/// What the host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One v2 tree with every controller.
    V2,
    /// Controllers on v1 trees, a v2 tree without controllers beside them.
    Hybrid,
    V1,
}

/// A mounted v1 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// `cpu`, `cpuacct`, …; `name=systemd` for a named one.
    pub(crate) controllers: Vec<String>,
}

/// The control groups of this host.
#[derive(Debug, Clone)]
pub struct Cgroups {
    pub(crate) v1: Vec<Tree>,
    pub(crate) v2: Option<PathBuf>,
    /// Controllers the v2 root offers.
    pub(crate) v2_controllers: Vec<String>,
}

impl Cgroups {
    pub fn detect() -> Result<Self, CgroupError> {
        let text = std::fs::read_to_string("/proc/self/mountinfo");
        let text = text.map_err(CgroupError::file("read", "/proc/self/mountinfo"))?;
        let (v1, v2) = parse(&text);
        if v1.is_empty() && v2.is_none() {
            return Err(CgroupError::None);
        }
        let offered =
            |root: &PathBuf| std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let v2_controllers = v2.as_ref().map(offered).unwrap_or_default();
        let v2_controllers = v2_controllers.split_whitespace().map(str::to_owned).collect();
        Ok(Self { v1, v2, v2_controllers })
    }

    pub fn kind(&self) -> Kind {
        match (self.v1.is_empty(), &self.v2) {
            (true, _) => Kind::V2,
            (false, Some(_)) => Kind::Hybrid,
            (false, None) => Kind::V1,
        }
    }

    /// The v1 tree of a controller.
    pub(crate) fn tree(&self, controller: &str) -> Option<&Tree> {
        self.v1.iter().find(|tree| tree.controllers.iter().any(|c| c == controller))
    }

    /// A handle on a cgroup, whether it is there or not.
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(self.clone(), path.clone())
    }

    /// Makes the cgroup, with its ancestors where they are missing, and applies the limits before anything can join.
    /// On failure what it made is gone again.
    pub fn create(&self, path: &CgroupPath, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let cgroup = self.open(path);
        let made = cgroup.make().and_then(|()| cgroup.apply(limits));
        match made {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // Empty, as nothing joined; what cannot be removed now is found by its owner's clean-up.
                let _ = cgroup.remove(std::time::Duration::from_millis(100));
                Err(error)
            }
        }
    }

    /// The directories a path has, one in each hierarchy.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|tree| tree.root.as_path()).chain(self.v2.as_deref())
    }
}

/// The v1 trees and the v2 root. Of several mounts of one hierarchy the first counts.
fn parse(mountinfo: &str) -> (Vec<Tree>, Option<PathBuf>) {
    let (mut v1, mut v2): (Vec<Tree>, Option<PathBuf>) = (Vec::new(), None);
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(inside), Some(at)) = (left.next(), left.next()) else { continue };
        // A bind of a part of the tree is not the tree.
        if inside != "/" || !at.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        match kind {
            "cgroup2" if v2.is_none() => v2 = Some(at.into()),
            "cgroup" => {
                let known = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none"];
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|o| !known.contains(o) && !o.starts_with("release_agent="))
                    .map(str::to_owned)
                    .collect();
                if !controllers.is_empty() && !v1.iter().any(|tree| tree.controllers == controllers) {
                    v1.push(Tree { root: at.into(), controllers });
                }
            }
            _ => {}
        }
    }
    (v1, v2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts() {
        let (v1, v2) = parse(
            "30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             34 30 0:27 /x /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(v1.len(), 2);
        assert_eq!(v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(v1[1].controllers, ["name=systemd"]);
        assert_eq!(v2, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn pure_v2_hosts() {
        let (v1, v2) = parse("30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(v1.is_empty());
        assert_eq!(v2, Some("/sys/fs/cgroup".into()));
    }
}
