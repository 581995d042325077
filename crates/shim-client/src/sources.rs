//! Opens what a plan names: one owned descriptor for each of its requests, in order.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_plan::{FdSource, Idmap, LogFile, MissingSource};
use berth_shim_wire::Propagation;
use berth_sys::mount;

use crate::ShimError;

/// What the requests are answered from.
pub(crate) struct Opened<'a> {
    pub(crate) wanted: &'a [FdSource],
    pub(crate) rootfs: OwnedFd,
    pub(crate) log: Option<&'a LogFile>,
    pub(crate) volumes: &'a [PathBuf],
    pub(crate) images: &'a [OwnedFd],
    pub(crate) pidfds: &'a HashMap<String, Arc<OwnedFd>>,
    /// The pod's, when it has one.
    pub(crate) userns: Option<&'a OwnedFd>,
}

pub(crate) fn open(from: Opened<'_>) -> Result<Vec<OwnedFd>, ShimError> {
    let mut rootfs = Some(from.rootfs);
    let mut fds = Vec::with_capacity(from.wanted.len());
    for wanted in from.wanted {
        fds.push(match wanted {
            FdSource::Rootfs => rootfs.take().ok_or(ShimError::Protocol)?,
            FdSource::Log => crate::log::open(from.log.ok_or(ShimError::Protocol)?)?,
            FdSource::Bind { source, recursive, missing, idmap, propagation } => {
                let tree = bind(source, *recursive, *missing, *propagation)?;
                map_ids(&tree, source, *idmap, from.userns)?;
                tree
            }
            FdSource::Volume { index, .. } => {
                let source = from.volumes.get(*index).ok_or(ShimError::Protocol)?;
                let tree = bind(source, false, MissingSource::Refuse, Propagation::Private)?;
                map_ids(&tree, source, Idmap::Required, from.userns)?;
                tree
            }
            FdSource::Image { index } => {
                let image = from.images.get(*index).ok_or(ShimError::Protocol)?;
                crate::spawn::duplicate(image).map_err(ShimError::Socket)?
            }
            FdSource::TargetPid(container) => {
                let pidfd = from.pidfds.get(container.as_str());
                let pidfd = pidfd.ok_or_else(|| ShimError::NotRunning(container.to_string()))?;
                crate::spawn::duplicate(pidfd).map_err(ShimError::Socket)?
            }
        });
    }
    Ok(fds)
}

/// What is to come through later mounts must lie on a mount that has peers (mount_namespaces(7)): else the container
/// would wait for them in vain.
fn propagates(opened: &OwnedFd, source: &Path, wanted: Propagation) -> Result<(), ShimError> {
    let (tags, problem): (&[&str], _) = match wanted {
        Propagation::Private => return Ok(()),
        Propagation::Slave => (&["shared:", "master:"], "is on a mount that is neither shared nor a slave"),
        Propagation::Shared => (&["shared:"], "is on a mount that is not shared"),
    };
    let read = |path: &str| std::fs::read_to_string(path).map_err(ShimError::file("read", path));
    let fdinfo = read(&format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let id = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
    let mountinfo = read("/proc/self/mountinfo")?;
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id)).unwrap_or_default();
    // proc_pid_mountinfo(5): the optional fields end with a dash.
    let mut fields = line.split(' ').skip(6).take_while(|field| *field != "-");
    match fields.any(|field| tags.iter().any(|tag| field.starts_with(tag))) {
        true => Ok(()),
        false => {
            Err(ShimError::Source { field: "config.mounts.propagation", path: source.to_owned(), problem })
        }
    }
}

/// Without a user namespace ids are what they are.
fn map_ids(tree: &OwnedFd, source: &Path, wanted: Idmap, userns: Option<&OwnedFd>) -> Result<(), ShimError> {
    let (Some(userns), true) = (userns, wanted != Idmap::No) else { return Ok(()) };
    // With what is mounted below, if all of that can; the tree itself must.
    let mapped = mount::set_idmap(tree.as_fd(), userns.as_fd(), true)
        .or_else(|_| mount::set_idmap(tree.as_fd(), userns.as_fd(), false));
    match mapped {
        Err(_) if wanted == Idmap::WherePossible => Ok(()),
        mapped => mapped.map_err(ShimError::file("map the ids of", source)),
    }
}

/// A detached clone of a host tree.
fn bind(
    source: &Path,
    recursive: bool,
    missing: MissingSource,
    propagation: Propagation,
) -> Result<OwnedFd, ShimError> {
    let fail = || ShimError::file("bind", source);
    let refuse = |problem| {
        Err(ShimError::Source { field: "config.mounts.host_path", path: source.to_owned(), problem })
    };
    let opened = match open_path(source) {
        // Nothing can be made there, and the kernel's word for it names no place.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return refuse("lies below something on the host that is not a directory");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match missing {
            _ if source.is_symlink() => return refuse("is a link on the host to what does not exist"),
            MissingSource::Refuse => return refuse("does not exist on the host"),
            // What the kubelet expects of a host path that is not there (features: runtimes make a directory).
            MissingSource::CreateDirectory => {
                make_directory(source).map_err(fail())?;
                open_path(source)
            }
        },
        opened => opened,
    };
    let opened = opened.map_err(fail())?;
    propagates(&opened, source, propagation)?;
    mount::clone_tree(opened.as_fd(), recursive).map_err(fail())
}

/// Makes a directory of the host's with those on the way to it, mode 0755 each: others use them too, and the daemon's umask is
/// for its own files.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)),
        // Somebody else was faster; if it is no directory, whoever uses it says so.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Only to be cloned from: neither read nor, were it a device, opened. A link of the host's is followed.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = nix::libc::O_PATH | nix::libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}
