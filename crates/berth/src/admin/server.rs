//! The answering side; lives in the daemon.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::protocol::{CHUNK, REQUEST_MAX, Reply, Request, chain, decode};
use super::{AdminBackend, Failure};

/// Listens at `path`, mode 0600. An old socket file is taken away: call it with the instance's lock held only.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = berth_sys::fd::listen_seqpacket(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the task is dropped. After a `reset` that worked, `stop` becomes true.
pub(crate) async fn serve(
    listener: OwnedFd,
    backend: Arc<dyn AdminBackend>,
    stop: watch::Sender<bool>,
) -> io::Result<()> {
    // These types watch any unix socket; they are only read and written by packets here.
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(listener))?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let (backend, stop) = (backend.clone(), stop.clone());
                tokio::spawn(async move {
                    if let Err(error) = answer(socket, backend.as_ref(), &stop).await {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "an admin client went away"
                        );
                    }
                });
            }
            // The client was gone before it was let in, or descriptors are short for the moment.
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an admin client could not be let in"
                );
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection: one request, one reply.
pub(super) async fn answer(
    socket: UnixStream,
    backend: &dyn AdminBackend,
    stop: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut packet = vec![0; REQUEST_MAX];
    let received =
        socket.async_io(Interest::READABLE, || berth_sys::fd::recv_packet(socket.as_fd(), &mut packet)).await;
    let request = match received {
        Ok((0, _)) => return Ok(()),
        Ok((length, fds)) => decode(&packet[..length], fds),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(super::protocol::RequestError::Receive(error))
        }
        Err(error) => return Err(error),
    };
    let ending = matches!(request, Ok((Request::Reset {}, _)));
    let with_client = request.as_ref().is_ok_and(|(request, _)| request.ends_with_client());
    let outcome = match request {
        Ok((request, archive)) => tokio::select! {
            done = perform(request, archive, backend) => done,
            () = gone(&socket), if with_client => return Ok(()),
        },
        Err(error) => Err(error.into()),
    };
    let done = outcome.is_ok();
    let reply = match outcome {
        Ok(value) => Reply::Done { value },
        Err(error) => Reply::Failed { error: chain(error.as_ref()) },
    };
    let sent = send(&socket, &serde_json::to_vec(&reply)?).await;
    if ending && done {
        stop.send_replace(true);
    }
    sent
}

/// Returns when the client has gone: it has said all, so that there is nothing else to read.
async fn gone(socket: &UnixStream) {
    let mut packet = [0; 1];
    let _ =
        socket.async_io(Interest::READABLE, || berth_sys::fd::recv_packet(socket.as_fd(), &mut packet)).await;
}

async fn perform(
    request: Request,
    archive: Option<OwnedFd>,
    backend: &dyn AdminBackend,
) -> Result<Value, Failure> {
    match (request, archive) {
        (Request::Image { ask }, archive) => backend.image(ask, archive.map(File::from)).await,
        (Request::Status {}, _) => Ok(backend.status().await),
        (Request::Signal { container, signal }, _) => {
            backend.signal(&container, signal).await?;
            Ok(Value::Null)
        }
        (Request::NetworkInspect { pod }, _) => match pod {
            Some(pod) => Ok(serde_json::to_value(backend.inspect_pod(&pod).await?)?),
            None => Ok(serde_json::to_value(backend.inspect_network().await?)?),
        },
        (Request::NetworkCheck { pod }, _) => Ok(serde_json::to_value(backend.check_network(&pod).await?)?),
        (Request::NetworkReset {}, _) => {
            backend.reset_network().await?;
            Ok(Value::Null)
        }
        (Request::Reset {}, _) => {
            backend.reset().await?;
            Ok(Value::Null)
        }
    }
}

async fn send(socket: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.chunks(CHUNK) {
        let send = || berth_sys::fd::send_packet(socket.as_fd(), chunk, &[]);
        socket.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}
