//! `run`: image, pod, container, and the person at its streams.

use std::path::PathBuf;

use berth_cri_api::v1::*;

use crate::arguments::Run;
use crate::node::Node;
use crate::output::{print, tell};
use crate::session::{self, Wires};
use crate::signals::{Signals, asks_to_end};
use crate::stream::End;
use crate::{ClientError, find, image, logs, pod};

/// Signals that ask for the end before it is no longer asked.
const PATIENCE: usize = 3;
/// Seconds that a program has to end whose output nobody reads.
const UNREAD_GRACE: i64 = 3;

/// What was made, to be taken back.
struct Made {
    name: String,
    pod: String,
    container: String,
    logs: PathBuf,
}

pub(crate) async fn run(node: &mut Node, run: Run) -> Result<u8, ClientError> {
    let wires = Wires { stdin: run.interactive, tty: run.tty };
    if !run.detach {
        wires.check()?;
    }
    let mut signals = Signals::listen()?;
    tokio::select! {
        present = image::ensure(node, &run.image, run.pull) => present?,
        signal = signals.end() => return Err(ClientError::Signalled(signal)),
    }
    let made = make(node, &run).await?;
    if run.detach {
        let started = start(node, &made).await;
        if started.is_err() {
            take_back(node, &made).await?;
        }
        started?;
        print(&format!("{}\n", made.container))?;
        return Ok(0);
    }
    let done = foreground(node, &made, wires, &mut signals).await;
    match &done {
        // It goes on.
        Ok(Ended::Detached) => {
            tell(&format!("\n{} goes on; come back with: berth attach {0}\n", made.name));
            return Ok(0);
        }
        Ok(Ended::Lost(reason)) => {
            tell(&format!("berth: {} goes on, {reason}; come back with: berth attach {0}\n", made.name));
            return Ok(125);
        }
        // Never started: nothing of it is worth keeping.
        Err(_) => take_back(node, &made).await?,
        Ok(Ended::Exit(_)) if run.remove => take_back(node, &made).await?,
        // Its log and state stay; network and ports are given back.
        Ok(Ended::Exit(_)) => node.stop_pod(&made.pod).await?,
    }
    match done? {
        Ended::Exit(code) => Ok(code),
        Ended::Detached | Ended::Lost(_) => Ok(0),
    }
}

async fn make(node: &mut Node, run: &Run) -> Result<Made, ClientError> {
    let uid = uid()?;
    let name = run.name.clone().unwrap_or_else(|| pod::invent_name(&run.image, &uid));
    let taken = find::all(node).await?.into_iter().find(|c| c.labels.get(pod::LABEL) == Some(&name));
    if let Some(other) = taken {
        return Err(ClientError::Taken { name, id: find::short(&other.id).to_owned() });
    }
    let logs = node.logs.join(format!("{name}_{uid}"));
    let config = pod::sandbox(run, &name, &uid, &logs);
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let answer = node.runtime.run_pod_sandbox(request).await.map_err(ClientError::call("make the pod"))?;
    let mut made =
        Made { name: name.clone(), pod: answer.into_inner().pod_sandbox_id, container: String::new(), logs };
    let request = CreateContainerRequest {
        pod_sandbox_id: made.pod.clone(),
        config: Some(pod::container(run, &name)),
        sandbox_config: Some(config),
    };
    match node.runtime.create_container(request).await {
        Ok(answer) => {
            made.container = answer.into_inner().container_id;
            Ok(made)
        }
        Err(status) => {
            take_back(node, &made).await?;
            Err(ClientError::call("make the container")(status))
        }
    }
}

async fn start(node: &mut Node, made: &Made) -> Result<(), ClientError> {
    let request = StartContainerRequest { container_id: made.container.clone() };
    node.runtime.start_container(request).await.map(drop).map_err(ClientError::call("start"))
}

/// How the time in the foreground ended.
enum Ended {
    Exit(u8),
    Detached,
    Lost(String),
}

/// Starts it and stays with it. An error: it did not start.
async fn foreground(
    node: &mut Node,
    made: &Made,
    wires: Wires,
    signals: &mut Signals,
) -> Result<Ended, ClientError> {
    start(node, made).await?;
    let end = match session::attach_url(node, &made.container, wires).await {
        Ok(url) => {
            let mut asked = 0;
            let tls = node.tls.clone();
            let signalled = async |signal: i32| {
                asked += usize::from(asks_to_end(signal));
                pass_on(node, &made.container, signal, asked >= PATIENCE).await;
                false
            };
            session::live(&url, &tls, wires, signals, signalled).await
        }
        Err(status) => Ok(End::Failed(status.message().to_owned())),
    };
    match end {
        Ok(End::Exit(code)) => explain(node, made, u8::try_from(code).unwrap_or(255)).await,
        Ok(End::Detached) => Ok(Ended::Detached),
        Ok(End::Unread) => {
            node.stop(&made.container, UNREAD_GRACE).await?;
            over(node, made).await.map(|code| Ended::Exit(code.unwrap_or(255)))
        }
        // Too short for an attach: all it said is in the log.
        Ok(End::Failed(text)) => match over(node, made).await? {
            Some(code) => {
                logs::copy(&made.logs.join("0.log"))?;
                explain(node, made, code).await
            }
            None => Ok(Ended::Lost(text)),
        },
        Ok(End::Closed(reason)) if reason.is_empty() => Ok(Ended::Lost("the daemon is gone".into())),
        Ok(End::Closed(reason)) => Ok(Ended::Lost(reason)),
        Ok(End::Left(signal)) => Ok(Ended::Lost(format!("signal {signal} ended the watching"))),
        Err(error) => Ok(Ended::Lost(error.to_string())),
    }
}

/// To the program; one who asks again and again gets an end.
async fn pass_on(node: &Node, container: &str, signal: i32, now: bool) {
    let id = container.to_owned();
    let passed = if now {
        let mut node = node.clone();
        node.stop(container, 0).await.map_err(|error| error.to_string())
    } else {
        node.ask(move |daemon| daemon.signal(&id, signal)).await.unwrap_or(Ok(()))
    };
    if let Err(problem) = passed {
        tell(&format!("berth: signal {signal} was not passed on: {problem}\r\n"));
    }
}

/// The exit code of what has ended; `None` while it runs.
async fn over(node: &mut Node, made: &Made) -> Result<Option<u8>, ClientError> {
    let status = node.status(&made.container).await?;
    let ended = status.state() == ContainerState::ContainerExited;
    Ok(ended.then(|| u8::try_from(status.exit_code).unwrap_or(255)))
}

/// Says what an exit code does not.
async fn explain(node: &mut Node, made: &Made, code: u8) -> Result<Ended, ClientError> {
    // An account that cannot be had changes nothing about the code.
    if let Ok(status) = node.status(&made.container).await
        && status.reason == "OOMKilled"
    {
        tell(&format!("berth: {} was killed: it used all the memory it may\n", made.name));
    }
    Ok(Ended::Exit(code))
}

/// Removes pod and container; the daemon removes their logs, after whatever it does with them now.
async fn take_back(node: &mut Node, made: &Made) -> Result<(), ClientError> {
    node.remove_pod(&made.pod).await
}

fn uid() -> Result<String, ClientError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Io {
        doing: "take random bytes",
        source: std::io::Error::other(error),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
