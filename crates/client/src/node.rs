//! The daemon's CRI socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use berth_cri_api::v1::image_service_client::ImageServiceClient;
use berth_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_api::v1::*;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{ClientError, Daemon, Place, Tls};

/// As the kubelet's limit of a message.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// What the system said: the layers above it say the same once more.
fn io_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let code = causes.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error()).next();
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) logs: PathBuf,
    pub(crate) daemon: Arc<dyn Daemon>,
    pub(crate) tls: Tls,
}

impl Node {
    pub(crate) async fn connect(place: Place) -> Result<Self, ClientError> {
        let socket = place.socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let channel = channel
            .map_err(|error| ClientError::NoDaemon { path: place.socket, source: io_error(&error) })?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
            logs: place.logs,
            daemon: place.daemon.into(),
            tls: place.tls,
        })
    }

    pub(crate) async fn status(&mut self, id: &str) -> Result<ContainerStatus, ClientError> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.container_status(request).await;
        let answer = answer.map_err(ClientError::call(format!("look at container {id}")))?;
        answer.into_inner().status.ok_or_else(|| ClientError::NotFound { name: id.to_owned() })
    }

    /// Seconds until SIGKILL.
    pub(crate) async fn stop(&mut self, id: &str, timeout: i64) -> Result<(), ClientError> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        let stopped = self.runtime.stop_container(request).await;
        stopped.map(drop).map_err(ClientError::call(format!("stop container {id}")))
    }

    pub(crate) async fn stop_pod(&mut self, id: &str) -> Result<(), ClientError> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let stopped = self.runtime.stop_pod_sandbox(request).await;
        stopped.map(drop).map_err(ClientError::call(format!("stop pod {id}")))
    }

    pub(crate) async fn remove_pod(&mut self, id: &str) -> Result<(), ClientError> {
        self.stop_pod(id).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let removed = self.runtime.remove_pod_sandbox(request).await;
        removed.map(drop).map_err(ClientError::call(format!("remove pod {id}")))
    }

    /// Asks the daemon what may block, away from the loop.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Daemon) -> T + Send + 'static,
    ) -> Option<T> {
        let daemon = self.daemon.clone();
        tokio::task::spawn_blocking(move || question(&*daemon)).await.ok()
    }
}
