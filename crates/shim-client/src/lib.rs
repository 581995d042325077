//! Spawns shims, finds those of an earlier daemon, and talks to them.
//!
//! The launch plan says what; this crate opens the descriptors it points at. The daemon never forks: a shim is made
//! by posix_spawn(3) and everything else is born in the shim.

mod attach;
mod connect;
mod connection;
mod directory;
mod error;
mod exec;
mod host;
mod log;
mod output;
mod pod;
mod sources;
mod spawn;
mod userns;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::{CgroupPath, Cgroups, Limits};
use berth_ids::{ContainerId, SandboxId};
use berth_plan::{CompiledFilter, HostFacts, PodFiles, SeccompChoice};
use berth_shim_wire::{ExitStatus, SandboxPlan};

pub use attach::{Attach, Wanted};
pub use error::ShimError;
pub use exec::{Ends, Exec, ExecFailure};
pub use host::{read_host_file, requested_devices};
pub use pod::{Born, ShimPod, Start};

use crate::directory::PodDirectory;
use crate::spawn::Program;

/// What shims report. Calls must not block.
pub trait Notices: Send + Sync {
    fn container_exited(&self, sandbox: &SandboxId, container: &ContainerId, status: ExitStatus);
    /// The shim ended without being asked to.
    fn pod_lost(&self, sandbox: &SandboxId);
}

/// The shims of one instance. Clones share everything.
#[derive(Debug, Clone)]
pub struct Shims {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: PathBuf,
    /// Below it are the cgroups of pods that came without a parent.
    cgroup_parent: String,
    program: Program,
    cgroups: Arc<Cgroups>,
    facts: HostFacts,
    filters: berth_seccomp::Cache,
}

impl Shims {
    /// `program` is the `berth-shim` file, read once; `state` the instance's state directory; `layers` a directory of the
    /// filesystem that image layers are on.
    pub fn open(
        state: PathBuf,
        program: &Path,
        cgroup_parent: String,
        layers: &Path,
    ) -> Result<Self, ShimError> {
        let cgroups = Cgroups::detect();
        let cgroups = cgroups.map_err(|source| ShimError::Cgroup { path: "/".into(), source })?;
        let mut facts = host::facts(&cgroups);
        let program = Program::load(program)?;
        match userns::probe(&program, layers) {
            Ok(()) => facts.user_namespaces = true,
            Err(error) => tracing::info!(%error, "this host gives pods no user namespaces"),
        }
        let shared = Shared {
            state,
            cgroup_parent,
            program,
            cgroups: Arc::new(cgroups),
            facts,
            filters: berth_seccomp::Cache::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn facts(&self) -> &HostFacts {
        &self.shared.facts
    }

    /// A new shim with the pod's namespaces made. On failure nothing of it is left.
    pub async fn spawn(
        &self,
        id: &SandboxId,
        plan: SandboxPlan,
        notices: Arc<dyn Notices>,
    ) -> Result<Arc<ShimPod>, ShimError> {
        let (shared, sandbox) = (self.shared.clone(), id.clone());
        let spawned = blocking(move || {
            spawn::spawn(&shared.program, &PodDirectory::of(&shared.state, &sandbox), &sandbox)
        });
        let (child, socket) = spawned.await?;
        let pid = child.id();
        let made =
            ShimPod::greet(id, socket, Some(child), Some(plan), notices, self.shared.cgroups.clone()).await;
        if made.is_err() {
            tracing::debug!(sandbox = %id.short(), pid, "the new shim did not come up");
            self.destroy(id, Vec::new()).await?;
        }
        made
    }

    /// The shim of an earlier daemon, or `None` when it is gone.
    pub async fn adopt(
        &self,
        id: &SandboxId,
        notices: Arc<dyn Notices>,
    ) -> Result<Option<Arc<ShimPod>>, ShimError> {
        let directory = PodDirectory::of(&self.shared.state, id);
        let Some(socket) = blocking(move || spawn::connect(&directory)).await? else { return Ok(None) };
        ShimPod::greet(id, socket, None, None, notices, self.shared.cgroups.clone()).await.map(Some)
    }

    /// The ends a shim wrote down.
    pub fn exit_records(&self, id: &SandboxId) -> Vec<(ContainerId, ExitStatus)> {
        PodDirectory::of(&self.shared.state, id).exit_records()
    }

    /// Where the pod's own files are.
    pub fn files(&self, id: &SandboxId) -> PodFiles {
        PodDirectory::of(&self.shared.state, id).files()
    }

    /// A file every user of the pod may read; containers see it by a bind mount, so it is written in place.
    pub fn write_file(&self, path: &Path, contents: &[u8]) -> Result<(), ShimError> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let fail = || ShimError::file("write", path);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path);
        let mut file = file.map_err(fail())?;
        // The daemon's umask hides files from everybody; these are for the pod's users.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.set_permissions(readable).and_then(|()| file.write_all(contents)).map_err(fail())
    }

    /// Ends whatever is left of a pod: its shim, the given cgroups, its directory. Idempotent.
    pub async fn destroy(&self, id: &SandboxId, cgroup_paths: Vec<String>) -> Result<(), ShimError> {
        struct Deaf;
        impl Notices for Deaf {
            fn container_exited(&self, _: &SandboxId, _: &ContainerId, _: ExitStatus) {}
            fn pod_lost(&self, _: &SandboxId) {}
        }
        match self.adopt(id, Arc::new(Deaf)).await {
            Ok(None) => {}
            Ok(Some(pod)) => pod.shutdown().await?,
            // It ended while we talked.
            Err(ShimError::Gone) => {}
            Err(error) => return Err(error),
        }
        let shared = self.shared.clone();
        let directory = PodDirectory::of(&self.shared.state, id);
        blocking(move || {
            for path in &cgroup_paths {
                clear(&shared.cgroups, path)?;
            }
            directory.remove().map_err(ShimError::file("remove", directory.path()))
        })
        .await
    }

    /// Kills what runs in a cgroup and removes it. One that is not there is no error.
    pub fn clear_cgroup(&self, path: &str) -> Result<(), ShimError> {
        clear(&self.shared.cgroups, path)
    }

    /// Holds a living cgroup to other limits, all or none of them.
    pub fn limit(&self, path: &str, limits: &oci_spec::runtime::LinuxResources) -> Result<(), ShimError> {
        let fail = |source| ShimError::Cgroup { path: path.to_owned(), source };
        let limits = Limits::from_oci(limits).map_err(fail)?;
        let cgroup = self.shared.cgroups.open(&CgroupPath::new(path).map_err(fail)?);
        cgroup.update(&limits).map_err(fail)
    }

    /// The host's control groups, as they were found at the start.
    pub fn cgroups(&self) -> Arc<Cgroups> {
        self.shared.cgroups.clone()
    }

    /// Clears directories and cgroups of pods that nobody knows. What fails is logged: the next start tries again.
    pub async fn sweep(&self, known: &[SandboxId]) {
        let shared = self.shared.clone();
        let found = blocking(move || Ok(found(&shared))).await.unwrap_or_default();
        for id in found.into_iter().filter(|id| !known.contains(id)) {
            tracing::info!(sandbox = %id.short(), "leftovers of an unknown pod are cleared");
            let cgroup = format!("{}/{id}", self.shared.cgroup_parent);
            if let Err(error) = self.destroy(&id, vec![cgroup]).await {
                tracing::warn!(sandbox = %id, error = &error as &dyn std::error::Error, "leftovers stay");
            }
        }
    }

    /// Removes the instance's own cgroup parent, once no pod is left.
    pub fn remove_parent(&self) -> Result<(), ShimError> {
        clear(&self.shared.cgroups, &self.shared.cgroup_parent)
    }

    /// The filter of a choice; `None` is unconfined.
    pub fn seccomp(&self, choice: &SeccompChoice, caps: u64) -> Result<Option<CompiledFilter>, ShimError> {
        host::seccomp(&self.shared.filters, choice, caps)
    }
}

fn clear(cgroups: &Cgroups, path: &str) -> Result<(), ShimError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let fail = |source| ShimError::Cgroup { path: path.to_owned(), source };
    let cgroup = cgroups.open(&CgroupPath::new(path).map_err(fail)?);
    cgroup.kill(PATIENCE).map_err(fail)?;
    cgroup.remove(PATIENCE).map_err(fail)
}

/// Pods that left a directory.
fn found(shared: &Shared) -> Vec<SandboxId> {
    let Ok(entries) = std::fs::read_dir(PodDirectory::all(&shared.state)) else { return Vec::new() };
    let id = |entry: std::fs::DirEntry| SandboxId::parse(entry.file_name().into_string().ok()?).ok();
    entries.filter_map(Result::ok).filter_map(id).collect()
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShimError> + Send + 'static,
) -> Result<T, ShimError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ShimError::Gone))
}

pub(crate) fn random_u64() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Only to keep exec numbers of two daemons apart.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
