//! The pod's directory below the state directory: the one place that builds these paths.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use berth_ids::{ContainerId, SandboxId};
use berth_plan::PodFiles;
use berth_shim_wire::{ExitRecord, ExitStatus};

/// `<state>/pods/<sandbox id>/`.
#[derive(Debug, Clone)]
pub(crate) struct PodDirectory {
    path: PathBuf,
}

const SOCKET: &str = "shim.sock";
const EXIT: &str = "exit";
/// An exit record is one short line; more is not one.
const EXIT_RECORD_MAX: u64 = 4096;

impl PodDirectory {
    pub(crate) fn of(state: &Path, id: &SandboxId) -> Self {
        Self { path: Self::all(state).join(id.as_str()) }
    }

    /// The directory that holds every pod's.
    pub(crate) fn all(state: &Path) -> PathBuf {
        state.join("pods")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    pub(crate) fn files(&self) -> PodFiles {
        let file = |name| self.path.join(name);
        PodFiles { hostname: file("hostname"), hosts: file("hosts"), resolv_conf: file("resolv.conf") }
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let directory = nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW;
        std::fs::OpenOptions::new().read(true).custom_flags(directory).open(&self.path).map(OwnedFd::from)
    }

    /// A socket address has room for 107 bytes (unix(7)), an instance's state directory may be deeper: so the
    /// socket is reached through the directory's descriptor.
    pub(crate) fn socket_through(directory: &OwnedFd) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
    }

    /// What the shim wrote down about ended containers; unreadable records are skipped.
    pub(crate) fn exit_records(&self) -> Vec<(ContainerId, ExitStatus)> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        let read = |entry: std::fs::DirEntry| {
            let path = entry.path();
            let id = path.file_name()?.to_str()?.strip_suffix(EXIT)?.strip_suffix('.')?;
            let id = ContainerId::parse(id).ok()?;
            if entry.metadata().ok()?.len() > EXIT_RECORD_MAX {
                return None;
            }
            let text = std::fs::read(&path).ok()?;
            ExitRecord::parse(&text).ok().map(|record| (id, record.status))
        };
        entries.filter_map(Result::ok).filter_map(read).collect()
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
