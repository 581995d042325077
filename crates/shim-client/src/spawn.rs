//! A shim's birth, and finding the one of an earlier daemon.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use berth_ids::SandboxId;
use berth_sys::fd as sysfd;

use crate::ShimError;
use crate::directory::PodDirectory;

/// The shim's program, sealed in memory: what runs is what was there when the daemon started, also after the file was
/// replaced by an upgrade, and nothing inside a container can reach or write it (CVE-2019-5736).
#[derive(Debug)]
pub(crate) struct Program {
    image: OwnedFd,
}

impl Program {
    /// To be spawned from.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.image.as_raw_fd())
    }
}

/// A shim is about 1 MiB; a file of many is not one.
const PROGRAM_MAX: u64 = 64 * 1024 * 1024;

impl Program {
    pub(crate) fn load(path: &Path) -> Result<Self, ShimError> {
        let fail = || ShimError::file("read the shim program", path);
        let size = std::fs::metadata(path).map_err(fail())?.len();
        if size > PROGRAM_MAX {
            return Err(fail()(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let bytes = std::fs::read(path).map_err(fail())?;
        let image = sysfd::sealed_memfd(c"berth-shim", &bytes).map_err(fail())?;
        Ok(Self { image })
    }
}

/// A new shim and a connection to it. Blocks for the spawn (well below a millisecond).
pub(crate) fn spawn(
    program: &Program,
    directory: &PodDirectory,
    id: &SandboxId,
) -> Result<(Child, OwnedFd), ShimError> {
    directory.make().map_err(ShimError::file("make", directory.path()))?;
    let opened = directory.open().map_err(ShimError::file("open", directory.path()))?;
    let address = PodDirectory::socket_through(&opened);
    let listener = sysfd::listen_seqpacket(&address)
        .map_err(ShimError::file("listen at the socket in", directory.path()))?;
    let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(directory.log());
    let log = log.map_err(ShimError::file("open", directory.log()))?;

    // Standard streams carry the descriptors: that way the library spawns with posix_spawn(3), whose cost does not
    // grow with the daemon's memory, and nothing else is inherited.
    let child = Command::new(program.path())
        .arg0("berth-shim")
        .arg(id.as_str())
        .env_clear()
        .stdin(Stdio::from(listener))
        .stdout(Stdio::from(opened.try_clone().map_err(|source| ShimError::Spawn { source })?))
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|source| ShimError::Spawn { source })?;
    let connected = sysfd::connect_seqpacket(&address).map_err(ShimError::Socket)?;
    Ok((child, connected))
}

/// A connection to the pod's shim, or `None` when it is not there any more.
pub(crate) fn connect(directory: &PodDirectory) -> Result<Option<OwnedFd>, ShimError> {
    let opened = match directory.open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(ShimError::file("open", directory.path()))?,
    };
    match sysfd::connect_seqpacket(&PodDirectory::socket_through(&opened)) {
        Ok(socket) => Ok(Some(socket)),
        // No file, or a file nobody listens at: the shim died.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(ShimError::Socket(error)),
    }
}

/// The namespaces a shim lives in are its pod's.
pub(crate) fn netns_of(pid: u32) -> io::Result<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
}

/// A duplicate for another owner.
pub(crate) fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
