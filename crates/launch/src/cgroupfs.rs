//! /sys/fs/cgroup as the container sees it: from its own cgroup namespace.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_sys::mount::{Attributes, Context, attach_at};
use nix::sys::stat::Mode;

/// A hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// The one v2 tree.
    V2,
    /// A v1 tree, or the v2 tree beside v1 trees: the directory's name below /sys/fs/cgroup, and its mount options
    /// (empty for v2).
    Named { name: CString, options: Vec<CString> },
}

impl Hierarchy {
    /// From the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
    pub fn parse(mountinfo: &str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(at) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let text = |text: &str| CString::new(text).unwrap_or_default();
            let hierarchy = match (kind, at.strip_prefix("/sys/fs/cgroup")) {
                ("cgroup2", Some("")) => Self::V2,
                ("cgroup2", Some(name)) => {
                    Self::Named { name: text(name.trim_start_matches('/')), options: Vec::new() }
                }
                ("cgroup", Some(name)) => {
                    let mount_only = ["rw", "ro", "xattr", "release_agent", "clone_children"];
                    let options = options
                        .split(',')
                        .filter(|o| !mount_only.contains(o) && !o.starts_with("release_agent"));
                    Self::Named {
                        name: text(name.trim_start_matches('/')),
                        options: options.map(text).collect(),
                    }
                }
                _ => continue,
            };
            if !found.contains(&hierarchy) {
                found.push(hierarchy);
            }
        }
        found
    }
}

/// A detached mount of what the host has; with v1 trees an empty directory, for [`fill`].
pub(crate) fn mount(hierarchies: &[Hierarchy], attributes: Attributes) -> io::Result<OwnedFd> {
    if hierarchies.contains(&Hierarchy::V2) || hierarchies.is_empty() {
        return Context::open(c"cgroup2")?.mount(attributes);
    }
    let writable = Attributes { readonly: false, ..attributes };
    let context = Context::open(c"tmpfs")?;
    context.set_string(c"mode", c"0755")?;
    context.set_string(c"size", c"65536")?;
    context.mount(writable)
}

/// Mounts the v1 trees into what [`mount`] gave, once that is attached: before Linux 6.15 nothing can be mounted on a
/// detached mount.
pub(crate) fn fill(tree: &OwnedFd, hierarchies: &[Hierarchy], attributes: Attributes) -> io::Result<()> {
    if hierarchies.contains(&Hierarchy::V2) || hierarchies.is_empty() {
        return Ok(());
    }
    for hierarchy in hierarchies {
        let Hierarchy::Named { name, options } = hierarchy else { continue };
        if name.is_empty() || name.to_bytes().contains(&b'/') {
            continue;
        }
        nix::sys::stat::mkdirat(tree, name.as_c_str(), Mode::from_bits_truncate(0o755))?;
        let part = one(options, attributes)?;
        attach_at(part.as_fd(), tree.as_fd(), name)?;
        for alias in options.iter().filter(|o| options.len() > 1 && *o != name) {
            nix::unistd::symlinkat(name.as_c_str(), tree, alias.as_c_str())?;
        }
    }
    if attributes.readonly {
        berth_sys::mount::set_attributes(tree.as_fd(), attributes, false)?;
    }
    Ok(())
}

fn one(options: &[CString], attributes: Attributes) -> io::Result<OwnedFd> {
    if options.is_empty() {
        return Context::open(c"cgroup2")?.mount(attributes);
    }
    let context = Context::open(c"cgroup")?;
    for option in options {
        match option.to_bytes().strip_prefix(b"name=") {
            Some(name) => {
                context.set_flag(c"none")?;
                context.set_string(c"name", &CString::new(name)?)?;
            }
            None => context.set_flag(option as &CStr)?,
        }
    }
    context.mount(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let v2 = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Hierarchy::parse(v2), [Hierarchy::V2]);
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let named = |name: &CStr, options: &[&CStr]| Hierarchy::Named {
            name: name.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        assert_eq!(
            Hierarchy::parse(hybrid),
            [named(c"cpu,cpuacct", &[c"cpu", c"cpuacct"]), named(c"unified", &[])]
        );
    }
}
