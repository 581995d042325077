//! A CRI client in Rust, as far as the lanes need one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use berth_cri_api::v1::image_service_client::ImageServiceClient;
use berth_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_api::v1::*;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::checks::until;
use crate::daemon::IMAGE;

/// For one call, whoever serves it: nothing that a lane or a bench asks takes as long, and a runtime that hangs is an error.
const CALL_MAX: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    /// For calls whose answers are not looked at.
    pub(crate) channel: Channel,
}

/// What a container runs and under which settings.
#[derive(Default, Clone)]
pub(crate) struct Spec {
    /// The test image, unless another is named.
    pub(crate) image: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) resources: Option<LinuxContainerResources>,
    pub(crate) security: LinuxContainerSecurityContext,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) working_dir: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
}

pub(crate) fn args(words: &[&str]) -> Spec {
    let own_pids = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    Spec {
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        security: LinuxContainerSecurityContext { namespace_options: Some(own_pids), ..Default::default() },
        ..Default::default()
    }
}

pub(crate) fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "demo".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs.join(name).to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// One with the host's network.
pub(crate) fn of_host(name: &str, logs: &Path) -> PodSandboxConfig {
    let spaces = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(spaces), ..Default::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    PodSandboxConfig { linux: Some(linux), hostname: String::new(), ..pod(name, logs) }
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_MAX);
        let channel = endpoint.connect_with_connector(connector).await?;
        let images = ImageServiceClient::new(channel.clone());
        let runtime = RuntimeServiceClient::new(channel.clone());
        let mut client = Self { runtime, images, channel };
        client.runtime.version(VersionRequest::default()).await?;
        Ok(client)
    }

    /// The image's id.
    pub(crate) async fn pull(&mut self, image: &str) -> Result<String> {
        let image = ImageSpec { image: image.into(), ..Default::default() };
        let request = PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    pub(crate) async fn remove_image(&mut self, image: &str) -> Result<()> {
        let image = ImageSpec { image: image.into(), ..Default::default() };
        self.images.remove_image(RemoveImageRequest { image: Some(image) }).await?;
        Ok(())
    }

    /// How many there are.
    pub(crate) async fn images(&mut self) -> Result<usize> {
        let request = ListImagesRequest::default();
        Ok(self.images.list_images(request).await?.into_inner().images.len())
    }

    /// The id of an image that is there.
    pub(crate) async fn image_id(&mut self, image: &str) -> Result<Option<String>> {
        let image = ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = ImageStatusRequest { image: Some(image), ..Default::default() };
        Ok(self.images.image_status(request).await?.into_inner().image.map(|image| image.id))
    }

    pub(crate) async fn stream_images(&mut self) -> Result<tonic::Streaming<StreamImagesResponse>> {
        Ok(self.images.stream_images(StreamImagesRequest::default()).await?.into_inner())
    }

    pub(crate) async fn run_pod(&mut self, config: &PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn create(
        &mut self,
        pod: &str,
        config: &PodSandboxConfig,
        name: &str,
        spec: Spec,
    ) -> Result<String> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec {
                image: spec.image.unwrap_or_else(|| IMAGE.into()),
                ..Default::default()
            }),
            args: spec.args,
            mounts: spec.mounts,
            working_dir: spec.working_dir,
            tty: spec.tty,
            stdin: spec.stdin,
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: spec.resources,
                security_context: Some(spec.security),
            }),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub(crate) async fn start(&mut self, id: &str) -> Result<()> {
        self.runtime.start_container(StartContainerRequest { container_id: id.into() }).await?;
        Ok(())
    }

    pub(crate) async fn run(
        &mut self,
        pod: &str,
        config: &PodSandboxConfig,
        name: &str,
        spec: Spec,
    ) -> Result<String> {
        let id = self.create(pod, config, name, spec).await?;
        self.start(&id).await?;
        Ok(id)
    }

    pub(crate) async fn exec(&mut self, id: &str, words: &[&str]) -> Result<ExecSyncResponse> {
        let cmd = std::iter::once("/guest").chain(words.iter().copied()).map(str::to_owned).collect();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: 30 };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// The standard output of a command that must succeed.
    pub(crate) async fn out(&mut self, id: &str, words: &[&str]) -> Result<String> {
        let done = self.exec(id, words).await?;
        anyhow::ensure!(done.exit_code == 0, "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }

    pub(crate) async fn status(&mut self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let status = self.runtime.container_status(request).await?.into_inner().status;
        status.ok_or_else(|| anyhow::anyhow!("no status of {id}"))
    }

    /// The id of the running container of this name, if there is one.
    pub(crate) async fn running(&mut self, name: &str) -> Result<Option<String>> {
        let listed = self.runtime.list_containers(ListContainersRequest::default()).await?.into_inner();
        let named = |c: &Container| c.metadata.as_ref().is_some_and(|metadata| metadata.name == name);
        let runs = |c: &Container| c.state() == ContainerState::ContainerRunning;
        Ok(listed.containers.into_iter().find(|c| named(c) && runs(c)).map(|c| c.id))
    }

    /// The pod of a container.
    pub(crate) async fn pod_of(&mut self, container: &str) -> Result<PodSandbox> {
        let filter = ContainerFilter { id: container.into(), ..Default::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let listed = self.runtime.list_containers(request).await?.into_inner().containers;
        let id = listed.into_iter().next().map(|c| c.pod_sandbox_id).unwrap_or_default();
        let filter = PodSandboxFilter { id, ..Default::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let pods = self.runtime.list_pod_sandbox(request).await?.into_inner().items;
        pods.into_iter().next().ok_or_else(|| anyhow::anyhow!("no pod of {container}"))
    }

    /// The `info` of the verbose status.
    pub(crate) async fn info(&mut self, id: &str) -> Result<serde_json::Value> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
        let info = self.runtime.container_status(request).await?.into_inner().info;
        Ok(serde_json::from_str(info.get("info").map_or("no verbose info", String::as_str))?)
    }

    /// The `info` of a pod's verbose status.
    pub(crate) async fn pod_info(&mut self, id: &str) -> Result<serde_json::Value> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let info = self.runtime.pod_sandbox_status(request).await?.into_inner().info;
        Ok(serde_json::from_str(info.get("info").map_or("no verbose info", String::as_str))?)
    }

    pub(crate) async fn pod_ip(&mut self, id: &str) -> Result<String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let status = self.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
        Ok(status.network.unwrap_or_default().ip)
    }

    /// Every address of a pod, the primary first.
    pub(crate) async fn pod_ips(&mut self, id: &str) -> Result<Vec<std::net::IpAddr>> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let status = self.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
        let network = status.network.unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        all.filter(|ip| !ip.is_empty()).map(|ip| Ok(ip.parse()?)).collect()
    }

    pub(crate) async fn ended(&self, id: &str) -> Result<ContainerStatus> {
        until("the container's end", || {
            let (mut client, id) = (self.clone(), id.to_owned());
            async move {
                let status = client.status(&id).await?;
                Ok((status.state == i32::from(ContainerState::ContainerExited)).then_some(status))
            }
        })
        .await
    }

    pub(crate) async fn stop(&mut self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs())?;
        self.runtime.stop_container(StopContainerRequest { container_id: id.into(), timeout }).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&mut self, id: &str) -> Result<()> {
        self.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        self.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }
}
