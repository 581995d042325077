//! The five ports as fakes that keep account of what exists, so that a test can ask what is left.

#![allow(clippy::unwrap_used, reason = "a test helper: a failure is the test's")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::{ContainerId, Digest, ErrorClass, ImageId, SandboxId};
use berth_model::{
    ContainerConfig, ContainerMetadata, CpuUsage, ExecOutput, GroupUsage, ImageSpec, MemoryUsage,
    SandboxConfig, SandboxMetadata, Signal,
};
use berth_plan::{CompiledFilter, HostFacts, LogFile, PodFiles, RequestedDevice, SeccompChoice};
use berth_pods::ports::*;
use berth_pods::{ContainerRecord, Pods, SandboxRecord, Settings};
use berth_shim_wire::{ExecPlan, ExitStatus, SandboxPlan};
use oci_spec::runtime::LinuxResources;
use parking_lot::Mutex;

/// What exists.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) shims: BTreeSet<SandboxId>,
    pub(crate) addresses: BTreeSet<SandboxId>,
    pub(crate) leases: BTreeSet<ContainerId>,
    pub(crate) sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    pub(crate) containers: BTreeMap<ContainerId, ContainerRecord>,
    /// Containers with a process; those in `deaf` survive anything but SIGKILL.
    pub(crate) running: BTreeMap<ContainerId, SandboxId>,
    pub(crate) deaf: bool,
    /// The name of the next step to fail, once.
    pub(crate) fail: Option<&'static str>,
    pub(crate) spawned: usize,
    pub(crate) signals: Vec<(ContainerId, i32)>,
    /// Others come in between while a lease is taken.
    pub(crate) slow_leases: bool,
    pub(crate) rebooted: bool,
    /// CPU time that every cgroup used.
    pub(crate) cpu: u64,
    /// The memory limits that were set, in order.
    pub(crate) limits: Vec<Option<i64>>,
    /// What attaches asked for, and how.
    pub(crate) attached: Vec<(Streams, Manner)>,
    pub(crate) columns: Vec<u16>,
    pub(crate) hung_up: usize,
    /// The output of attaches ended: whether because the readers fell behind.
    pub(crate) broken: tokio::sync::watch::Sender<Option<bool>>,
    events: Option<Arc<dyn Events>>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<World>>);

impl Fake {
    /// A daemon over this world; a second one is the daemon after a kill -9.
    pub(crate) fn pods(&self) -> Pods {
        let port = Arc::new(self.clone());
        let ports = Ports {
            launcher: port.clone(),
            network: port.clone(),
            images: port.clone(),
            meter: port.clone(),
            store: port,
        };
        Pods::new(
            ports,
            Settings {
                cgroup_parent: "/berth-test".into(),
                kill_wait: Duration::from_secs(5),
                privileged_host_devices: true,
            },
        )
    }

    fn step(&self, name: &'static str) -> Result<(), PortError> {
        let mut world = self.0.lock();
        if world.fail == Some(name) {
            world.fail = None;
            return Err(PortError::new(ErrorClass::Unavailable, format!("{name} fails as the test wants")));
        }
        Ok(())
    }

    fn handle(&self, code: i32) -> FakeHandle {
        FakeHandle { fake: self.clone(), code }
    }

    /// The container's process ends by itself.
    pub(crate) fn exits(&self, id: &ContainerId, code: i32, oom_killed: bool) {
        let mut world = self.0.lock();
        let sandbox = world.running.remove(id);
        let events = world.events.clone();
        drop(world);
        if let (Some(sandbox), Some(events)) = (sandbox, events) {
            events.container_exited(
                &sandbox,
                id,
                ExitStatus { code, signal: 0, oom_killed, finished_at: i64::MAX / 2 },
            );
        }
    }
}

pub(crate) fn image_id() -> ImageId {
    ImageId(Digest::from_sha256([7; 32]))
}

pub(crate) fn sandbox(name: &str) -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "test".into(),
            attempt: 0,
        },
        ..Default::default()
    }
}

pub(crate) fn container(name: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: name.into(), attempt: 0 },
        image: ImageSpec { image: "app".into(), ..Default::default() },
        command: vec!["/app".into()],
        ..Default::default()
    }
}

struct FakePod {
    fake: Fake,
    id: SandboxId,
}

#[async_trait]
impl Pod for FakePod {
    fn pid(&self) -> u32 {
        42
    }
    fn netns(&self) -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/proc/self/ns/net").unwrap().into())
    }
    async fn start(&self, request: StartRequest) -> Result<Started, PortError> {
        self.fake.step("start")?;
        self.fake.0.lock().running.insert(request.container, self.id.clone());
        Ok(Started { pid: 43, started_at: 1, warnings: Vec::new() })
    }
    async fn snapshot(&self) -> Result<Vec<Seen>, PortError> {
        let world = self.fake.0.lock();
        let mine = world.running.iter().filter(|(_, sandbox)| **sandbox == self.id);
        Ok(mine
            .map(|(id, _)| Seen { container: id.clone(), pid: 43, started_at: 1, exit: None, log_dropped: 5 })
            .collect())
    }
    async fn signal(&self, container: &ContainerId, signal: Signal) -> Result<(), PortError> {
        let mut world = self.fake.0.lock();
        world.signals.push((container.clone(), signal.number()));
        let deaf = world.deaf;
        drop(world);
        if !deaf {
            self.fake.exits(container, 128 + signal.number(), false);
        }
        Ok(())
    }
    async fn kill(&self, container: &ContainerId, _: &str) -> Result<(), PortError> {
        self.fake.exits(container, 137, false);
        Ok(())
    }
    async fn exec(&self, plan: ExecPlan, _: &str, _: Option<Duration>) -> Result<ExecOutput, ExecError> {
        let stdout = plan.argv.iter().flat_map(|a| a.to_bytes().to_vec()).collect();
        Ok(ExecOutput { stdout, ..Default::default() })
    }
    async fn exec_connected(&self, _: ExecPlan, _: &str, streams: Streams) -> Result<Connected, PortError> {
        self.fake.step("exec")?;
        Ok(connected(self.fake.handle(5), streams))
    }
    async fn attach(
        &self,
        _: &ContainerId,
        streams: Streams,
        manner: Manner,
    ) -> Result<Connected, PortError> {
        self.fake.step("attach")?;
        self.fake.0.lock().attached.push((streams, manner));
        Ok(connected(self.fake.handle(6), streams))
    }
    async fn connect(&self, port: u16) -> Result<OwnedFd, PortError> {
        self.fake.step("connect")?;
        assert_ne!(port, 0);
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }
    async fn reopen_log(&self, _: &ContainerId, _: &LogFile) -> Result<(), PortError> {
        self.fake.step("reopen")
    }
    async fn forget(&self, _: &ContainerId, _: &str) -> Result<(), PortError> {
        self.fake.step("forget")
    }
    async fn shutdown(&self) -> Result<(), PortError> {
        self.fake.step("shutdown")?;
        self.fake.0.lock().shims.remove(&self.id);
        Ok(())
    }
}

/// Every end that was asked for is /dev/null.
fn connected(handle: FakeHandle, streams: Streams) -> Connected {
    let end = |wanted: bool| wanted.then(|| std::fs::File::open("/dev/null").unwrap().into());
    Connected {
        stdin: end(streams.stdin),
        stdout: end(streams.stdout),
        stderr: end(streams.stderr),
        handle: Arc::new(handle),
    }
}

/// An exec that ends with this code; an attach (code 6) when the world says so.
struct FakeHandle {
    fake: Fake,
    code: i32,
}

#[async_trait]
impl Handle for FakeHandle {
    fn resize(&self, columns: u16, _: u16) -> Result<(), PortError> {
        self.fake.0.lock().columns.push(columns);
        Ok(())
    }
    async fn wait(&self) -> Result<Option<ExitStatus>, PortError> {
        let mut broken = self.fake.0.lock().broken.subscribe();
        if self.code != 6 {
            return Ok(Some(ExitStatus { code: self.code, signal: 0, oom_killed: false, finished_at: 1 }));
        }
        let cut = broken.wait_for(Option::is_some).await.unwrap().unwrap_or_default();
        if cut { Err(PortError::new(ErrorClass::ResourceExhausted, "behind")) } else { Ok(None) }
    }
    async fn hang_up(&self) {
        self.fake.0.lock().hung_up += 1;
    }
}

#[async_trait]
impl Launcher for Fake {
    async fn spawn(
        &self,
        id: &SandboxId,
        _: SandboxPlan,
        events: Arc<dyn Events>,
    ) -> Result<Arc<dyn Pod>, PortError> {
        self.step("spawn")?;
        let mut world = self.0.lock();
        world.shims.insert(id.clone());
        world.spawned += 1;
        world.events = Some(events);
        Ok(Arc::new(FakePod { fake: self.clone(), id: id.clone() }))
    }
    async fn adopt(
        &self,
        id: &SandboxId,
        events: Arc<dyn Events>,
    ) -> Result<Option<Arc<dyn Pod>>, PortError> {
        let mut world = self.0.lock();
        world.events = Some(events);
        let pod = || Arc::new(FakePod { fake: self.clone(), id: id.clone() }) as Arc<dyn Pod>;
        Ok(world.shims.contains(id).then(pod))
    }
    async fn exit_records(&self, _: &SandboxId) -> Vec<(ContainerId, ExitStatus)> {
        Vec::new()
    }
    async fn write_files(&self, _: &SandboxId, _: PodFileContents) -> Result<(), PortError> {
        self.step("files")
    }
    fn files(&self, _: &SandboxId) -> PodFiles {
        PodFiles { hostname: "/h".into(), hosts: "/hosts".into(), resolv_conf: "/r".into() }
    }
    async fn host_file(&self, _: &str) -> Option<Vec<u8>> {
        Some(b"host\n".to_vec())
    }
    async fn destroy(&self, id: &SandboxId, _: Vec<String>) -> Result<(), PortError> {
        self.step("destroy")?;
        self.0.lock().shims.remove(id);
        Ok(())
    }
    async fn remove_logs(&self, _: &str) -> Result<(), PortError> {
        self.step("logs")
    }
    async fn clear_cgroup(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }
    async fn limit(&self, _: &str, limits: LinuxResources) -> Result<(), PortError> {
        self.step("limit")?;
        self.0.lock().limits.push(limits.memory().and_then(|memory| memory.limit()));
        Ok(())
    }
    async fn sweep(&self, known: &[SandboxId]) {
        self.0.lock().shims.retain(|id| known.contains(id));
    }
    fn facts(&self) -> &HostFacts {
        static FACTS: std::sync::LazyLock<HostFacts> = std::sync::LazyLock::new(HostFacts::default);
        &FACTS
    }
    async fn seccomp(&self, _: &SeccompChoice, _: u64) -> Result<Option<CompiledFilter>, PortError> {
        Ok(None)
    }
    async fn devices(&self, _: &[berth_model::Device]) -> Result<Vec<RequestedDevice>, PortError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Network for Fake {
    async fn attach(&self, pod: Connect<'_>) -> Result<Attachment, PortError> {
        self.step("attach")?;
        self.0.lock().addresses.insert(pod.id.clone());
        Ok(Attachment {
            ips: vec!["10.85.0.2".parse().unwrap()],
            record: serde_json::Value::Null,
            netns: None,
        })
    }
    async fn detach(
        &self,
        id: &SandboxId,
        _: Option<Arc<OwnedFd>>,
        _: Option<&Attachment>,
    ) -> Result<(), PortError> {
        self.step("detach")?;
        self.0.lock().addresses.remove(id);
        Ok(())
    }
    async fn restore(&self, live: Vec<(SandboxId, Attachment)>) -> Result<(), PortError> {
        self.0.lock().addresses = live.into_iter().map(|(id, _)| id).collect();
        Ok(())
    }
}

#[async_trait]
impl Images for Fake {
    async fn resolve(&self, reference: &str) -> Option<ImageHandle> {
        let known = reference == "app" || reference == image_id().to_string();
        known.then(|| ImageHandle {
            id: image_id(),
            reference: "app@sha256:0".into(),
            config: Arc::default(),
        })
    }
    async fn leased(&self, id: &ImageId) -> Option<ImageHandle> {
        self.resolve(&id.to_string()).await
    }
    async fn read_file(&self, _: &ImageId, _: &str) -> Result<Option<Vec<u8>>, PortError> {
        Ok(None)
    }
    async fn check_volume(&self, _: &ImageId, _: &str) -> Result<(), PortError> {
        Ok(())
    }
    async fn lease(&self, _: &ImageId, container: &ContainerId) -> Result<(), PortError> {
        self.step("lease")?;
        if self.0.lock().slow_leases {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        self.0.lock().leases.insert(container.clone());
        Ok(())
    }
    async fn release(&self, container: &ContainerId) -> Result<(), PortError> {
        self.step("release")?;
        self.0.lock().leases.remove(container);
        Ok(())
    }
    async fn restore(&self, live: Vec<(ContainerId, ImageId)>) -> Result<(), PortError> {
        self.0.lock().leases = live.into_iter().map(|(id, _)| id).collect();
        Ok(())
    }
}

#[async_trait]
impl Store for Fake {
    async fn add_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError> {
        self.step("put sandbox")?;
        self.0.lock().sandboxes.insert(record.id.clone(), record.clone());
        Ok(())
    }
    async fn add_container(&self, record: &ContainerRecord) -> Result<(), PortError> {
        self.step("put container")?;
        self.0.lock().containers.insert(record.id.clone(), record.clone());
        Ok(())
    }
    async fn put_sandbox(&self, record: &SandboxRecord) -> Result<(), PortError> {
        self.step("put sandbox")?;
        if let Some(known) = self.0.lock().sandboxes.get_mut(&record.id) {
            *known = record.clone();
        }
        Ok(())
    }
    async fn put_container(&self, record: &ContainerRecord) -> Result<(), PortError> {
        self.step("put container")?;
        if let Some(known) = self.0.lock().containers.get_mut(&record.id) {
            *known = record.clone();
        }
        Ok(())
    }
    async fn delete_sandbox(&self, id: &SandboxId) -> Result<(), PortError> {
        self.step("delete sandbox")?;
        self.0.lock().sandboxes.remove(id);
        Ok(())
    }
    async fn delete_container(&self, id: &ContainerId) -> Result<(), PortError> {
        self.step("delete container")?;
        self.0.lock().containers.remove(id);
        Ok(())
    }
    async fn load(&self) -> Result<Loaded, PortError> {
        let world = self.0.lock();
        Ok(Loaded {
            sandboxes: world.sandboxes.values().cloned().collect(),
            containers: world.containers.values().cloned().collect(),
            rebooted: world.rebooted,
        })
    }
}

#[async_trait]
impl Meter for Fake {
    async fn measure(&self, subjects: Vec<Subject>) -> Vec<Measurement> {
        let cpu = CpuUsage { total: self.0.lock().cpu, ..CpuUsage::default() };
        let memory = MemoryUsage { usage: 2 << 20, working_set: 1 << 20, ..MemoryUsage::default() };
        let group = GroupUsage { cpu: Some(cpu), memory: Some(memory), ..GroupUsage::default() };
        subjects
            .iter()
            .map(|_| Measurement { at: 7, group: Some(group.clone()), ..Measurement::default() })
            .collect()
    }
}
