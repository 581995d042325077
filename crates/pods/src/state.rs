//! What is in memory: the authority while the daemon runs. Lists read it without any I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_ids::{ContainerId, SandboxId};
use berth_model::{ContainerMetadata, ContainerState, LifeEvent, LifeEventKind, SandboxMetadata, UnixNanos};
use berth_shim_wire::ExitStatus;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::flight::Flights;
use crate::ports::{Events, Pod, Ports};
use crate::record::{ContainerRecord, ContainerRun, Phase, SandboxRecord};
use crate::stats::Pace;
use crate::{PodsError, Settings, lookup};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    sandboxes: RwLock<BTreeMap<SandboxId, Arc<Sandbox>>>,
    /// Sandboxes on their way into `sandboxes`.
    coming: Mutex<HashSet<SandboxId>>,
    containers: RwLock<Containers>,
    pub(crate) runs: Flights<SandboxMetadata, SandboxId>,
    pub(crate) creates: Flights<(SandboxId, ContainerMetadata), ContainerId>,
    pub(crate) sandbox_ends: Flights<(SandboxId, &'static str), ()>,
    pub(crate) container_ops: Flights<(ContainerId, &'static str), ()>,
    told: broadcast::Sender<Arc<LifeEvent>>,
}

/// All of them, and each sandbox's: to look for the latter among the former would take as long as there are both.
#[derive(Debug, Default)]
struct Containers {
    all: BTreeMap<ContainerId, Arc<Container>>,
    of: HashMap<SandboxId, BTreeMap<ContainerId, Arc<Container>>>,
}

/// Events a listener may be behind before it loses its stream.
const BEHIND_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    record: Mutex<SandboxRecord>,
    pod: Mutex<Option<Arc<dyn Pod>>>,
    /// One mutating operation at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub(crate) pace: Mutex<Pace>,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) sandbox: Arc<Sandbox>,
    record: Mutex<ContainerRecord>,
    /// Follows the run state; waiting for an end is waiting here.
    changed: watch::Sender<ContainerState>,
    /// Start and removal take turns; a stop does not need one.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// When SIGKILL is due; set by the first stop, brought forward by later ones.
    pub(crate) kill_at: watch::Sender<Option<Instant>>,
    pub(crate) pace: Mutex<Pace>,
    story: Mutex<Story>,
}

/// What was told of a container's process: a short-lived one may have ended before its start is known.
#[derive(Debug, Default)]
struct Story {
    started: bool,
    ended: bool,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, pod: Option<Arc<dyn Pod>>) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            pod: Mutex::new(pod),
            turn: tokio::sync::Mutex::default(),
            pace: Mutex::default(),
        })
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&SandboxRecord) -> T) -> T {
        look(&self.record.lock())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.record.lock().phase
    }

    /// The living pod of a ready sandbox.
    pub(crate) fn ready(&self) -> Result<Arc<dyn Pod>, PodsError> {
        let pod = self.pod.lock().clone();
        match pod {
            Some(pod) if self.phase() == Phase::Ready => Ok(pod),
            _ => Err(PodsError::SandboxNotReady { id: self.id.to_string() }),
        }
    }

    pub(crate) fn pod(&self) -> Option<Arc<dyn Pod>> {
        self.pod.lock().clone()
    }

    pub(crate) fn forget_pod(&self) {
        *self.pod.lock() = None;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> SandboxRecord {
        let mut record = self.record.lock();
        change(&mut record);
        record.clone()
    }
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, sandbox: Arc<Sandbox>) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            sandbox,
            changed: watch::Sender::new(record.run.state),
            story: Mutex::new(Story { started: record.run.state != ContainerState::Created, ended: false }),
            record: Mutex::new(record),
            turn: tokio::sync::Mutex::default(),
            kill_at: watch::Sender::new(None),
            pace: Mutex::default(),
        })
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&self.record.lock())
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.record.lock().run.state
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> ContainerRecord {
        let mut record = self.record.lock();
        change(&mut record);
        let copy = record.clone();
        // Told under the lock: the watch never runs behind the record.
        self.changed.send_replace(copy.run.state);
        copy
    }

    /// Its start was told by an earlier daemon, or nobody listened yet.
    pub(crate) fn start_is_known(&self) {
        self.story.lock().started = true;
    }

    /// Notes how it ended, unless that is known already.
    pub(crate) fn end(&self, change: impl FnOnce(&mut ContainerRun)) -> Option<ContainerRecord> {
        let mut record = self.record.lock();
        if record.run.state == ContainerState::Exited {
            return None;
        }
        change(&mut record.run);
        let copy = record.clone();
        self.changed.send_replace(copy.run.state);
        Some(copy)
    }

    /// Returns once the container does not run (any more).
    pub(crate) async fn wait_ended(&self) {
        let mut changed = self.changed.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = changed.wait_for(|state| *state != ContainerState::Running).await;
    }
}

impl State {
    pub(crate) fn new(ports: Ports, settings: Settings) -> Self {
        Self {
            ports,
            settings,
            sandboxes: RwLock::default(),
            coming: Mutex::default(),
            containers: RwLock::default(),
            runs: Flights::default(),
            creates: Flights::default(),
            sandbox_ends: Flights::default(),
            container_ops: Flights::default(),
            told: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.sandboxes.read().len(), self.containers.read().all.len())
    }

    /// Counts as known as long as the guard is there, however its making ends.
    pub(crate) fn comes(&self, id: &SandboxId) -> Coming<'_> {
        self.coming.lock().insert(id.clone());
        Coming { state: self, id: id.clone() }
    }

    /// Every sandbox, also one that is being made.
    pub(crate) fn known(&self) -> HashSet<SandboxId> {
        // In the order that a sandbox takes: none is missed in between.
        let mut known = self.coming.lock().clone();
        known.extend(self.sandboxes.read().keys().cloned());
        known
    }

    /// By id or unique prefix; `None` when there is none.
    pub(crate) fn find_sandbox(&self, id: &str) -> Result<Option<Arc<Sandbox>>, PodsError> {
        lookup::find(&self.sandboxes.read(), "sandbox", id).map(Option::<&Arc<Sandbox>>::cloned)
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, PodsError> {
        self.find_sandbox(id)?.ok_or_else(|| PodsError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    pub(crate) fn find_container(&self, id: &str) -> Result<Option<Arc<Container>>, PodsError> {
        lookup::find(&self.containers.read().all, "container", id).map(Option::<&Arc<Container>>::cloned)
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, PodsError> {
        self.find_container(id)?.ok_or_else(|| PodsError::NotFound { kind: "container", id: id.to_owned() })
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.read().all.values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let containers = self.containers.read();
        containers.of.get(sandbox).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    pub(crate) fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.sandboxes.write().insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn insert_container(&self, container: Arc<Container>) {
        let mut containers = self.containers.write();
        let of = containers.of.entry(container.sandbox.id.clone()).or_default();
        of.insert(container.id.clone(), container.clone());
        containers.all.insert(container.id.clone(), container);
    }

    pub(crate) fn drop_sandbox(&self, id: &SandboxId) {
        self.sandboxes.write().remove(id);
    }

    pub(crate) fn drop_container(&self, id: &ContainerId) {
        let mut containers = self.containers.write();
        let Some(gone) = containers.all.remove(id) else { return };
        if let Some(of) = containers.of.get_mut(&gone.sandbox.id) {
            of.remove(id);
            if of.is_empty() {
                containers.of.remove(&gone.sandbox.id);
            }
        }
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<LifeEvent>> {
        self.told.subscribe()
    }

    /// Tells whoever listens what just happened to the object `id` of a sandbox.
    pub(crate) fn tell(&self, kind: LifeEventKind, sandbox: &Sandbox, id: &str) {
        if self.told.receiver_count() == 0 {
            return;
        }
        let containers = self.containers_of(&sandbox.id);
        let event = LifeEvent {
            kind,
            id: id.to_owned(),
            at: now(),
            sandbox: crate::sandbox::describe(sandbox, false),
            containers: containers.iter().map(|c| crate::container::describe(c)).collect(),
        };
        // The last listener may have left in between.
        let _ = self.told.send(Arc::new(event));
    }

    /// The process of a container was born; an end that came first is told after it.
    pub(crate) fn tell_started(&self, container: &Container) {
        let mut story = container.story.lock();
        self.tell(LifeEventKind::Started, &container.sandbox, container.id.as_str());
        story.started = true;
        if story.ended {
            self.tell(LifeEventKind::Stopped, &container.sandbox, container.id.as_str());
        }
    }

    /// It ended. `born`: nobody will tell of its start any more.
    pub(crate) fn tell_ended(&self, container: &Container, born: bool) {
        let mut story = container.story.lock();
        story.ended = true;
        if story.started || born {
            self.tell(LifeEventKind::Stopped, &container.sandbox, container.id.as_str());
        }
    }

    /// The first record of a sandbox.
    pub(crate) async fn add_sandbox(&self, record: &SandboxRecord) -> Result<(), PodsError> {
        let added = self.ports.store.add_sandbox(record).await;
        added.map_err(PodsError::port(format!("record sandbox {}", record.id)))
    }

    /// The first record of a container.
    pub(crate) async fn add_container(&self, record: &ContainerRecord) -> Result<(), PodsError> {
        let added = self.ports.store.add_container(record).await;
        added.map_err(PodsError::port(format!("record container {}", record.id)))
    }

    /// What changed, unless its record was deleted meanwhile.
    pub(crate) async fn save_sandbox(&self, record: &SandboxRecord) -> Result<(), PodsError> {
        let saved = self.ports.store.put_sandbox(record).await;
        saved.map_err(PodsError::port(format!("record sandbox {}", record.id)))
    }

    /// What changed, unless its record was deleted meanwhile.
    pub(crate) async fn save_container(&self, record: &ContainerRecord) -> Result<(), PodsError> {
        let saved = self.ports.store.put_container(record).await;
        saved.map_err(PodsError::port(format!("record container {}", record.id)))
    }

    /// The sink for what this state's pods report.
    pub(crate) fn events(self: &Arc<Self>) -> Arc<dyn Events> {
        Arc::new(Reports { state: Arc::downgrade(self), runtime: tokio::runtime::Handle::current() })
    }
}

/// A sandbox that is being made.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    state: &'a State,
    id: SandboxId,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.state.coming.lock().remove(&self.id);
    }
}

#[derive(Debug)]
struct Reports {
    // Pods hold the sink and the state holds the pods: a strong reference would keep all of it for ever.
    state: std::sync::Weak<State>,
    runtime: tokio::runtime::Handle,
}

impl Events for Reports {
    fn container_exited(&self, _sandbox: &SandboxId, container: &ContainerId, status: ExitStatus) {
        let Some(state) = self.state.upgrade() else { return };
        let Ok(Some(cell)) = state.find_container(container.as_str()) else { return };
        let Some(record) = cell.end(|run| run.ended(status)) else { return };
        let reason = record.run.reason.map_or("", |r| r.as_str());
        tracing::info!(container = %container.short(), code = status.code, reason, "container ended");
        state.tell_ended(&cell, false);
        self.runtime.spawn(async move {
            if let Err(error) = state.save_container(&record).await {
                tracing::error!(container = %record.id, error = &error as &dyn std::error::Error, "the end is not on disk");
            }
            crate::sandbox::expire(&state, &cell.sandbox).await;
        });
    }

    fn pod_lost(&self, sandbox: &SandboxId) {
        let Some(state) = self.state.upgrade() else { return };
        let Ok(Some(sandbox)) = state.find_sandbox(sandbox.as_str()) else { return };
        self.runtime.spawn(async move {
            crate::recover::lost(&state, &sandbox).await;
            crate::sandbox::expire(&state, &sandbox).await;
        });
    }
}

pub(crate) fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// 32 random bytes for a new id.
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // getrandom(2) with no flags cannot fail once the pool is ready, which it is long before a runtime starts.
    #[expect(clippy::expect_used, reason = "see above")]
    getrandom::fill(&mut bytes).expect("getrandom(2)");
    bytes
}
