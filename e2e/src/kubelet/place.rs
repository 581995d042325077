//! The kubelet's own host: what it would change on the machine is out of its reach or made for it and removed.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The node's address, on a link that leads nowhere (RFC 5737).
pub(crate) const ADDRESS: &str = "192.0.2.10";

/// What the kubelet wants of the kernel (cm/container_manager_linux.go): it writes what differs.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// In network and mount namespaces of the lane's own: a link with an address and a route, and [`prepare_mounts`].
pub(crate) fn prepare() -> Result<()> {
    for words in [
        "link set lo up",
        "link add node0 type veth peer name node1",
        "address add 192.0.2.10/24 dev node0",
        "link set node0 up",
        "link set node1 up",
        "route add default via 192.0.2.1",
    ] {
        let done = Command::new("ip").args(words.split(' ')).output().context("ip (package iproute2)")?;
        if !done.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    prepare_mounts()
}

/// In a mount namespace of its own: tunables that need no change, and a /var/log for the directories whose names are fixed.
pub(crate) fn prepare_mounts() -> Result<()> {
    let home = tempfile::tempdir()?;
    for (name, value) in TUNABLES {
        let file = home.path().join(name.replace('/', "."));
        std::fs::write(&file, format!("{value}\n"))?;
        let target = Path::new("/proc/sys").join(name);
        mount(Some(&file), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| target.display().to_string())?;
    }
    let size = Some("size=64m");
    mount(Some("tmpfs"), "/var/log", Some("tmpfs"), MsFlags::empty(), size).context("/var/log")
}

/// Takes away every mount at and below `path`, the deepest first.
pub(crate) fn unmount_below(path: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let prefix = format!("{}/", path.display());
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let ours = |point: &&&str| point.starts_with(&prefix) || Path::new(point) == path;
    for point in points.iter().rev().filter(ours) {
        let _ = umount2(*point, MntFlags::MNT_DETACH);
    }
}

/// A control group of one name in every hierarchy, removed with all that is below.
#[derive(Debug)]
pub(crate) struct Cgroups {
    name: String,
}

impl Cgroups {
    pub(crate) fn new(name: String) -> Result<Self> {
        let made = Self { name };
        for directory in made.directories()? {
            std::fs::DirBuilder::new()
                .mode(0o755)
                .create(&directory)
                .with_context(|| directory.display().to_string())?;
            // A new group of the v1 cpuset hierarchy takes no process before it has both.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (own, parents) = (directory.join(file), directory.join("..").join(file));
                if std::fs::read_to_string(&own).is_ok_and(|value| value.trim().is_empty()) {
                    std::fs::write(&own, std::fs::read(parents)?)?;
                }
            }
        }
        Ok(made)
    }

    /// As the kubelet's `cgroupRoot` has it.
    pub(crate) fn root(&self) -> String {
        format!("/{}", self.name)
    }

    fn directories(&self) -> Result<Vec<PathBuf>> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        Ok(fields
            .filter(|f| f.len() > 2 && f[2].starts_with("cgroup"))
            .map(|f| Path::new(f[1]).join(&self.name))
            .collect())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        fn remove(directory: &Path) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            // What a failed lane left running in it goes with it.
            for pid in std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Ok(pid) = pid.parse() {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                }
            }
            let end = Instant::now() + Duration::from_secs(10);
            while directory.exists() && std::fs::remove_dir(directory).is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for directory in self.directories().unwrap_or_default() {
            remove(&directory);
        }
    }
}
