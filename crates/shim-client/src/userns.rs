//! User namespaces: which one a pod has, and whether pods can have any here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_sys::mount::{self, Layer, Overlay};

use crate::spawn::Program;

/// The owner of the namespaces a shim lives in. A pod with a user namespace always has an IPC namespace of its own, so
/// that one tells; the shim itself stays outside.
pub(crate) fn of_pod(shim: u32) -> io::Result<Option<OwnedFd>> {
    let ipc = File::open(format!("/proc/{shim}/ns/ipc"))?;
    let owner = match berth_sys::userns::owner_of(ipc.as_fd()) {
        Ok(owner) => File::from(owner),
        // The host's namespaces belong to somebody above us: we run in a container.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = std::fs::metadata("/proc/self/ns/user")?;
    let same = owner.metadata()?.ino() == ours.ino();
    Ok((!same).then(|| owner.into()))
}

/// Makes a user namespace, and an overlay in which it sees layers of `directory`'s filesystem as its own.
pub(crate) fn probe(program: &Program, directory: &Path) -> io::Result<()> {
    let userns = namespace(program)?;
    // An overlay has at least two layers, and none inside another.
    let (first, second) = (Scratch::new(directory, "1")?, Scratch::new(directory, "2")?);
    let (first, second) = (shown(&first.0, &userns)?, shown(&second.0, &userns)?);
    let lowers = [Layer::Fd(first.as_fd()), Layer::Fd(second.as_fd())];
    mount::overlay(&Overlay { lowers: &lowers, upper: None, volatile: false }).map(drop)
}

fn shown(directory: &Path, userns: &OwnedFd) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
    let clone = mount::clone_path(&path, false)?;
    mount::set_idmap(clone.as_fd(), userns.as_fd(), false)?;
    Ok(clone)
}

/// A directory that goes with the probe.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let path = parent.join(format!(".probe-{}-{name}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A user namespace in which root is the host's user 65536. Only a process with one thread can make one, and we are
/// none: the shim's program does it and lends us its descriptor.
fn namespace(program: &Program) -> io::Result<OwnedFd> {
    struct Maker(Child);
    impl Drop for Maker {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let child = Command::new(program.path())
        .arg0("berth-shim")
        .arg("--user-namespace")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut maker = Maker(child);
    let mut ready = [0];
    // It says so or ends: the pipe closes with it.
    maker.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut ready)?;
    let pid = maker.0.id();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 65536 65536\n")?;
    }
    File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
}
