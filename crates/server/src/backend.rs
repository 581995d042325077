use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::{Classify, ContainerId, ErrorClass, SandboxId};
use berth_model::{
    ContainerConfig, ContainerFilter, ContainerStats, ContainerStatus, ExecOutput, FsUsage, ImageSpec,
    LifeEvent, Resources, SandboxConfig, SandboxFilter, SandboxStats, SandboxStatus, StringMap,
};
use tokio::sync::broadcast;

/// A failed call: what kind, and the text for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: ErrorClass,
    pub message: String,
}

/// A gRPC status travels in header fields; proxies and clients refuse those beyond 8 to 16 KiB.
const MESSAGE_MAX: usize = 4096;

impl Failure {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX).rev().find(|n| message.is_char_boundary(*n)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self { class, message }
    }
}

impl Failure {
    /// The same, with the field it is about in front.
    pub(crate) fn of(self, field: &str) -> Self {
        Self::new(self.class, format!("{field}: {}", self.message))
    }
}

impl<E: std::error::Error + Classify + 'static> From<E> for Failure {
    /// The error and its causes on one line; a cause that only repeats the text before it is told once.
    fn from(error: E) -> Self {
        let mut parts: Vec<String> = Vec::new();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(current) = next {
            let text = current.to_string();
            if parts.last().is_none_or(|last| !last.ends_with(&text)) {
                parts.push(text);
            }
            next = current.source();
        }
        Self::new(error.class(), parts.join(": "))
    }
}

/// Credentials of one pull; never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// An image as CRI lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// The config digest.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes; never 0, the kubelet takes that as an error.
    pub size: u64,
    /// Of the image's user when it is a number.
    pub uid: Option<i64>,
    /// Of the image's user when it is a name.
    pub username: String,
    pub pinned: bool,
    pub annotations: StringMap,
    /// Which it is listed for; the empty one is the default.
    pub runtime_handler: String,
    /// JSON for the verbose `info` map.
    pub verbose: Option<String>,
}

/// One of the kubelet's conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    pub ok: bool,
    /// One word in CamelCase; empty when ok.
    pub reason: String,
    pub message: String,
}

/// What Status tells.
#[derive(Debug, Clone, Default)]
pub struct RuntimeReport {
    pub runtime: Condition,
    pub network: Condition,
    pub recursive_readonly: bool,
    /// Pods can have user namespaces, also those with the host's network.
    pub user_namespaces: bool,
    /// Verbose only: key to JSON or text.
    pub info: BTreeMap<String, String>,
}

/// Streams that Exec and Attach ask for: at least one, no `stderr` with a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What the verbs call. `crates/berth` implements it over the domain.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, Failure>;
    async fn stop_sandbox(&self, id: &str) -> Result<(), Failure>;
    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure>;
    async fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<(SandboxStatus, Vec<ContainerStatus>), Failure>;
    async fn list_sandboxes(&self, filter: SandboxFilter) -> Result<Vec<SandboxStatus>, Failure>;
    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<ContainerId, Failure>;
    async fn start_container(&self, id: &str) -> Result<(), Failure>;
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Failure>;
    async fn remove_container(&self, id: &str) -> Result<(), Failure>;
    async fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatus, Failure>;
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<ContainerStatus>, Failure>;
    async fn update_container(&self, id: &str, resources: Resources) -> Result<(), Failure>;
    async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Failure>;
    async fn container_stats(&self, id: &str) -> Result<ContainerStats, Failure>;
    /// Of running containers.
    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStats>, Failure>;
    async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats, Failure>;
    /// Of ready sandboxes; `details` adds what costs more: what their processes hold open.
    async fn list_sandbox_stats(
        &self,
        filter: SandboxFilter,
        details: bool,
    ) -> Result<Vec<SandboxStats>, Failure>;
    /// What happens to sandboxes and containers from here on.
    fn events(&self) -> broadcast::Receiver<Arc<LifeEvent>>;
    async fn reopen_log(&self, id: &str) -> Result<(), Failure>;
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Failure>;
    /// A URL to which a client comes for the streams; so do the next two.
    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<String, Failure>;
    async fn attach(&self, id: &str, streams: Streams) -> Result<String, Failure>;
    /// `ports`: for clients that do not name them with each connection.
    async fn port_forward(&self, sandbox: &str, ports: Vec<u16>) -> Result<String, Failure>;
    /// The image's id.
    async fn pull_image(&self, image: ImageSpec, auth: Option<RegistryAuth>) -> Result<String, Failure>;
    async fn image_status(&self, image: &ImageSpec, verbose: bool) -> Result<Option<ImageInfo>, Failure>;
    async fn list_images(&self, filter: Option<&str>) -> Result<Vec<ImageInfo>, Failure>;
    /// For its runtime handler, the empty one for all.
    async fn remove_image(&self, image: ImageSpec) -> Result<(), Failure>;
    /// Of images, and of the containers' writable layers where they are on a file system of their own.
    async fn image_fs(&self) -> Result<(FsUsage, Option<FsUsage>), Failure>;
    async fn report(&self, verbose: bool) -> RuntimeReport;
    async fn update_pod_cidr(&self, cidr: &str) -> Result<(), Failure>;
}
