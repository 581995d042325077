//! RuntimeService: the table of verbs. Those without a file answer `Unimplemented`. Of the streamed lists either all are here
//! or none: a client takes one unimplemented stream as "use the unary calls", for good.

mod attach;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod list_container_stats;
mod list_containers;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_containers;
mod stream_pod_sandbox_metrics;
mod stream_pod_sandbox_stats;
mod stream_pod_sandboxes;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_cri_api::v1;
use berth_ids::ErrorClass;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::batches::Answers;
use crate::status::unimplemented;
use crate::{Backend, Failure};

/// Runtime handlers: the default one under the empty name and under its own.
pub(crate) const HANDLERS: [&str; 2] = ["", "berth"];

pub(crate) struct RuntimeVerbs {
    backend: Arc<dyn Backend>,
    /// The daemon ends: streams without an end of their own end too.
    ending: watch::Receiver<bool>,
}

impl RuntimeVerbs {
    pub(crate) fn new(backend: Arc<dyn Backend>, ending: watch::Receiver<bool>) -> Self {
        Self { backend, ending }
    }
}

/// For verbs whose missing object means that the work is done (stop, remove).
fn absent_is_done<T>(found: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Failure { class: ErrorClass::NotFound, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The verbose map of a status, under the key scripts look for.
fn info(json: Option<String>) -> HashMap<String, String> {
    json.map(|json| ("info".to_owned(), json)).into_iter().collect()
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl v1::runtime_service_server::RuntimeService for RuntimeVerbs {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(version::call(self, request.into_inner()).await?))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        Ok(Response::new(run_pod_sandbox::call(self, request.into_inner()).await?))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        Ok(Response::new(stop_pod_sandbox::call(self, request.into_inner()).await?))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        Ok(Response::new(remove_pod_sandbox::call(self, request.into_inner()).await?))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        Ok(Response::new(pod_sandbox_status::call(self, request.into_inner()).await?))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        Ok(Response::new(list_pod_sandbox::call(self, request.into_inner()).await?))
    }

    type StreamPodSandboxesStream = Answers<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        Ok(Response::new(stream_pod_sandboxes::call(self, request.into_inner()).await?))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        Ok(Response::new(create_container::call(self, request.into_inner()).await?))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        Ok(Response::new(start_container::call(self, request.into_inner()).await?))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        Ok(Response::new(stop_container::call(self, request.into_inner()).await?))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        Ok(Response::new(remove_container::call(self, request.into_inner()).await?))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        Ok(Response::new(list_containers::call(self, request.into_inner()).await?))
    }

    type StreamContainersStream = Answers<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        Ok(Response::new(stream_containers::call(self, request.into_inner()).await?))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        Ok(Response::new(container_status::call(self, request.into_inner()).await?))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        Ok(Response::new(update_container_resources::call(self, request.into_inner()).await?))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        Ok(Response::new(reopen_container_log::call(self, request.into_inner()).await?))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        Ok(Response::new(exec_sync::call(self, request.into_inner()).await?))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        Ok(Response::new(exec::call(self, request.into_inner()).await?))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        Ok(Response::new(attach::call(self, request.into_inner()).await?))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        Ok(Response::new(port_forward::call(self, request.into_inner()).await?))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        Ok(Response::new(container_stats::call(self, request.into_inner()).await?))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        Ok(Response::new(list_container_stats::call(self, request.into_inner()).await?))
    }

    type StreamContainerStatsStream = Answers<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        Ok(Response::new(stream_container_stats::call(self, request.into_inner()).await?))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        Ok(Response::new(pod_sandbox_stats::call(self, request.into_inner()).await?))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        Ok(Response::new(list_pod_sandbox_stats::call(self, request.into_inner()).await?))
    }

    type StreamPodSandboxStatsStream = Answers<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        Ok(Response::new(stream_pod_sandbox_stats::call(self, request.into_inner()).await?))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        Ok(Response::new(update_runtime_config::call(self, request.into_inner()).await?))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::call(self, request.into_inner()).await?))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        unimplemented("CheckpointContainer")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<v1::CheckpointPodRequest>,
    ) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        unimplemented("CheckpointPod")
    }

    async fn restore_pod(
        &self,
        _: Request<v1::RestorePodRequest>,
    ) -> Result<Response<v1::RestorePodResponse>, Status> {
        unimplemented("RestorePod")
    }

    type GetContainerEventsStream = Answers<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        Ok(Response::new(get_container_events::call(self)))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        Ok(Response::new(list_metric_descriptors::call(self, request.into_inner()).await?))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        Ok(Response::new(list_pod_sandbox_metrics::call(self, request.into_inner()).await?))
    }

    type StreamPodSandboxMetricsStream = Answers<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        Ok(Response::new(stream_pod_sandbox_metrics::call(self, request.into_inner()).await?))
    }

    async fn runtime_config(
        &self,
        request: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        Ok(Response::new(runtime_config::call(self, request.into_inner()).await?))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        Ok(Response::new(update_pod_sandbox_resources::call(self, request.into_inner()).await?))
    }
}
