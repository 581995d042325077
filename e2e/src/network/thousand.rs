//! A bridge with as many pods as it can have.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_cri_api::v1::*;
use berth_sys::netns::run_in;
use tokio::task::JoinSet;

use super::machine::{Machine, OWN, ip, tool};
use super::neighbours::status;
use super::pods::Served;
use super::ports::tcp;
use super::restarts::{CLEARED, empty};
use super::traffic::answers;
use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::{Daemon, IMAGE};

/// Pods of a bridge.
const MOST: usize = 1000;
const AT_ONCE: usize = 8;
/// Of the host, of the first pod; the others have those behind it.
const FIRST: usize = 20_000;
/// Nobody listens there, and whoever is there says so.
const CLOSED: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(3);
/// What no answer of the daemon's may take, however many pods there are: it is looked at and not measured here.
const ANSWER: Duration = Duration::from_secs(2);

/// With room for all of them: an instance's own choice is a network of 253.
pub(super) async fn daemon() -> Result<Daemon> {
    let daemon = Daemon::empty_with(&["--network-subnets", "10.100.0.0/16,fd00:100::/64"]).await?;
    daemon.import(IMAGE, "hello").await?;
    Ok(daemon)
}

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &mut Daemon) -> Result<()> {
    let before = Footprint::take(daemon)?;
    let port = |number: usize| Ok::<_, anyhow::Error>(vec![tcp(i32::try_from(FIRST + number)?)]);
    let first = Served::new(daemon, "first", &port(0)?).await?;
    let ids = fill(daemon).await?;
    let last = Served::new(daemon, "last", &port(MOST - 1)?).await?;
    let bridge = status(daemon)?["network"]["bridge"].as_str().unwrap_or_default().to_owned();
    let there = tool(&format!("ip -o link show master {bridge}"))?.lines().count();
    checks.that(
        &format!("{MOST} pods of one bridge, each with a port of the host"),
        there == MOST && ids.len() + 2 == MOST,
        format!("{there} ports of {bridge}"),
    );
    let mut client = Client::connect(&daemon.socket()).await?;
    let refused = client.run_pod(&pod("too-many", &daemon.path("logs"))).await.err();
    let status = refused.as_ref().and_then(|error| error.downcast_ref::<tonic::Status>());
    let said = status.is_some_and(|status| {
        status.code() == tonic::Code::ResourceExhausted && status.message().contains(&MOST.to_string())
    });
    checks.that("  one more is refused with the reason", said, format!("{refused:?}"));
    reached(checks, machine, daemon, &ids, [&first, &last]).await?;
    answers_in_time(checks, daemon).await?;
    let since = Instant::now();
    daemon.kill()?;
    daemon.start().await?;
    checks.that(
        "a new daemon takes them all over",
        since.elapsed() < ANSWER * 5,
        format!("{:?}", since.elapsed()),
    );
    checks.note("  and the first still has its port, the last its own", ports(machine));
    answers_in_time(checks, daemon).await?;
    clear(daemon, ids).await?;
    first.gone(daemon).await?;
    last.gone(daemon).await?;
    // The kernel clears a thousand namespaces in its own time.
    let gone = {
        let daemon = &*daemon;
        until("the interfaces to go", || async { Ok(empty(daemon, CLEARED).await.ok()) }).await
    };
    checks.note("all gone: no interface and no rule is left", gone.map_err(|error| format!("{error:#}")));
    checks.note("  nor a directory, a row or a descriptor", given_back(daemon, &before).await);
    Ok(())
}

/// All but the first and the last; their ids.
async fn fill(daemon: &Daemon) -> Result<Vec<String>> {
    let mut work = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (socket, logs) = (daemon.socket(), daemon.path("logs"));
        work.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            let mut ids = Vec::new();
            for number in (1..MOST - 1).skip(lane).step_by(AT_ONCE) {
                let ports = vec![tcp(i32::try_from(FIRST + number)?)];
                let name = format!("thousand-{number}");
                let config = PodSandboxConfig { port_mappings: ports, ..pod(&name, &logs) };
                ids.push(client.run_pod(&config).await?);
            }
            anyhow::Ok(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(one) = work.join_next().await {
        ids.extend(one??);
    }
    Ok(ids)
}

async fn clear(daemon: &Daemon, ids: Vec<String>) -> Result<()> {
    let mut work = JoinSet::new();
    for ids in ids.chunks(ids.len().div_ceil(AT_ONCE)) {
        let (socket, ids) = (daemon.socket(), ids.to_vec());
        work.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            for id in ids {
                client.remove_pod(&id).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(one) = work.join_next().await {
        one??;
    }
    Ok(())
}

/// Somebody at the address says that nobody listens.
fn is_there(netns: &OwnedFd, to: IpAddr) -> Result<()> {
    let at = SocketAddr::new(to, CLOSED);
    match run_in(netns.as_fd(), || TcpStream::connect_timeout(&at, PATIENCE)) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => anyhow::bail!("{at}: {error}"),
        Ok(_) => anyhow::bail!("somebody listens at {at}"),
    }
}

async fn reached(
    checks: &mut Checks,
    machine: &Machine,
    daemon: &Daemon,
    ids: &[String],
    ends: [&Served; 2],
) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let mut all = Vec::new();
    for id in ids {
        all.extend(client.pod_ips(id).await?);
    }
    // At once, as probes come: the kernel remembers 1024 of whom it had to ask for, and of each IP version.
    let lost: Vec<String> = all
        .iter()
        .filter_map(|ip| is_there(&machine.own, *ip).err())
        .map(|error| error.to_string())
        .collect();
    let shown = lost.first().cloned().unwrap_or_default();
    checks.that(
        "the machine reaches every one, by both IP versions",
        lost.is_empty() && all.len() == 2 * (MOST - 2),
        format!("not {} of {}: {shown}", lost.len(), all.len()),
    );
    let [first, last] = ends;
    for v6 in [false, true] {
        let version = if v6 { "IPv6" } else { "IPv4" };
        checks.note(&format!("the first and the last reach each other, {version}"), {
            answers(&first.netns, last.at(v6)?, "last").and(answers(&last.netns, first.at(v6)?, "first"))
        });
        checks.note(&format!("  and the machine, {version}"), {
            ends.iter().try_for_each(|pod| is_there(&pod.netns, ip(OWN[usize::from(v6)])))
        });
    }
    let some = all.iter().step_by((all.len() / 40).max(1));
    let lost: Vec<String> =
        some.filter_map(|ip| is_there(&first.netns, *ip).err()).map(|error| error.to_string()).collect();
    checks.that("  the first reaches forty of those between", lost.is_empty(), lost.join("; "));
    checks.note("ports of the host lead to the first and the last", ports(machine));
    Ok(())
}

fn ports(machine: &Machine) -> Result<()> {
    for own in OWN {
        let at =
            |number: usize| Ok::<_, anyhow::Error>(SocketAddr::new(ip(own), u16::try_from(FIRST + number)?));
        answers(&machine.outside, at(0)?, "first")?;
        answers(&machine.outside, at(MOST - 1)?, "last")?;
    }
    Ok(())
}

async fn answers_in_time(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let mut since = Instant::now();
    let mut lap = || std::mem::replace(&mut since, Instant::now()).elapsed();
    let stats = client.runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await?;
    let counted = (stats.into_inner().stats.len(), lap());
    checks.that(
        "  their statistics are told",
        counted.0 == MOST && counted.1 < ANSWER,
        format!("{counted:?}"),
    );
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
    let counted = (pods.into_inner().items.len(), lap());
    checks.that("  and their list", counted.0 == MOST && counted.1 < ANSWER, format!("{counted:?}"));
    let status = client.runtime.status(StatusRequest { verbose: true }).await?.into_inner().status;
    let ready = status.is_some_and(|status| status.conditions.iter().all(|condition| condition.status));
    let took = lap();
    checks.that("  and the runtime's status", ready && took < ANSWER, format!("{ready} {took:?}"));
    Ok(())
}
