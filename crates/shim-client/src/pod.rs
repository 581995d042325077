//! A living pod: its shim, reached over one connection.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use berth_cgroup::{CgroupPath, Cgroups, Limits};
use berth_ids::{ContainerId, SandboxId};
use berth_model::Signal;
use berth_plan::{ContainerPlan, LogFile};
use berth_shim_wire::{Event, ExitStatus, FdIndex, LaunchPlan, Reply, Request, SandboxPlan, ShimSnapshot};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::connection::{Answer, Connection, Listener};
use crate::sources::{self, Opened};
use crate::{Notices, ShimError};

/// How long a shim may take for what takes it well under a millisecond.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A start waits for mounts of the user's making and for a possibly loaded machine.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long the kernel may take to end what was killed, before a directory is said to be stuck.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors one packet carries (SCM_MAX_FD is 253; one is kept for a plan in memory).
const FD_LIMIT: usize = 252;

/// A container to be born.
#[derive(Debug)]
pub struct Start {
    pub container: ContainerId,
    pub cgroup_path: String,
    pub log: Option<LogFile>,
    pub plan: ContainerPlan,
    /// The detached overlay.
    pub rootfs: OwnedFd,
    /// Directories of the image's volumes, in the order of the plan's.
    pub volumes: Vec<PathBuf>,
    /// Images as volumes, detached, likewise.
    pub images: Vec<OwnedFd>,
}

/// A process that runs.
#[derive(Debug, Clone)]
pub struct Born {
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    pub warnings: Vec<String>,
}

/// A pod's shim. Dropping it leaves the pod running.
#[derive(Debug)]
pub struct ShimPod {
    id: SandboxId,
    pid: u32,
    netns: Arc<OwnedFd>,
    userns: Option<Arc<OwnedFd>>,
    pub(crate) connection: Connection,
    pub(crate) desk: Arc<Desk>,
    pub(crate) cgroups: Arc<Cgroups>,
    /// Execs and attaches are numbered from a random start: those of an earlier daemon may still be known to the shim.
    numbers: AtomicU64,
    child: Mutex<Option<Child>>,
}

/// Where the shim's events arrive.
pub(crate) struct Desk {
    id: SandboxId,
    notices: Arc<dyn Notices>,
    pub(crate) execs: Mutex<HashMap<u64, watch::Sender<Option<ExitStatus>>>>,
    /// Told whether the reader fell behind.
    pub(crate) attaches: Mutex<HashMap<u64, watch::Sender<Option<bool>>>>,
    /// Pidfds of running containers, for those who join their namespaces.
    pidfds: Mutex<HashMap<String, Arc<OwnedFd>>>,
    /// We asked it to end.
    ending: AtomicBool,
    closed: watch::Sender<bool>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Desk {
    fn new(id: &SandboxId, notices: Arc<dyn Notices>) -> Arc<Self> {
        Arc::new(Self {
            id: id.clone(),
            notices,
            execs: Mutex::default(),
            attaches: Mutex::default(),
            pidfds: Mutex::default(),
            ending: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        })
    }
}

impl Listener for Desk {
    fn event(&self, event: Event) {
        match event {
            Event::ContainerExited { container_id, status } => {
                self.pidfds.lock().remove(&container_id);
                match ContainerId::parse(container_id) {
                    Ok(container) => self.notices.container_exited(&self.id, &container, status),
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "an exit of nobody")
                    }
                }
            }
            Event::AttachEnded { attach_id, cut } => {
                if let Some(waiting) = self.attaches.lock().remove(&attach_id) {
                    waiting.send_replace(Some(cut));
                }
            }
            Event::ExecExited { exec_id, status } => {
                if let Some(waiting) = self.execs.lock().remove(&exec_id) {
                    waiting.send_replace(Some(status));
                }
            }
        }
    }

    fn closed(&self) {
        self.execs.lock().clear();
        self.attaches.lock().clear();
        self.closed.send_replace(true);
        if !self.ending.load(Ordering::SeqCst) {
            self.notices.pod_lost(&self.id);
        }
    }
}

impl ShimPod {
    /// Shakes hands over a new connection; with `set_up` the shim makes the pod's namespaces, without it has them.
    pub(crate) async fn greet(
        id: &SandboxId,
        socket: OwnedFd,
        child: Option<Child>,
        set_up: Option<SandboxPlan>,
        notices: Arc<dyn Notices>,
        cgroups: Arc<Cgroups>,
    ) -> Result<Arc<Self>, ShimError> {
        let desk = Desk::new(id, notices);
        // Until the handshake is through nobody wants to hear that it failed twice.
        desk.ending.store(true, Ordering::SeqCst);
        let connection = Connection::new(socket, desk.clone()).map_err(ShimError::Socket)?;
        let hello = Request::Hello { version: berth_shim_wire::PROTOCOL_VERSION };
        let pid = match patient(PATIENCE, connection.call(&hello, &[])).await?.0 {
            Reply::Hello { version, pid, sandbox_id } if sandbox_id == id.as_str() => {
                if version > berth_shim_wire::PROTOCOL_VERSION {
                    let known = berth_shim_wire::PROTOCOL_VERSION;
                    return Err(ShimError::Version { found: version, known });
                }
                pid
            }
            _ => return Err(ShimError::Protocol),
        };
        let netns = match set_up {
            Some(plan) => match patient(PATIENCE, connection.call(&Request::SetUp(plan), &[])).await? {
                (Reply::Ready { netns: FdIndex(0) }, mut fds) if fds.len() == 1 => fds.remove(0),
                _ => return Err(ShimError::Protocol),
            },
            None => crate::spawn::netns_of(pid)
                .map_err(ShimError::file("open the network namespace of", pid.to_string()))?,
        };
        let userns = crate::userns::of_pod(pid);
        let userns = userns.map_err(ShimError::file("find the user namespace of", pid.to_string()))?;
        desk.ending.store(false, Ordering::SeqCst);
        Ok(Arc::new(Self {
            id: id.clone(),
            pid,
            netns: Arc::new(netns),
            userns: userns.map(Arc::new),
            connection,
            desk,
            cgroups,
            numbers: AtomicU64::new(crate::random_u64() >> 1),
            child: Mutex::new(child),
        }))
    }

    /// Of the shim, which lives in the pod's namespaces.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn netns(&self) -> Arc<OwnedFd> {
        self.netns.clone()
    }

    /// The pod's own, or `None` when it lives in the host's.
    pub fn user_namespace(&self) -> Option<Arc<OwnedFd>> {
        self.userns.clone()
    }

    /// Makes the cgroup, opens what the plan names, and has the shim give birth.
    pub async fn start(&self, start: Start) -> Result<Born, ShimError> {
        let container = start.container.clone();
        let (cgroups, pidfds) = (self.cgroups.clone(), self.desk.pidfds.lock().clone());
        let userns = self.userns.clone();
        let work = move || assemble(&cgroups, &pidfds, userns.as_deref(), start);
        let (plan, fds) = crate::blocking(work).await?;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let request = Request::Launch(Box::new(plan));
        let answer = self.connection.call(&request, &borrowed);
        let (born, pidfd) = born(patient(START_PATIENCE, answer).await?)?;
        self.desk.pidfds.lock().insert(container.to_string(), Arc::new(pidfd));
        Ok(born)
    }

    /// What the shim knows; also takes the pidfds of running containers, so that others can join them.
    pub async fn snapshot(&self) -> Result<ShimSnapshot, ShimError> {
        let Reply::Snapshot(snapshot) =
            patient(PATIENCE, self.connection.call(&Request::Snapshot, &[])).await?.0
        else {
            return Err(ShimError::Protocol);
        };
        for container in snapshot.containers.iter().filter(|c| c.exit.is_none()) {
            // The shim has not reaped it (no exit in the same breath), so the pid is still its own.
            let pid = i32::try_from(container.pid).unwrap_or(0);
            if let Ok(pidfd) = berth_sys::process::open_pidfd(pid) {
                self.desk.pidfds.lock().insert(container.container_id.clone(), Arc::new(pidfd));
            }
        }
        Ok(snapshot)
    }

    pub async fn signal(&self, container: &ContainerId, signal: Signal) -> Result<(), ShimError> {
        let request = Request::Signal { container_id: container.to_string(), signal: signal.number() };
        self.done(request, &[]).await
    }

    /// SIGKILL to process 1 and to everything in the cgroup.
    pub async fn kill(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), ShimError> {
        match self.signal(container, Signal::KILL).await {
            // Ended in between, or the shim is gone: the cgroup is what counts.
            Ok(()) | Err(ShimError::Step(_) | ShimError::Gone) => {}
            Err(error) => return Err(error),
        }
        let (cgroups, path) = (self.cgroups.clone(), cgroup_path.to_owned());
        crate::blocking(move || {
            let fail = |source| ShimError::Cgroup { path: path.clone(), source };
            let cgroup = cgroups.open(&CgroupPath::new(&path).map_err(fail)?);
            cgroup.kill(KILL_PATIENCE).map_err(fail)
        })
        .await
    }

    pub async fn reopen_log(&self, container: &ContainerId, log: &LogFile) -> Result<(), ShimError> {
        let log = log.clone();
        let file = crate::blocking(move || crate::log::open(&log)).await?;
        let request = Request::ReopenLog { container_id: container.to_string(), file: FdIndex(0) };
        self.done(request, &[file.as_fd()]).await
    }

    /// Drops what the shim keeps of an ended container, and its cgroup.
    pub async fn forget(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), ShimError> {
        match self.done(Request::Forget { container_id: container.to_string() }, &[]).await {
            Ok(()) | Err(ShimError::Step(_) | ShimError::Gone) => {}
            Err(error) => return Err(error),
        }
        let (cgroups, path) = (self.cgroups.clone(), cgroup_path.to_owned());
        crate::blocking(move || crate::clear(&cgroups, &path)).await
    }

    /// Ends the shim and with it the pod's namespaces; returns once it is gone.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        self.desk.ending.store(true, Ordering::SeqCst);
        match self.done(Request::Shutdown, &[]).await {
            Ok(()) | Err(ShimError::Gone) => {}
            Err(error) => return Err(error),
        }
        let mut closed = self.desk.closed.subscribe();
        let gone = timeout(KILL_PATIENCE, closed.wait_for(|closed| *closed)).await;
        gone.map_err(|_| ShimError::Silent(KILL_PATIENCE))?.map_err(|_| ShimError::Gone)?;
        self.reap().await;
        Ok(())
    }

    /// Collects the exit status of a shim that is our child; one of an earlier daemon is init's.
    pub(crate) async fn reap(&self) {
        let child = self.child.lock().take();
        if let Some(mut child) = child {
            let waited = tokio::task::spawn_blocking(move || child.wait()).await;
            tracing::debug!(sandbox = %self.id.short(), status = ?waited, "shim ended");
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn done(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        match patient(PATIENCE, self.connection.call(&request, fds)).await?.0 {
            Reply::Done => Ok(()),
            _ => Err(ShimError::Protocol),
        }
    }
}

pub(crate) async fn patient(
    patience: Duration,
    answer: impl Future<Output = Result<Answer, ShimError>>,
) -> Result<Answer, ShimError> {
    timeout(patience, answer).await.unwrap_or(Err(ShimError::Silent(patience)))
}

pub(crate) fn born(answer: Answer) -> Result<(Born, OwnedFd), ShimError> {
    match answer {
        (Reply::Started { pid, started_at, pidfd: FdIndex(0), warnings }, mut fds) if fds.len() == 1 => {
            Ok((Born { pid, started_at, warnings }, fds.remove(0)))
        }
        _ => Err(ShimError::Protocol),
    }
}

/// The launch plan with every descriptor it points at.
fn assemble(
    cgroups: &Cgroups,
    pidfds: &HashMap<String, Arc<OwnedFd>>,
    userns: Option<&OwnedFd>,
    start: Start,
) -> Result<(LaunchPlan, Vec<OwnedFd>), ShimError> {
    let path = start.cgroup_path;
    let fail = |source| ShimError::Cgroup { path: path.clone(), source };
    let limits = Limits::from_oci(&start.plan.resources).map_err(fail)?;
    let opened = sources::open(Opened {
        wanted: &start.plan.fds,
        rootfs: start.rootfs,
        log: start.log.as_ref(),
        volumes: &start.volumes,
        images: &start.images,
        pidfds,
        userns,
    });
    let mut fds = opened?;
    let mut plan = start.plan.launch;
    let cgroup = cgroups.create(&CgroupPath::new(&path).map_err(fail)?, &limits).map_err(fail)?;
    let mut add = |fd: OwnedFd| {
        fds.push(fd);
        FdIndex(fds.len() as u16 - 1)
    };
    plan.cgroup_procs = cgroup.procs_files().map_err(fail)?.into_iter().map(&mut add).collect();
    plan.cgroup_dir = cgroup.dir_fd().map_err(fail)?.map(&mut add);
    plan.oom_counter = cgroup.oom_counter().map_err(fail)?.map(&mut add);
    match fds.len() {
        wanted if wanted > FD_LIMIT => Err(ShimError::TooMany { wanted, limit: FD_LIMIT }),
        _ => Ok((plan, fds)),
    }
}
