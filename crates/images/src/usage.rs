//! What containers' writable layers hold. Trees are walked by a thread of their own, one after the other, and never
//! while somebody waits for an answer beyond a moment; answers come from what it found last.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_ids::ContainerId;
use berth_model::{Filesystem, FsUsage, LayerUsage};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use parking_lot::{Condvar, Mutex};

use crate::{Images, Shared, rootfs};

/// A tree is not walked more often than this,
const REST: Duration = Duration::from_secs(10);
/// nor for more than a fiftieth of the time.
const SHARE: u32 = 50;
/// How long a first answer is worth waiting for.
const FIRST: Duration = Duration::from_millis(100);
/// Each level of a tree costs a descriptor while it is walked.
const DEPTH: usize = 512;

/// The last results, by container.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    inner: Mutex<Inner>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<ContainerId, Entry>,
    queue: VecDeque<ContainerId>,
    working: bool,
}

#[derive(Debug, Default)]
struct Entry {
    found: Option<LayerUsage>,
    due: Option<Instant>,
    queued: bool,
}

impl Measured {
    pub(crate) fn forget(&self, container: &ContainerId) {
        self.inner.lock().known.remove(container);
    }
}

impl Images {
    /// What the writable layers of these containers held when they were last measured, in their order; `None` for one
    /// that has none or was not measured yet. Has those measured in the background that are due. Blocks a moment where
    /// nothing is known yet.
    pub fn layer_usage(&self, containers: &[ContainerId]) -> Vec<Option<LayerUsage>> {
        let measured = &self.shared.usage;
        let mut inner = measured.inner.lock();
        let now = Instant::now();
        for id in containers {
            let entry = inner.known.entry(id.clone()).or_default();
            if !entry.queued && entry.due.is_none_or(|due| due <= now) {
                entry.queued = true;
                inner.queue.push_back(id.clone());
            }
        }
        if !inner.queue.is_empty() && !inner.working {
            let shared = self.shared.clone();
            let spawned =
                std::thread::Builder::new().name("berth-layers".into()).spawn(move || work(&shared));
            match spawned {
                Ok(_) => inner.working = true,
                Err(error) => tracing::warn!(%error, "writable layers are not measured"),
            }
        }
        let fresh = |inner: &Inner| {
            containers.iter().all(|id| inner.known.get(id).is_none_or(|entry| entry.due.is_some()))
        };
        let end = now + FIRST;
        while inner.working && !fresh(&inner) {
            if measured.done.wait_until(&mut inner, end).timed_out() {
                break;
            }
        }
        containers.iter().map(|id| inner.known.get(id).and_then(|entry| entry.found.clone())).collect()
    }
}

/// Until the queue is empty; the next request starts another thread.
fn work(shared: &Arc<Shared>) {
    let measured = &shared.usage;
    let mut inner = measured.inner.lock();
    while let Some(id) = inner.queue.pop_front() {
        drop(inner);
        let started = Instant::now();
        let found = measure(&rootfs::directory(shared, &id).join("fs"));
        let took = started.elapsed();
        inner = measured.inner.lock();
        if matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            // Never started, or removed since somebody asked: nothing is to be kept of it.
            inner.known.remove(&id);
        } else if let Some(entry) = inner.known.get_mut(&id) {
            entry.queued = false;
            entry.due = Some(Instant::now() + REST.max(took * SHARE));
            match found {
                Ok((usage, filesystem)) => entry.found = Some(LayerUsage { at: now(), usage, filesystem }),
                Err(error) => tracing::debug!(container = %id, %error, "writable layer not measured"),
            }
        }
        measured.done.notify_all();
    }
    inner.working = false;
    measured.done.notify_all();
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Disk space and inodes of a tree. A container changes it meanwhile and would like to lead us out of it: every step
/// is by descriptor and follows no link. What vanishes is not counted, a file of several names once.
fn measure(top: &Path) -> io::Result<(FsUsage, Filesystem)> {
    let mut usage = FsUsage {
        // The file system is told by a path on it.
        mountpoint: top.parent().unwrap_or(top).to_string_lossy().into_owned(),
        ..FsUsage::default()
    };
    let mut linked = HashSet::new();
    let top = open(top, FLAGS, Mode::empty())?;
    let own = nix::sys::stat::fstat(&top)?;
    let filesystem = filesystem(&top, own.st_dev)?;
    usage.used_bytes = blocks(own.st_blocks);
    usage.inodes_used = 1;
    let mut levels = vec![Level::new(top)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let Ok(stat) = fstatat(&level.fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if !directory && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
            continue;
        }
        usage.used_bytes += blocks(stat.st_blocks);
        usage.inodes_used += 1;
        if directory
            && stat.st_dev == own.st_dev
            && levels.len() < DEPTH
            && let Some(level) = levels.last()
            && let Ok(fd) = openat(&level.fd, name.as_c_str(), FLAGS, Mode::empty())
        {
            levels.push(Level::new(fd)?);
        }
    }
    Ok((usage, filesystem))
}

/// Bytes and entries of a tree.
pub(crate) fn of(top: &Path) -> io::Result<(u64, u64)> {
    measure(top).map(|(usage, _)| (usage.used_bytes, usage.inodes_used))
}

fn filesystem(top: &OwnedFd, device: u64) -> io::Result<Filesystem> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let numbers = format!("{major}:{minor}");
    // sysfs(5): a link to the device's directory, which has its name.
    let link = std::fs::read_link(format!("/sys/dev/block/{numbers}"));
    let name = link.ok().and_then(|link| Some(format!("/dev/{}", link.file_name()?.to_string_lossy())));
    let stat = nix::sys::statvfs::fstatvfs(top)?;
    Ok(Filesystem {
        device: name.unwrap_or(numbers),
        size: stat.blocks().saturating_mul(stat.fragment_size()),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// A directory under way, with the names still to be looked at.
struct Level {
    fd: OwnedFd,
    names: Vec<std::ffi::CString>,
}

impl Level {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut list = Dir::from_fd(fd.as_fd().try_clone_to_owned()?)?;
        let names = list.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned());
        let names = names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
        Ok(Self { fd, names })
    }
}

/// stat(2) counts in 512 bytes, whatever the file system's blocks are.
fn blocks(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("fs");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        let (empty, filesystem) = measure(&top).unwrap();
        assert!(filesystem.size > 0 && !filesystem.device.is_empty(), "{filesystem:?}");
        assert_eq!(empty.inodes_used, 3);
        std::fs::write(top.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::fs::File::open(top.join("a/b/file")).unwrap().sync_all().unwrap();
        std::fs::hard_link(top.join("a/b/file"), top.join("a/again")).unwrap();
        std::os::unix::fs::symlink("/", top.join("out")).unwrap();
        let (full, _) = measure(&top).unwrap();
        assert_eq!(full.inodes_used, 5, "one file under two names, and a link");
        let more = full.used_bytes - empty.used_bytes;
        assert!((1 << 20..(1 << 20) + 65536).contains(&more), "{more}");
        assert_eq!(measure(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
