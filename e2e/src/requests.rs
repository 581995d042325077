//! Malformed and contradictory requests, RPC by RPC, and what comes of them: the right code, the field by its name, one line
//! in the log, and nothing made or changed. Then the lists: filters, ids by prefix, an object that is broken.

mod cases;
mod deadline;
mod lists;

use std::pin::Pin;

use anyhow::Result;
use berth_cri_api::v1::*;
use tonic::{Code, Status};

use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;

type Asked = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A request and what has to come of it.
struct Case {
    rpc: &'static str,
    /// What is wrong with it.
    wrong: &'static str,
    code: Code,
    /// The field or the object, which the message contains.
    names: &'static str,
    ask: Box<dyn Fn(Client) -> Asked>,
}

/// What the cases refer to.
#[derive(Clone)]
struct There {
    pod: String,
    created: String,
    running: String,
    ended: String,
}

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("there", &daemon.path("logs"));
    let id = client.run_pod(&config).await?;
    let there = There {
        created: client.create(&id, &config, "created", args(&["true"])).await?,
        running: client.run(&id, &config, "running", args(&["sleep", "1000"])).await?,
        ended: client.run(&id, &config, "ended", args(&["true"])).await?,
        pod: id,
    };
    client.ended(&there.ended).await?;
    refused(checks, daemon, &client, &there).await?;
    deadline::run(checks, daemon, &client, &there.running).await?;
    client.remove_pod(&there.pod).await?;
    lists::run(checks, daemon).await
}

async fn refused(checks: &mut Checks, daemon: &Daemon, client: &Client, there: &There) -> Result<()> {
    let before = Footprint::take(daemon)?;
    let state = lists::everything(&mut client.clone()).await?;
    let cases = cases::all(there);
    for case in &cases {
        let logged = failures_logged(daemon)?;
        let answer = (case.ask)(client.clone()).await;
        let mut problem = judge(case, answer.as_ref().err());
        let lines = failures_logged(daemon)? - logged;
        // What never reaches a verb is not the verb's to log.
        if problem.is_none() && answer.is_err() && lines > 1 {
            problem = Some(format!("logged {lines} times"));
        }
        if problem.is_none() && lists::everything(&mut client.clone()).await? != state {
            problem = Some("something was made or changed".to_owned());
        }
        if problem.is_some() {
            restore(client, there).await?;
        }
        checks.note(&format!("{}: {}", case.rpc, case.wrong), problem.map_or(Ok(()), Err));
    }
    checks.note("after all of them nothing more is kept", given_back(daemon, &before).await);
    Ok(())
}

/// Removes what a case made that should not have, so that the next one is judged by itself.
async fn restore(client: &Client, there: &There) -> Result<()> {
    let mut client = client.clone();
    let containers = client.runtime.list_containers(ListContainersRequest::default()).await?.into_inner();
    for container in containers.containers {
        if ![&there.created, &there.running, &there.ended].contains(&&container.id) {
            client.runtime.remove_container(RemoveContainerRequest { container_id: container.id }).await?;
        }
    }
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    for pod in pods.into_iter().filter(|pod| pod.id != there.pod) {
        client.remove_pod(&pod.id).await?;
    }
    Ok(())
}

/// What is not as the case says.
fn judge(case: &Case, status: Option<&Status>) -> Option<String> {
    let (code, message) = status.map_or((Code::Ok, ""), |status| (status.code(), status.message()));
    let named = message.contains(case.names);
    (code != case.code || !named)
        .then(|| format!("{code:?} {message:?} instead of {:?} {:?}", case.code, case.names))
}

/// Lines of the daemon's log that tell of a failed request.
fn failures_logged(daemon: &Daemon) -> Result<usize> {
    let log = std::fs::read_to_string(daemon.path("log"))?;
    Ok(log.lines().filter(|line| line.contains("WARN") || line.contains("request failed")).count())
}
