//! A person connected to a program: by exec, by attach, or by run.

use berth_cri_api::v1::{AttachRequest, ExecRequest};

use crate::input::{self, Input};
use crate::node::Node;
use crate::output::{Output, tell};
use crate::signals::{Signals, window_change};
use crate::stream::{End, Stream};
use crate::terminal::{self, Raw};
use crate::{ClientError, Tls, arguments, find};

/// What is connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wires {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

impl Wires {
    /// Asked for before anything is made.
    pub(crate) fn check(self) -> Result<(), ClientError> {
        match self.stdin && self.tty && !terminal::is_stdin() {
            true => Err(ClientError::NoTerminal),
            false => Ok(()),
        }
    }
}

/// Until the stream ends. `signalled` hears of signals to us; with `true` the person leaves.
pub(crate) async fn live(
    url: &str,
    tls: &Tls,
    wires: Wires,
    signals: &mut Signals,
    mut signalled: impl AsyncFnMut(i32) -> bool,
) -> Result<End, ClientError> {
    let stream = Stream::open(url, tls).await?;
    let (send, receive) = input::channel();
    // Back in its former mode whatever happens from here on.
    let raw = if wires.tty && wires.stdin { Some(Raw::enter()?) } else { None };
    let size = async || {
        if let Some((columns, rows)) = terminal::size().filter(|_| wires.tty) {
            // The stream has ended: it shows elsewhere.
            let _ = send.send(Input::Size(columns, rows)).await;
        }
    };
    size().await;
    if wires.stdin {
        input::read(send.clone(), raw.is_some());
    }
    let output = Output::start();
    let end = {
        let carried = stream.carry(receive, &output);
        tokio::pin!(carried);
        loop {
            tokio::select! {
                end = &mut carried => break end,
                signal = signals.next() => {
                    if signal == window_change() {
                        // In parallel: the stream has to move for it.
                        tokio::select! {
                            end = &mut carried => break end,
                            () = size() => {}
                        }
                    } else if signalled(signal).await {
                        break Ok(End::Left(signal));
                    }
                }
            }
        }
    };
    tokio::select! {
        () = output.finish() => {}
        // The person does not want the rest.
        _ = signals.end() => {}
    }
    drop(raw);
    end
}

/// The exit code that an end stands for, of what is over for us with it.
pub(crate) fn code(end: End) -> Result<u8, ClientError> {
    match end {
        End::Exit(code) => Ok(u8::try_from(code).unwrap_or(255)),
        End::Failed(text) => Err(ClientError::Failed(text)),
        End::Closed(reason) if reason.is_empty() => Err(ClientError::Stream("it is gone".into())),
        End::Closed(reason) => Err(ClientError::Stream(reason)),
        End::Detached => {
            tell("\n");
            Ok(0)
        }
        // As the program that it stands for would have ended.
        End::Unread => Err(ClientError::Signalled(13)),
        End::Left(signal) => Err(ClientError::Signalled(signal)),
    }
}

pub(crate) async fn exec(node: &mut Node, exec: arguments::Exec) -> Result<u8, ClientError> {
    let wires = Wires { stdin: exec.interactive, tty: exec.tty };
    wires.check()?;
    let container = find::container(node, &exec.name).await?;
    let mut signals = Signals::listen()?;
    let request = ExecRequest {
        container_id: container.id,
        cmd: exec.command,
        tty: exec.tty,
        stdin: exec.interactive,
        stdout: true,
        stderr: !exec.tty,
    };
    let answer =
        node.runtime.exec(request).await.map_err(ClientError::call(format!("exec in {}", exec.name)))?;
    // The daemon ends the program when we leave.
    code(live(&answer.into_inner().url, &node.tls, wires, &mut signals, async |_| true).await?)
}

pub(crate) async fn attach(node: &mut Node, name: &str) -> Result<u8, ClientError> {
    let container = find::container(node, name).await?;
    let wires = wires_of(node, &container.id).await?;
    let mut signals = Signals::listen()?;
    let url = attach_url(node, &container.id, wires)
        .await
        .map_err(ClientError::call(format!("attach to {name}")))?;
    // The container stays as it is when we leave.
    code(live(&url, &node.tls, wires, &mut signals, async |_| true).await?)
}

pub(crate) async fn attach_url(node: &mut Node, id: &str, wires: Wires) -> Result<String, tonic::Status> {
    let request = AttachRequest {
        container_id: id.to_owned(),
        stdin: wires.stdin,
        tty: wires.tty,
        stdout: true,
        stderr: !wires.tty,
    };
    Ok(node.runtime.attach(request).await?.into_inner().url)
}

/// What the container has; the daemon tells its terminal in the verbose status alone.
async fn wires_of(node: &mut Node, id: &str) -> Result<Wires, ClientError> {
    let request = berth_cri_api::v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = node.runtime.container_status(request).await;
    let answer = answer.map_err(ClientError::call(format!("look at container {id}")))?.into_inner();
    let info: serde_json::Value =
        answer.info.get("info").and_then(|info| serde_json::from_str(info).ok()).unwrap_or_default();
    let tty = info["runtimeSpec"]["process"]["terminal"].as_bool().unwrap_or(false);
    let stdin = info["config"]["stdin"].as_bool().unwrap_or(true);
    Ok(Wires { stdin: stdin && (!tty || terminal::is_stdin()), tty })
}
