use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_cri_api::v1::image_service_server::ImageServiceServer;
use berth_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use berth_ids::{Classify, ErrorClass};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::Backend;
use crate::authority::AnyAuthority;
use crate::deadline::Deadline;
use crate::image::ImageVerbs;
use crate::runtime::RuntimeVerbs;

/// What CRI clients use (cri-client: 16 MiB both ways).
pub(crate) const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// The server ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("serve CRI requests")]
pub struct ServeError {
    source: tonic::transport::Error,
}

impl Classify for ServeError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

/// Answers CRI requests until `stop` resolves; then those under way are finished.
pub async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (ending, ended) = watch::channel(false);
    let stop = async move {
        stop.await;
        ending.send_replace(true);
    };
    let runtime = RuntimeServiceServer::new(RuntimeVerbs::new(backend.clone(), ended))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let image = ImageServiceServer::new(ImageVerbs::new(backend))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let clients = UnixListenerStream::new(listener).map(|client| client.map(AnyAuthority::new));
    let requests = AtomicU64::new(1);
    Server::builder()
        .trace_fn(move |request| {
            let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            tracing::info_span!("cri", rpc, request = requests.fetch_add(1, Ordering::Relaxed))
        })
        .add_service(Deadline::new(runtime))
        .add_service(Deadline::new(image))
        .serve_with_incoming_shutdown(clients, stop)
        .await
        .map_err(|source| ServeError { source })
}
