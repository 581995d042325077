//! Requests that a client gives a time, by a client that keeps no clock of its own: what is answered is the daemon's.

use std::path::PathBuf;

use anyhow::Result;
use berth_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use berth_cri_api::v1::*;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::transport::Uri;
use tonic::{Code, Request};

use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::Daemon;

const HEADER: &str = "grpc-timeout";

/// What the process that takes too long sleeps for, in seconds: nobody else's does.
const LONG: &str = "86399";

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon, client: &Client, running: &str) -> Result<()> {
    let socket: PathBuf = daemon.socket();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    });
    let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
    let mut runtime = RuntimeServiceClient::with_origin(http, Uri::from_static("http://localhost"));
    let exec = ExecSyncRequest {
        container_id: running.to_owned(),
        cmd: vec!["/guest".into(), "sleep".into(), LONG.into()],
        timeout: 0,
    };
    for given in ["300m", "1S"] {
        let mut request = Request::new(exec.clone());
        request.metadata_mut().insert(HEADER, given.parse()?);
        let said = runtime.exec_sync(request).await.err();
        let (code, message) =
            said.as_ref().map_or((Code::Ok, ""), |status| (status.code(), status.message()));
        checks.that(
            &format!("an RPC that is not done within the client's {given} ends as DeadlineExceeded"),
            code == Code::DeadlineExceeded && message.contains("ExecSync"),
            format!("{said:?}"),
        );
    }
    let left = until("the end of what it began", || async {
        let mut client = client.clone();
        let pids = client.out(running, &["pids"]).await?;
        Ok((!pids.contains(LONG)).then_some(()))
    })
    .await;
    checks.note("  and what it began ends with it", left.map_err(|error| format!("{error:#}")));
    let mut request = Request::new(VersionRequest::default());
    request.metadata_mut().insert(HEADER, "20S".parse()?);
    let said = runtime.version(request).await;
    checks.that("  one that is in time is answered as ever", said.is_ok(), format!("{said:?}"));
    Ok(())
}
