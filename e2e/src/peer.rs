//! Debian's containerd with runc and the CNI plugins, in a private place: who Berth is measured beside.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::checks::until;
use crate::client::Client;
use crate::daemon::IMAGE;
use crate::pty::end;

/// Its pods' cgroups go below this one, in every hierarchy.
const CGROUP: &str = "berth-bench-peer";

pub(crate) struct Peer {
    home: tempfile::TempDir,
    child: Child,
}

impl Peer {
    /// Answers when this returns, with the archive imported. Its mounts and links belong to the namespaces the bench
    /// was started in and go with them.
    pub(crate) async fn start(archive: &Path) -> Result<Self> {
        Self::start_in(&std::env::temp_dir(), archive).await
    }

    /// With everything it keeps below a directory.
    pub(crate) async fn start_in(directory: &Path, archive: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("berth-peer-").tempdir_in(directory)?;
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("config.toml"), config(home.path()))?;
        std::fs::create_dir(at("cni"))?;
        std::fs::write(at("cni/10-bench.conflist"), conflist(home.path()))?;
        let log = std::fs::File::create(at("log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd (package containerd)")?;
        let peer = Self { home, child };
        let socket = peer.socket();
        until("containerd to answer", || {
            let socket = socket.clone();
            async move { Ok(Client::connect(&socket).await.ok()) }
        })
        .await
        .with_context(|| peer.log_tail())?;
        let done = Command::new("ctr")
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .context("ctr (package containerd)")?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("ctr images import: {said}\n{}", peer.log_tail());
        }
        Ok(peer)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("c.sock")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn cgroup_parent() -> String {
        format!("/{CGROUP}")
    }

    /// Its shims, known by its socket on their command line.
    pub(crate) fn shims(&self) -> Result<Vec<i32>> {
        let socket = self.socket().to_string_lossy().into_owned();
        crate::daemon::processes(|words| {
            words[0].ends_with("containerd-shim-runc-v2") && words.contains(&socket.as_str())
        })
    }

    pub(crate) fn log_tail(&self) -> String {
        crate::daemon::tail(&self.path("log"))
    }
}

impl Drop for Peer {
    /// Pods are gone when all went well; if not, whatever is in its cgroups ends.
    fn drop(&mut self) {
        end(&mut self.child);
        for shim in self.shims().unwrap_or_default() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL);
        }
        let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        for hierarchy in hierarchies.filter_map(Result::ok) {
            remove_tree(&hierarchy.path().join(CGROUP));
        }
    }
}

/// Ends what is in a cgroup and below, and removes it.
fn remove_tree(at: &Path) {
    let Ok(entries) = std::fs::read_dir(at) else { return };
    for entry in entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    for _ in 0..100 {
        for pid in std::fs::read_to_string(at.join("cgroup.procs")).unwrap_or_default().lines() {
            let Ok(pid) = pid.parse() else { continue };
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        if std::fs::remove_dir(at).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What Debian's default would be, in a place of its own; oom scores as this host allows, and the image of the test in the
/// place of the pause image, which no registry here has.
fn config(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{home}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{home}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// As Berth's own network does: a bridge with masquerade.
fn conflist(home: &Path) -> String {
    let ranges = serde_json::json!([[{ "subnet": "10.213.0.0/16" }]]);
    serde_json::json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [{
            "type": "bridge", "bridge": "peer0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": { "type": "host-local", "dataDir": home.join("ipam"), "ranges": ranges,
                      "routes": [{ "dst": "0.0.0.0/0" }] },
        }],
    })
    .to_string()
}
