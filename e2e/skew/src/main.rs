//! `berth-skew SOCKET IMAGE LOGS`: what a node agent of three releases ago asks a runtime, through the bindings of the
//! k8s-cri crate. One line per claim: what, a tab, and the problem if there is one.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the lane reads it")]

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use k8s_cri::v1alpha2;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

type Runtime = RuntimeServiceClient<Channel>;

async fn connect(socket: PathBuf) -> Result<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

fn claim(what: &str, holds: bool, found: impl Debug) {
    let problem = if holds { String::new() } else { format!("{found:?}").replace('\n', " ") };
    println!("{what}\t{problem}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, image, logs] = words.as_slice() else {
        eprintln!("berth-skew SOCKET IMAGE LOGS");
        return ExitCode::from(64);
    };
    match all(socket, image, logs).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("an answer to each call\t{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn all(socket: &str, image: &str, logs: &str) -> Result<()> {
    let channel = connect(socket.into()).await?;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let version = runtime.version(VersionRequest { version: "0.1.0".into() }).await?.into_inner();
    claim("Version", version.runtime_api_version == "v1", &version);
    let status = runtime.status(StatusRequest { verbose: true }).await?.into_inner();
    let ready = status.status.as_ref().is_some_and(|s| s.conditions.iter().all(|c| c.status));
    claim("Status: every condition holds", ready, &status);
    let config = runtime.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
    let driver = config.linux.as_ref().map(|linux| linux.cgroup_driver());
    claim("RuntimeConfig: cgroupfs", driver == Some(CgroupDriver::Cgroupfs), config);

    let mut images = ImageServiceClient::new(channel.clone());
    let known = images.list_images(ListImagesRequest::default()).await?.into_inner().images;
    claim("ListImages", known.iter().any(|i| i.repo_tags.iter().any(|tag| tag == image)), &known);
    let spec = ImageSpec { image: image.into(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
    let found = images.image_status(request).await?.into_inner().image;
    claim("ImageStatus", found.as_ref().is_some_and(|i| i.size > 0), &found);
    let spare = ImageStatusRequest {
        image: Some(ImageSpec { image: "no.test/none:1".into(), ..Default::default() }),
        ..Default::default()
    };
    let absent = images.image_status(spare).await?.into_inner().image;
    claim("ImageStatus of what is not here is empty, not an error", absent.is_none(), &absent);
    let fs = images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner().image_filesystems;
    claim("ImageFsInfo", fs.first().is_some_and(|f| f.timestamp > 0 && f.used_bytes.is_some()), &fs);

    pod(&mut runtime, image, logs).await?;

    let mut old = v1alpha2::runtime_service_client::RuntimeServiceClient::new(channel);
    let answer = old.version(v1alpha2::VersionRequest::default()).await;
    let refused = matches!(&answer, Err(status) if status.code() == Code::Unimplemented);
    claim("v1alpha2 is answered with Unimplemented", refused, &answer);
    Ok(())
}

fn labels() -> HashMap<String, String> {
    HashMap::from([("app".into(), "skew".into()), ("empty".into(), String::new())])
}

async fn pod(runtime: &mut Runtime, image: &str, logs: &str) -> Result<()> {
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "skew".into(),
            uid: "uid-skew".into(),
            namespace: "lane".into(),
            attempt: 3,
        }),
        hostname: "skewed".into(),
        log_directory: logs.into(),
        labels: labels(),
        annotations: HashMap::from([("note".into(), "ünïcode\n and \"quotes\"".into())]),
        ..Default::default()
    };
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await?.into_inner().status.context("no status")?;
    let same = status.labels == config.labels
        && status.annotations == config.annotations
        && status.metadata == config.metadata;
    claim("RunPodSandbox; PodSandboxStatus gives back what was sent", same, &status);
    let address = status.network.as_ref().is_some_and(|n| n.ip.parse::<std::net::IpAddr>().is_ok());
    claim("  it has an address", address, &status.network);
    let filter = PodSandboxFilter { label_selector: labels(), ..Default::default() };
    let listed =
        runtime.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.into_inner().items;
    claim("ListPodSandbox by label", listed.len() == 1 && listed[0].id == id, &listed);

    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 1 }),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        args: ["count", "20"].map(String::from).into(),
        envs: vec![KeyValue { key: "SKEW".into(), value: "three releases".into() }],
        labels: labels(),
        log_path: "main.log".into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let main = runtime.create_container(request).await?.into_inner().container_id;
    runtime.start_container(StartContainerRequest { container_id: main.clone() }).await?;
    let status = container_status(runtime, &main).await?;
    claim("CreateContainer, StartContainer", status.state() == ContainerState::ContainerRunning, &status);
    let times = 0 < status.created_at && status.created_at <= status.started_at && status.finished_at == 0;
    claim("  times in nanoseconds, in order", times, &status);
    let request = ExecSyncRequest {
        container_id: main.clone(),
        cmd: ["/guest", "env"].map(String::from).into(),
        timeout: 10,
    };
    let done = runtime.exec_sync(request).await?.into_inner();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    claim("ExecSync", done.exit_code == 0 && text.contains("SKEW=three releases"), &text);
    let filter = ContainerFilter { pod_sandbox_id: id.clone(), ..Default::default() };
    let listed = runtime
        .list_containers(ListContainersRequest { filter: Some(filter) })
        .await?
        .into_inner()
        .containers;
    claim("ListContainers of the pod", listed.len() == 1 && listed[0].labels == labels(), &listed);
    runtime.reopen_container_log(ReopenContainerLogRequest { container_id: main.clone() }).await?;
    claim("ReopenContainerLog", true, ());
    runtime.stop_container(StopContainerRequest { container_id: main.clone(), timeout: 0 }).await?;
    let status = container_status(runtime, &main).await?;
    let ended = status.state() == ContainerState::ContainerExited && status.exit_code == 137;
    claim("StopContainer: exited, 137", ended, &status);
    for _ in 0..2 {
        runtime.remove_container(RemoveContainerRequest { container_id: main.clone() }).await?;
    }
    claim("RemoveContainer, twice", true, ());
    for _ in 0..2 {
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    }
    for _ in 0..2 {
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    }
    claim("StopPodSandbox and RemovePodSandbox, twice", true, ());
    let gone =
        runtime.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false }).await;
    let not_found = matches!(&gone, Err(status) if status.code() == Code::NotFound);
    claim("  then it is NotFound", not_found, &gone);
    Ok(())
}

async fn container_status(runtime: &mut Runtime, id: &str) -> Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    runtime.container_status(request).await?.into_inner().status.context("no status")
}
