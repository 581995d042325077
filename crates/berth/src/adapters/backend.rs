use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::{ContainerId, ErrorClass, SandboxId};
use berth_images::{Credentials, Image, Images, Login};
use berth_model::{
    ContainerConfig, ContainerFilter, ContainerStats, ContainerStatus, ExecOutput, FsUsage, ImageSpec,
    LifeEvent, Resources, SandboxConfig, SandboxFilter, SandboxStats, SandboxStatus,
};
use berth_network::Finding;
use berth_pods::Pods;
use berth_server::{Backend, Condition, Failure, ImageInfo, RegistryAuth, RuntimeReport, Streams};
use berth_streaming::{Target, Urls};

use super::{NetworkPort, Others};

/// What the CRI verbs call: pods and images under one roof.
pub(crate) struct CriBackend {
    pub(crate) pods: Pods,
    pub(crate) images: Images,
    pub(crate) network: Arc<NetworkPort>,
    pub(crate) others: Others,
    /// Where clients come for streams.
    pub(crate) urls: Urls,
    /// The effective configuration, for the verbose status.
    pub(crate) config: String,
    /// Probed at the start.
    pub(crate) user_namespaces: bool,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let lost = |_| Err(Failure::new(ErrorClass::Internal, "the work was lost"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(lost)
}

/// In docker's order: a registry token is the most that can be given, then an identity token, then the password.
fn login(auth: RegistryAuth) -> Result<Login, Failure> {
    let refuse = |problem| Failure::new(ErrorClass::InvalidArgument, problem);
    let credentials = if !auth.registry_token.is_empty() {
        Credentials::Bearer { token: auth.registry_token }
    } else if !auth.identity_token.is_empty() {
        Credentials::Identity { token: auth.identity_token }
    } else if !auth.username.is_empty() {
        Credentials::Basic { username: auth.username, password: auth.password }
    } else if !auth.auth.is_empty() {
        Credentials::from_basic(&auth.auth)
            .ok_or_else(|| refuse("auth.auth: is not base64 of user:password"))?
    } else {
        return Err(refuse("auth: has neither a username nor auth nor a token"));
    };
    Ok(Login { credentials, server: Some(auth.server_address).filter(|server| !server.is_empty()) })
}

/// The node can work, perhaps not with all of its traffic: whoever reads the condition sees what another stops.
fn told(condition: Condition, stopped: &[Finding]) -> Condition {
    let sure: Vec<String> = stopped.iter().filter(|finding| finding.sure).map(ToString::to_string).collect();
    if !condition.ok || sure.is_empty() {
        return condition;
    }
    let messages = [condition.message, sure.join("; ")];
    let messages: Vec<_> = messages.into_iter().filter(|message| !message.is_empty()).collect();
    Condition { ok: true, reason: "TrafficStopped".to_owned(), message: messages.join("; ") }
}

fn asked(Streams { tty, stdin, stdout, stderr }: Streams) -> berth_streaming::Streams {
    berth_streaming::Streams { tty, stdin, stdout, stderr }
}

/// As one runtime handler has it.
fn info(images: &Images, image: &Image, handler: &str, verbose: bool) -> ImageInfo {
    let (uid, username) = image.user();
    ImageInfo {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        pinned: images.is_pinned(image),
        annotations: image.annotations.clone(),
        runtime_handler: handler.to_owned(),
        verbose: verbose.then(|| {
            let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
            let chain = image.chain_id().map(|id| id.to_string());
            serde_json::json!({ "chainID": chain, "imageSpec": image.config, "layers": layers }).to_string()
        }),
    }
}

/// Once for each runtime handler that it was pulled for: to the kubelet those are images of their own (KEP-4216).
fn listed(images: &Images, image: &Image) -> Vec<ImageInfo> {
    match image.handlers.is_empty() {
        true => vec![info(images, image, "", false)],
        false => image.handlers.iter().map(|handler| info(images, image, handler, false)).collect(),
    }
}

#[async_trait]
impl Backend for CriBackend {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, Failure> {
        Ok(self.pods.run_sandbox(config).await?)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Failure> {
        Ok(self.pods.stop_sandbox(id).await?)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        Ok(self.pods.remove_sandbox(id).await?)
    }

    async fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<(SandboxStatus, Vec<ContainerStatus>), Failure> {
        Ok(self.pods.sandbox_status(id, verbose)?)
    }

    async fn list_sandboxes(&self, filter: SandboxFilter) -> Result<Vec<SandboxStatus>, Failure> {
        Ok(self.pods.list_sandboxes(&filter))
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<ContainerId, Failure> {
        Ok(self.pods.create_container(sandbox, config).await?)
    }

    async fn start_container(&self, id: &str) -> Result<(), Failure> {
        Ok(self.pods.start_container(id).await?)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Failure> {
        Ok(self.pods.stop_container(id, grace).await?)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Failure> {
        Ok(self.pods.remove_container(id).await?)
    }

    async fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatus, Failure> {
        Ok(self.pods.container_status(id, verbose).await?)
    }

    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<ContainerStatus>, Failure> {
        Ok(self.pods.list_containers(&filter))
    }

    async fn update_container(&self, id: &str, resources: Resources) -> Result<(), Failure> {
        Ok(self.pods.update_container(id, resources).await?)
    }

    async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Failure> {
        Ok(self.pods.update_sandbox(id, overhead, resources).await?)
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats, Failure> {
        Ok(self.pods.container_stats(id).await?)
    }

    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStats>, Failure> {
        Ok(self.pods.list_container_stats(&filter).await)
    }

    async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats, Failure> {
        Ok(self.pods.sandbox_stats(id).await?)
    }

    async fn list_sandbox_stats(
        &self,
        filter: SandboxFilter,
        details: bool,
    ) -> Result<Vec<SandboxStats>, Failure> {
        Ok(self.pods.list_sandbox_stats(&filter, details).await)
    }

    fn events(&self) -> tokio::sync::broadcast::Receiver<Arc<LifeEvent>> {
        self.pods.events()
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Failure> {
        Ok(self.pods.reopen_log(id).await?)
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Failure> {
        Ok(self.pods.exec_sync(id, command, timeout).await?)
    }

    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<String, Failure> {
        let container = self.pods.running_container(id)?.to_string();
        Ok(self.urls.url(Target::Exec { container, command, streams: asked(streams) })?)
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<String, Failure> {
        let container = self.pods.running_container(id)?.to_string();
        Ok(self.urls.url(Target::Attach { container, streams: asked(streams) })?)
    }

    async fn port_forward(&self, sandbox: &str, ports: Vec<u16>) -> Result<String, Failure> {
        let sandbox = self.pods.ready_sandbox(sandbox)?.to_string();
        Ok(self.urls.url(Target::PortForward { sandbox, ports })?)
    }

    async fn pull_image(&self, image: ImageSpec, auth: Option<RegistryAuth>) -> Result<String, Failure> {
        let login = auth.map(login).transpose()?;
        let pulled = self.images.pull(&image.image, &image.runtime_handler, login).await;
        // Of every other class the kubelet shows a person the code alone, or takes the text's prefix for none of its own.
        let told = |error| Failure { class: ErrorClass::Unknown, ..Failure::from(error) };
        Ok(pulled.map_err(told)?.id.to_string())
    }

    async fn image_status(&self, image: &ImageSpec, verbose: bool) -> Result<Option<ImageInfo>, Failure> {
        let found = self.images.resolve(&image.image);
        Ok(found.map(|found| info(&self.images, &found, &image.runtime_handler, verbose)))
    }

    async fn list_images(&self, filter: Option<&str>) -> Result<Vec<ImageInfo>, Failure> {
        let found = match filter {
            Some(reference) => self.images.resolve(reference).into_iter().collect(),
            None => self.images.list(),
        };
        Ok(found.iter().flat_map(|image| listed(&self.images, image)).collect())
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<(), Failure> {
        let images = self.images.clone();
        blocking(move || Ok(images.remove_for(&image.image, &image.runtime_handler)?)).await
    }

    async fn image_fs(&self) -> Result<(FsUsage, Option<FsUsage>), Failure> {
        Ok((self.images.fs_usage(), None))
    }

    async fn report(&self, verbose: bool) -> RuntimeReport {
        let ok = Condition { ok: true, ..Condition::default() };
        let (network, mut info) = self.network.report(verbose);
        if verbose {
            info.insert("config".to_owned(), self.config.clone());
        }
        let others = self.others.clone();
        let stopped = tokio::task::spawn_blocking(move || others.look()).await;
        let stopped = stopped.unwrap_or_default();
        if verbose && let Ok(text) = serde_json::to_string(&stopped) {
            info.insert("stoppedByOthers".to_owned(), text);
        }
        RuntimeReport {
            runtime: ok,
            network: told(network, &stopped),
            recursive_readonly: true,
            user_namespaces: self.user_namespaces,
            info,
        }
    }

    async fn update_pod_cidr(&self, cidr: &str) -> Result<(), Failure> {
        self.network.set_pod_cidr(cidr).await
    }
}
