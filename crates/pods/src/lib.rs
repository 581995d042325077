//! The domain: pod sandboxes and containers, their lives, and what happens to them when the daemon dies half-way.
//!
//! Everything outside comes through the traits in [`ports`]: nothing here knows tonic, a path below /proc, a
//! cgroup file or a netlink message. Each mutating call runs as a detached operation keyed by the object it is
//! about: a lost client never aborts it, a repeated call joins it (see [`flight`]).

mod container;
mod error;
mod files;
mod flight;
mod lookup;
pub mod ports;
mod record;
mod recover;
mod sandbox;
mod state;
mod stats;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use berth_ids::{ContainerId, SandboxId};
use berth_model::{
    ContainerConfig, ContainerFilter, ContainerStats, ContainerStatus, ExecOutput, LifeEvent, Resources,
    SandboxConfig, SandboxFilter, SandboxStats, SandboxStatus, Signal,
};

pub use error::PodsError;
pub use record::{ContainerRecord, ContainerRun, Phase, SandboxRecord};
pub use recover::Recovered;
pub use sandbox::Connection;

use crate::ports::{Connected, Ports, Streams};
use crate::state::State;

/// The name under which the built-in runtime answers, besides the empty one.
pub const DEFAULT_HANDLER: &str = "berth";

/// The domain's front: what the CRI verbs call. Clones share everything.
#[derive(Debug, Clone)]
pub struct Pods {
    state: Arc<State>,
}

impl Pods {
    /// Over the given ports, knowing nothing yet: call [`Pods::recover`] before serving.
    pub fn new(ports: Ports, settings: Settings) -> Self {
        Self { state: Arc::new(State::new(ports, settings)) }
    }

    /// Reads the records back, adopts what still runs and clears what was half made.
    pub async fn recover(&self) -> Result<Recovered, PodsError> {
        recover::run(&self.state).await
    }

    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, PodsError> {
        sandbox::run(&self.state, config).await
    }

    /// Ends the pod's containers and gives its network back. A missing sandbox is no error.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), PodsError> {
        sandbox::stop(&self.state, id).await
    }

    /// Stops what runs and removes the sandbox with its containers. A missing sandbox is no error.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), PodsError> {
        sandbox::remove(&self.state, id).await
    }

    /// The sandbox and its containers.
    pub fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<(SandboxStatus, Vec<ContainerStatus>), PodsError> {
        sandbox::status(&self.state, id, verbose)
    }

    pub fn list_sandboxes(&self, filter: &SandboxFilter) -> Vec<SandboxStatus> {
        sandbox::list(&self.state, filter)
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, PodsError> {
        container::create(&self.state, sandbox, config).await
    }

    pub async fn start_container(&self, id: &str) -> Result<(), PodsError> {
        container::start(&self.state, id).await
    }

    /// Sends the stop signal, and SIGKILL after `grace`. A missing or ended container is no error.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodsError> {
        container::stop(&self.state, id, grace).await
    }

    /// Kills it if it runs, and removes it. A missing container is no error.
    pub async fn remove_container(&self, id: &str) -> Result<(), PodsError> {
        container::remove(&self.state, id).await
    }

    pub async fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatus, PodsError> {
        container::status(&self.state, id, verbose).await
    }

    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<ContainerStatus> {
        container::list(&self.state, filter)
    }

    /// To the first process of a running container.
    pub async fn signal(&self, id: &str, signal: Signal) -> Result<(), PodsError> {
        container::signal(&self.state, id, signal).await
    }

    pub async fn reopen_log(&self, id: &str) -> Result<(), PodsError> {
        container::reopen_log(&self.state, id).await
    }

    /// Runs a command to its end. `timeout` of `None` waits for ever.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodsError> {
        container::exec_sync(&self.state, id, command, timeout).await
    }

    /// Runs a command with somebody at its streams; dropping the handle ends it.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Connected, PodsError> {
        container::exec(&self.state, id, command, streams).await
    }

    /// Everything a running container writes from here on, and its stdin. The handle's end is the container's.
    pub async fn attach(&self, id: &str, streams: Streams) -> Result<Connected, PodsError> {
        container::attach(&self.state, id, streams).await
    }

    /// A connection to a port within the pod's network.
    pub async fn connect(&self, sandbox: &str, port: u16) -> Result<OwnedFd, PodsError> {
        sandbox::connect(&self.state, sandbox, port).await
    }

    /// The full id of a container that runs; for promises of a later exec or attach.
    pub fn running_container(&self, id: &str) -> Result<ContainerId, PodsError> {
        container::running(&self.state, id)
    }

    /// The full id of a sandbox that is ready.
    pub fn ready_sandbox(&self, id: &str) -> Result<SandboxId, PodsError> {
        let sandbox = self.state.sandbox(id)?;
        sandbox.ready().map(|_| sandbox.id.clone())
    }

    /// Other limits for a created or running container; zero and empty leave what there is. All or nothing.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<(), PodsError> {
        container::update(&self.state, id, resources).await
    }

    /// Notes what the kubelet did to the pod's own cgroup.
    pub async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), PodsError> {
        sandbox::update(&self.state, id, overhead, resources).await
    }

    /// Of a container in any state; what only a running one has is missing otherwise.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats, PodsError> {
        stats::container(&self.state, id).await
    }

    /// Of the containers that run.
    pub async fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStats> {
        stats::containers(&self.state, filter).await
    }

    pub async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats, PodsError> {
        stats::sandbox(&self.state, id).await
    }

    /// Of the sandboxes that are ready. `details` adds what costs more: the processes and what they hold open.
    pub async fn list_sandbox_stats(&self, filter: &SandboxFilter, details: bool) -> Vec<SandboxStats> {
        stats::sandboxes(&self.state, filter, details).await
    }

    /// What happens to sandboxes and containers from here on. A receiver that falls too far behind is told so.
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<Arc<LifeEvent>> {
        self.state.listen()
    }

    /// How a pod is connected: by its name, with or without the namespace, else by the beginning of its id.
    pub fn connection(&self, wanted: &str) -> Result<Connection, PodsError> {
        sandbox::connection(&self.state, wanted)
    }

    /// How every pod is connected.
    pub fn connections(&self) -> Vec<Connection> {
        sandbox::connections(&self.state)
    }

    /// What a pod's containers have as /etc/resolv.conf.
    pub async fn resolv_conf(&self, id: &SandboxId) -> String {
        sandbox::resolv_conf(&self.state, id).await
    }

    /// Every sandbox, in whatever phase, also one that is being made: nothing of theirs is garbage.
    pub fn known(&self) -> HashSet<SandboxId> {
        self.state.known()
    }

    /// How many sandboxes and containers there are.
    pub fn counts(&self) -> (usize, usize) {
        self.state.counts()
    }

    /// Ends and removes every pod; for taking an instance down.
    pub async fn remove_all(&self) -> Result<(), PodsError> {
        for sandbox in self.list_sandboxes(&SandboxFilter::default()) {
            self.remove_sandbox(sandbox.id.as_str()).await?;
        }
        Ok(())
    }
}

/// What the domain needs to be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Parent of the pods that came without a `cgroup_parent`, e.g. `/berth`.
    pub cgroup_parent: String,
    /// How long after SIGKILL an end is waited for before the call says that it did not come.
    pub kill_wait: Duration,
    /// A privileged container gets every device node of the host, and may use and make any.
    pub privileged_host_devices: bool,
}
