use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::{ContainerId, ErrorClass, SandboxId};
use berth_images::{Images, Mapped};
use berth_model::{ExecOutput, Signal};
use berth_plan::{CompiledFilter, HostFacts, LogFile, PodFiles, RequestedDevice, SeccompChoice};
use berth_pods::ports::{
    Connected, Events, ExecError, Handle, Launcher, Manner, Pod, PodFileContents, PortError, Seen,
    StartRequest, Started, Streams,
};
use berth_shim_client::{Attach, Ends, Exec, ExecFailure, Notices, ShimPod, Shims, Start, Wanted};
use berth_shim_wire::{ExecPlan, ExitStatus, SandboxPlan};

use super::blocking;

#[derive(Debug, Clone)]
pub(crate) struct LauncherPort {
    shims: Shims,
    images: Images,
    /// Below it are the logs that go with their pods.
    run_logs: PathBuf,
}

impl LauncherPort {
    pub(crate) fn new(shims: Shims, images: Images, run_logs: PathBuf) -> Self {
        Self { shims, images, run_logs }
    }

    fn pod(&self, pod: Arc<ShimPod>) -> Arc<dyn Pod> {
        Arc::new(PodPort { pod, images: self.images.clone() })
    }
}

/// Hands a shim's notices to the domain.
struct Relay(Arc<dyn Events>);

impl Notices for Relay {
    fn container_exited(&self, sandbox: &SandboxId, container: &ContainerId, status: ExitStatus) {
        self.0.container_exited(sandbox, container, status);
    }

    fn pod_lost(&self, sandbox: &SandboxId) {
        self.0.pod_lost(sandbox);
    }
}

#[async_trait]
impl Launcher for LauncherPort {
    async fn spawn(
        &self,
        id: &SandboxId,
        plan: SandboxPlan,
        events: Arc<dyn Events>,
    ) -> Result<Arc<dyn Pod>, PortError> {
        let pod = self.shims.spawn(id, plan, Arc::new(Relay(events))).await;
        pod.map(|pod| self.pod(pod)).map_err(|error| PortError::wrap("start the pod's shim", error))
    }

    async fn adopt(
        &self,
        id: &SandboxId,
        events: Arc<dyn Events>,
    ) -> Result<Option<Arc<dyn Pod>>, PortError> {
        let pod = self.shims.adopt(id, Arc::new(Relay(events))).await;
        pod.map(|pod| pod.map(|pod| self.pod(pod)))
            .map_err(|error| PortError::wrap("adopt the pod's shim", error))
    }

    async fn exit_records(&self, id: &SandboxId) -> Vec<(ContainerId, ExitStatus)> {
        let (shims, id) = (self.shims.clone(), id.clone());
        tokio::task::spawn_blocking(move || shims.exit_records(&id)).await.unwrap_or_default()
    }

    async fn write_files(&self, id: &SandboxId, files: PodFileContents) -> Result<(), PortError> {
        let (shims, id) = (self.shims.clone(), id.clone());
        blocking("write the pod's files", move || {
            let at = shims.files(&id);
            shims.write_file(&at.hostname, &files.hostname)?;
            shims.write_file(&at.hosts, &files.hosts)?;
            shims.write_file(&at.resolv_conf, &files.resolv_conf)
        })
        .await
    }

    fn files(&self, id: &SandboxId) -> PodFiles {
        self.shims.files(id)
    }

    async fn host_file(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || berth_shim_client::read_host_file(path.as_ref()))
            .await
            .ok()
            .flatten()
    }

    async fn destroy(&self, id: &SandboxId, cgroup_paths: Vec<String>) -> Result<(), PortError> {
        let destroyed = self.shims.destroy(id, cgroup_paths).await;
        destroyed.map_err(|error| PortError::wrap("clear the pod's processes and directory", error))
    }

    async fn remove_logs(&self, directory: &str) -> Result<(), PortError> {
        let directory = PathBuf::from(directory);
        // One name below, and a real one: never what only looks as if it were there.
        if directory.parent() != Some(self.run_logs.as_path()) || directory.file_name().is_none() {
            return Ok(());
        }
        let shown = directory.display().to_string();
        let removing = tokio::task::spawn_blocking(move || {
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // The last one's; with others in it it stays.
            directory.parent().map(std::fs::remove_dir);
            Ok(())
        });
        let removed = removing.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        removed.map_err(|error| PortError::new(ErrorClass::Internal, format!("remove {shown}: {error}")))
    }

    async fn clear_cgroup(&self, cgroup_path: &str) -> Result<(), PortError> {
        let (shims, path) = (self.shims.clone(), cgroup_path.to_owned());
        blocking("clear the cgroup", move || shims.clear_cgroup(&path)).await
    }

    async fn limit(
        &self,
        cgroup_path: &str,
        limits: oci_spec::runtime::LinuxResources,
    ) -> Result<(), PortError> {
        let (shims, path) = (self.shims.clone(), cgroup_path.to_owned());
        blocking("change the limits", move || shims.limit(&path, &limits)).await
    }

    async fn sweep(&self, known: &[SandboxId]) {
        self.shims.sweep(known).await;
    }

    fn facts(&self) -> &HostFacts {
        self.shims.facts()
    }

    async fn seccomp(&self, choice: &SeccompChoice, caps: u64) -> Result<Option<CompiledFilter>, PortError> {
        let (shims, choice) = (self.shims.clone(), choice.clone());
        blocking("prepare the seccomp filter", move || shims.seccomp(&choice, caps)).await
    }

    async fn devices(&self, requested: &[berth_model::Device]) -> Result<Vec<RequestedDevice>, PortError> {
        let requested = requested.to_vec();
        blocking("look up devices", move || berth_shim_client::requested_devices(&requested)).await
    }
}

struct PodPort {
    pod: Arc<ShimPod>,
    images: Images,
}

#[async_trait]
impl Pod for PodPort {
    fn pid(&self) -> u32 {
        self.pod.pid()
    }

    fn netns(&self) -> Arc<OwnedFd> {
        self.pod.netns()
    }

    async fn start(&self, request: StartRequest) -> Result<Started, PortError> {
        let (images, image, container) =
            (self.images.clone(), request.image.clone(), request.container.clone());
        let volumes = request.plan.volumes.clone();
        let (userns, owner) = (self.pod.user_namespace(), request.plan.owner);
        let image_volumes = request.image_volumes.clone();
        let (rootfs, volumes, mounted) = blocking("prepare the root filesystem", move || {
            let image = images.image(&image)?;
            let mapped = userns.as_ref().zip(owner).map(|(userns, owner)| Mapped {
                userns: userns.as_fd(),
                uid: owner.uid,
                gid: owner.gid,
            });
            let rootfs = images.prepare_rootfs(&image, &container, mapped.as_ref())?;
            let volumes = images.prepare_volumes(&image, &container, &volumes)?;
            let mut mounted = Vec::new();
            for (id, sub_path) in &image_volumes {
                mounted.push(images.image_volume(&*images.image(id)?, sub_path, mapped.as_ref())?);
            }
            Ok::<_, berth_images::ImageError>((rootfs, volumes, mounted))
        })
        .await?;
        let started = self
            .pod
            .start(Start {
                container: request.container,
                cgroup_path: request.cgroup_path,
                log: request.log,
                plan: request.plan,
                rootfs,
                volumes,
                images: mounted,
            })
            .await
            .map_err(|error| PortError::wrap("start the process", error))?;
        Ok(Started { pid: started.pid, started_at: started.started_at, warnings: started.warnings })
    }

    async fn snapshot(&self) -> Result<Vec<Seen>, PortError> {
        let seen = self.pod.snapshot().await.map_err(|error| PortError::wrap("ask the shim", error))?;
        let convert = |c: berth_shim_wire::ContainerSnapshot| {
            let container = ContainerId::parse(c.container_id).map_err(|error| {
                PortError::new(ErrorClass::Internal, format!("the shim's account: {error}"))
            })?;
            Ok(Seen {
                container,
                pid: c.pid,
                started_at: c.started_at,
                exit: c.exit,
                log_dropped: c.log_dropped,
            })
        };
        seen.containers.into_iter().map(convert).collect()
    }

    async fn signal(&self, container: &ContainerId, signal: Signal) -> Result<(), PortError> {
        let sent = self.pod.signal(container, signal).await;
        sent.map_err(|error| PortError::wrap(format!("send {}", signal.name()), error))
    }

    async fn kill(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), PortError> {
        let killed = self.pod.kill(container, cgroup_path).await;
        killed.map_err(|error| PortError::wrap("kill its processes", error))
    }

    async fn exec(
        &self,
        plan: ExecPlan,
        cgroup_path: &str,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError> {
        self.pod.exec(plan, cgroup_path, timeout).await.map_err(|error| match error {
            ExecFailure::TimedOut(timeout) => ExecError::TimedOut(timeout),
            ExecFailure::Command(_) => {
                ExecError::Command { missing: error.is_missing(), message: error.to_string() }
            }
            ExecFailure::Shim(error) => ExecError::Failed(PortError::wrap("exec", error)),
        })
    }

    async fn exec_connected(
        &self,
        plan: ExecPlan,
        cgroup_path: &str,
        streams: Streams,
    ) -> Result<Connected, PortError> {
        let (ends, exec) = self
            .pod
            .exec_connected(plan, cgroup_path, wanted(streams))
            .await
            .map_err(|error| PortError::wrap("exec", error))?;
        Ok(connected(ends, Arc::new(ExecHandle(exec))))
    }

    async fn attach(
        &self,
        container: &ContainerId,
        streams: Streams,
        Manner { stdin_once, waits }: Manner,
    ) -> Result<Connected, PortError> {
        let attached = self.pod.attach(container, wanted(streams), stdin_once, waits).await;
        let (ends, attach) = attached.map_err(|error| PortError::wrap("attach", error))?;
        Ok(connected(ends, Arc::new(AttachHandle(attach))))
    }

    async fn connect(&self, port: u16) -> Result<OwnedFd, PortError> {
        self.pod.connect(port).await.map_err(|error| PortError::wrap("connect", error))
    }

    async fn reopen_log(&self, container: &ContainerId, log: &LogFile) -> Result<(), PortError> {
        let reopened = self.pod.reopen_log(container, log).await;
        reopened.map_err(|error| PortError::wrap("reopen the log", error))
    }

    async fn forget(&self, container: &ContainerId, cgroup_path: &str) -> Result<(), PortError> {
        let forgotten = self.pod.forget(container, cgroup_path).await;
        forgotten.map_err(|error| PortError::wrap("clear the container", error))
    }

    async fn shutdown(&self) -> Result<(), PortError> {
        self.pod.shutdown().await.map_err(|error| PortError::wrap("end the shim", error))
    }
}

fn wanted(Streams { tty, stdin, stdout, stderr }: Streams) -> Wanted {
    Wanted { tty, stdin, stdout, stderr }
}

fn connected(Ends { stdin, stdout, stderr }: Ends, handle: Arc<dyn Handle>) -> Connected {
    Connected { stdin, stdout, stderr, handle }
}

struct ExecHandle(Exec);

#[async_trait]
impl Handle for ExecHandle {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), PortError> {
        self.0.resize(columns, rows).map_err(|error| PortError::wrap("resize the terminal", error))
    }

    async fn wait(&self) -> Result<Option<ExitStatus>, PortError> {
        self.0.wait().await.map(Some).map_err(|error| PortError::wrap("wait for the end", error))
    }

    async fn hang_up(&self) {
        self.0.hang_up().await;
    }
}

struct AttachHandle(Attach);

#[async_trait]
impl Handle for AttachHandle {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), PortError> {
        self.0.resize(columns, rows).map_err(|error| PortError::wrap("resize the terminal", error))
    }

    async fn wait(&self) -> Result<Option<ExitStatus>, PortError> {
        let ended = self.0.wait().await.map(|()| None);
        ended.map_err(|error| PortError::wrap("the attach broke off", error))
    }

    async fn hang_up(&self) {}
}
