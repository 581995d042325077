//! Network namespaces as paths: plugins that are programs, and daemons behind them, find a pod's only by one.

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the paths of one instance are: `DIRECTORY/INSTANCE-CONTAINER`.
#[derive(Debug, Clone)]
pub struct Paths {
    pub directory: PathBuf,
    pub instance: String,
}

impl Paths {
    fn path(&self, container: &str) -> PathBuf {
        self.directory.join(format!("{}-{container}", self.instance))
    }

    /// Binds the namespace to a path of its own. It stays there, and so does the namespace, until [`release`].
    pub(crate) fn bind(&self, container: &str, netns: BorrowedFd<'_>) -> io::Result<PathBuf> {
        // As ip-netns(8) makes it: others look into it too.
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.directory);
        made.and_then(|()| open_to_others(&self.directory))?;
        let path = self.path(container);
        release(&path)?;
        std::fs::File::options().write(true).create_new(true).open(&path)?;
        let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
        let bound = mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        if bound.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        bound.map(|()| path).map_err(Into::into)
    }

    /// Releases those of containers that are not in `live`.
    pub(crate) fn sweep(&self, live: &HashSet<String>) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let of_us = name.to_str().and_then(|name| name.strip_prefix(&self.instance)?.strip_prefix('-'));
            // The whole rest is an id: another instance's name may begin with ours.
            let id = |text: &&str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if let Some(container) = of_us.filter(id)
                && !live.contains(container)
            {
                match release(&entry.path()) {
                    Ok(()) => {
                        tracing::info!(path = %entry.path().display(), "a namespace of no pod is released")
                    }
                    Err(error) => {
                        tracing::warn!(path = %entry.path().display(), %error, "a namespace stays bound")
                    }
                }
            }
        }
    }
}

fn open_to_others(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::metadata(directory)?.permissions();
    match found.mode() & 0o555 == 0o555 {
        true => Ok(()),
        // Only what the umask took from one we made ourselves.
        false => std::fs::set_permissions(directory, std::fs::Permissions::from_mode(found.mode() | 0o555)),
    }
}

/// The namespace bound to a path, if one is.
pub(crate) fn open(path: &Path) -> Option<OwnedFd> {
    let file = std::fs::File::open(path).ok()?;
    let kind = nix::sys::statfs::fstatfs(&file).ok()?.filesystem_type();
    (kind == nix::sys::statfs::NSFS_MAGIC).then(|| file.into())
}

/// Unbinds and removes a path; one that is not there is fine.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    // Several binds on top of each other come from a daemon that died between two steps.
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_namespace_is_bound_released_and_swept() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { directory: home.path().join("netns"), instance: "t".into() };
        let netns = berth_sys::netns::new_netns().unwrap();
        let inode = std::fs::File::from(netns.try_clone().unwrap()).metadata().unwrap().ino();
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let path = paths.bind(&one, netns.as_fd()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert!(open(&path).is_some() && open(Path::new("/proc/self/stat")).is_none());
        let again = paths.bind(&one, netns.as_fd()).unwrap();
        assert_eq!(std::fs::metadata(&again).unwrap().ino(), inode);
        let other = paths.bind(&two, netns.as_fd()).unwrap();
        let foreign = paths.directory.join(format!("t-x-{one}"));
        std::fs::write(&foreign, "").unwrap();
        paths.sweep(&HashSet::from([one]));
        assert!(path.exists() && !other.exists() && foreign.exists());
        release(&path).unwrap();
        release(&path).unwrap();
        assert!(!path.exists());
    }
}
