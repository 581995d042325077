//! The mounts of a plan, each made detached and attached to a descriptor of its target.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::{IdRange, LaunchPlan, MountAttrs, MountKind, MountStep, Propagation};
use berth_sys::mount::{self, Attributes, Context};

use crate::report::{At as _, Step};
use crate::root::{Root, is_directory};
use crate::{Hierarchy, UserNamespace};

/// What mounts are made from.
pub(crate) struct Materials<'a> {
    pub(crate) fds: &'a [OwnedFd],
    /// The pod's /dev/shm in the shim's mount namespace.
    pub(crate) shm: &'a CStr,
    pub(crate) hierarchies: &'a [Hierarchy],
    /// To be shown instead of a sysfs of our own.
    pub(crate) sysfs: Option<&'a CStr>,
    pub(crate) userns: Option<&'a UserNamespace>,
}

pub(crate) fn attributes(of: MountAttrs) -> Attributes {
    Attributes { readonly: of.readonly, nosuid: of.nosuid, nodev: of.nodev, noexec: of.noexec }
}

fn spread(of: Propagation) -> mount::Propagation {
    match of {
        Propagation::Private => mount::Propagation::Private,
        Propagation::Slave => mount::Propagation::Slave,
        Propagation::Shared => mount::Propagation::Shared,
    }
}

/// One step of the plan.
pub(crate) fn mount_one(root: &Root, step: &MountStep, from: &Materials<'_>) -> Step<()> {
    let object = step.target.to_bytes();
    let made = make(step, from).at("make the mount for", object)?;
    let directory = is_directory(made.as_fd()).at("look at the source of", object)?;
    let place = root.place(&step.target, directory).at("make the mount point", object)?;
    mount::attach(made.as_fd(), place.as_fd()).at("mount", object)?;
    match step.kind {
        MountKind::Cgroup => crate::cgroupfs::fill(&made, from.hierarchies, attributes(step.attrs))
            .at("mount the hierarchies in", object),
        _ => Ok(()),
    }
}

fn make(step: &MountStep, from: &Materials<'_>) -> io::Result<OwnedFd> {
    let attrs = attributes(step.attrs);
    match step.kind {
        MountKind::Bind(fd) => {
            let given = from.fds.get(usize::from(fd.0)).ok_or(io::ErrorKind::InvalidInput)?;
            let tree = given.try_clone()?;
            restrict(&tree, step)?;
            Ok(tree)
        }
        MountKind::PodShm => {
            let tree = mount::clone_path(from.shm, false)?;
            restrict(&tree, step)?;
            Ok(tree)
        }
        MountKind::Proc => kernel(c"proc", attrs),
        MountKind::Sysfs => match from.sysfs {
            None => kernel(c"sysfs", attrs),
            Some(path) => {
                let tree = mount::clone_path(path, false)?;
                restrict(&tree, step)?;
                Ok(tree)
            }
        },
        MountKind::Mqueue => kernel(c"mqueue", attrs),
        MountKind::Cgroup => crate::cgroupfs::mount(from.hierarchies, attrs),
        MountKind::Devpts => {
            let context = Context::open(c"devpts")?;
            context.set_string(c"source", c"devpts")?;
            context.set_flag(c"newinstance")?;
            for (key, value) in [(c"ptmxmode", c"0666"), (c"mode", c"0620")] {
                context.set_string(key, value)?;
            }
            // The group tty, where it exists.
            let mapped = |u: &UserNamespace| IdRange::outside(&u.maps.gids, 5).is_some();
            if from.userns.is_none_or(mapped) {
                context.set_string(c"gid", c"5")?;
            }
            context.mount(attrs)
        }
        MountKind::Tmpfs { size, mode, inodes } => {
            let context = Context::open(c"tmpfs")?;
            context.set_string(c"source", c"tmpfs")?;
            let text = |text: String| CString::new(text).unwrap_or_default();
            context.set_string(c"mode", &text(format!("{mode:o}")))?;
            if size > 0 {
                context.set_string(c"size", &text(size.to_string()))?;
            }
            if inodes > 0 {
                context.set_string(c"nr_inodes", &text(inodes.to_string()))?;
            }
            context.mount(attrs)
        }
    }
}

/// Its own name is its source, as mount(8) has it: some programs look for that.
fn kernel(filesystem: &CStr, attrs: Attributes) -> io::Result<OwnedFd> {
    let context = Context::open(filesystem)?;
    context.set_string(c"source", filesystem)?;
    context.mount(attrs)
}

/// A clone of a tree keeps its peers until told otherwise; attributes are added to what the source has.
fn restrict(tree: &OwnedFd, step: &MountStep) -> io::Result<()> {
    mount::set_propagation(tree.as_fd(), spread(step.propagation), true)?;
    let attrs = attributes(step.attrs);
    // What may not be run or opened in a volume may not be so below another mount in it either.
    mount::set_attributes(tree.as_fd(), Attributes { readonly: false, ..attrs }, true)?;
    let only_read = Attributes { readonly: attrs.readonly, ..Attributes::default() };
    mount::set_attributes(tree.as_fd(), only_read, step.attrs.recursive_readonly)
}

/// Hides and protects paths; those that do not exist are nothing to hide.
pub(crate) fn protect(root: &Root, plan: &LaunchPlan, null: &CStr) -> Step<()> {
    for path in &plan.masked_paths {
        let Some(place) = existing(root, path)? else { continue };
        let cover = || -> io::Result<OwnedFd> {
            if is_directory(place.as_fd())? {
                let context = Context::open(c"tmpfs")?;
                context.set_string(c"size", c"0")?;
                context.set_string(c"nr_inodes", c"2")?;
                return context.mount(Attributes { readonly: true, nosuid: true, nodev: true, noexec: true });
            }
            // Our own device node, never one of the image's (CVE-2025-31133).
            mount::clone_path(null, false)
        };
        let cover = cover().at("make the mask of", path.to_bytes())?;
        mount::attach(cover.as_fd(), place.as_fd()).at("mask", path.to_bytes())?;
    }
    for path in &plan.readonly_paths {
        let Some(place) = existing(root, path)? else { continue };
        let only_read = || -> io::Result<()> {
            let tree = mount::clone_tree(place.as_fd(), true)?;
            mount::set_attributes(
                tree.as_fd(),
                Attributes { readonly: true, ..Attributes::default() },
                true,
            )?;
            mount::attach(tree.as_fd(), place.as_fd())
        };
        only_read().at("make read-only", path.to_bytes())?;
    }
    Ok(())
}

fn existing(root: &Root, path: &CStr) -> Step<Option<OwnedFd>> {
    match root.open(path) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).at("look up", path.to_bytes()),
    }
}

/// Of the container's root, once it is the root of its namespace.
pub(crate) fn spread_root(root: &Root, propagation: Propagation) -> Step<()> {
    match propagation {
        Propagation::Private => Ok(()),
        other => {
            mount::set_propagation(root.0.as_fd(), spread(other), false).at("set the propagation of", "/")
        }
    }
}
