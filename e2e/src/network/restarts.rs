//! The daemon away, back, and killed in the middle.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use berth_cri_api::v1::*;

use super::kind::{Kind, OF_PODS, own_in_use, taken};
use super::machine::{Machine, OWN, ip, tool};
use super::pods::Served;
use super::ports::tcp;
use super::traffic::answers;
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

pub(super) async fn all(
    checks: &mut Checks,
    machine: &Machine,
    daemon: &mut Daemon,
    kind: Kind,
) -> Result<()> {
    let served = Served::new(daemon, "stays", &[tcp(8080)]).await?;
    daemon.kill()?;
    reached(checks, machine, &served, kind, "the daemon dead: the machine reaches the pod")?;
    let mut client = daemon.start().await?;
    reached(checks, machine, &served, kind, "a new daemon: it still does")?;
    let kept = client.pod_ips(&served.id).await?;
    checks.that("  the pod's addresses are the same", kept == served.ips, format!("{kept:?}"));
    checks.note("  and so is its namespace's path", super::pods::named(daemon, &served).await);
    let next = Served::new(daemon, "next", &[]).await?;
    let fresh = next.ips.iter().all(|ip| !served.ips.contains(ip));
    checks.that("  and nobody else's", fresh, format!("{:?}", next.ips));
    next.gone(daemon).await?;
    for verb in ["run", "stop", "remove"] {
        let (mut problems, mut cuts) = (Vec::new(), Vec::new());
        let mut moments = kind.moments().to_vec();
        // On a slow machine the call still goes on at the last of them.
        let later = |last: u64| (last < LATEST).then_some(2 * last);
        let mut next = 0;
        while let Some(moment) = moments.get(next).copied() {
            match cut(daemon, verb, Duration::from_millis(moment)).await {
                Ok(was_cut) => cuts.push(was_cut),
                Err(error) => problems.push(format!("{moment} ms: {error:#}")),
            }
            next += 1;
            if next == moments.len() && !cuts.contains(&false) {
                moments.extend(later(moment));
            }
        }
        checks.that(
            &format!("killed {moments:?} ms into {verb}: a retry succeeds"),
            problems.is_empty(),
            problems.join("; "),
        );
        let both = cuts.contains(&true) && cuts.contains(&false);
        checks.that("  some of them in the middle, some after it", both, format!("{cuts:?}"));
    }
    reached(checks, machine, &served, kind, "the first pod is still reached")?;
    served.gone(daemon).await?;
    checks.note("nothing of any pod is left in the machine's network", empty(daemon, CLEARED).await);
    Ok(())
}

fn reached(checks: &mut Checks, machine: &Machine, served: &Served, kind: Kind, when: &str) -> Result<()> {
    let mut found = Ok(());
    for v6 in [false, true] {
        found = found.and(answers(&machine.own, served.at(v6)?, "stays"));
        let port = SocketAddr::new(ip(OWN[usize::from(v6)]), 8080);
        found = found.and(answers(&machine.outside, port, "stays"));
    }
    checks.note(when, found);
    for loopback in ["127.0.0.1", "::1"] {
        let answer = answers(&machine.own, SocketAddr::new(ip(loopback), 8080), "stays");
        kind.note(checks, &format!("  at its port on {loopback}"), answer);
    }
    Ok(())
}

/// Milliseconds that a verb may take at most.
const LATEST: u64 = 10_000;

/// Sends a verb, kills the daemon, starts it and does the same once more; in the end the pod is gone. Gives whether the first call
/// was cut.
async fn cut(daemon: &mut Daemon, verb: &'static str, moment: Duration) -> Result<bool> {
    let config = PodSandboxConfig { port_mappings: vec![tcp(8888)], ..pod("cut", &daemon.path("logs")) };
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = if verb == "run" { String::new() } else { client.run_pod(&config).await? };
    let call = {
        let (mut client, config, id) = (client.clone(), config.clone(), id.clone());
        tokio::spawn(async move { once(&mut client, verb, &config, &id).await.is_err() })
    };
    // The shortest sleep is longer than a verb takes on a fast machine: the first moment is without one.
    if !moment.is_zero() {
        tokio::time::sleep(moment).await;
    }
    daemon.kill()?;
    let was_cut = call.await?;
    let mut client = daemon.start().await?;
    let id = match verb {
        "run" => client.run_pod(&config).await?,
        _ => {
            once(&mut client, verb, &config, &id).await?;
            id
        }
    };
    client.remove_pod(&id).await?;
    Ok(was_cut)
}

async fn once(client: &mut Client, verb: &str, config: &PodSandboxConfig, id: &str) -> Result<()> {
    match verb {
        "run" => drop(client.run_pod(config).await?),
        "stop" => {
            let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
            client.runtime.stop_pod_sandbox(request).await?;
        }
        _ => client.remove_pod(id).await?,
    }
    Ok(())
}

/// The kernel clears namespaces in its own time.
pub(super) const CLEARED: Duration = Duration::from_secs(10);

/// No interface of a pod's, no element in a table, no rule for its address, and no address taken, before long.
pub(super) async fn empty(daemon: &Daemon, patience: Duration) -> Result<()> {
    let bridges = tool("ip -o link show type bridge")?;
    let bridges: Vec<&str> = bridges.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    // Bridges stay, as elements of sets, alone or twice.
    let stays = |line: &str| {
        let elements = line.trim().strip_prefix("elements = {").unwrap_or(line);
        let mut names = elements.split([' ', '"', ',', '.', '}']).filter(|name| !name.is_empty());
        names.all(|name| bridges.contains(&name))
    };
    let end = std::time::Instant::now() + patience;
    loop {
        let links = tool("ip -o link show type veth")?;
        let ifbs = tool("ip -o link show type ifb")?;
        let links: Vec<&str> =
            links.lines().chain(ifbs.lines()).filter(|line| !line.contains("up0")).collect();
        let rules = tool("nft list ruleset")?;
        let of_pod = |line: &str| OF_PODS.iter().any(|of| line.contains(of));
        let rules: Vec<&str> =
            rules.lines().filter(|line| of_pod(line) || line.contains("elements") && !stays(line)).collect();
        let mut taken = taken(daemon);
        taken.extend(own_in_use(daemon)?);
        if links.is_empty() && rules.is_empty() && taken.is_empty() {
            return Ok(());
        }
        if std::time::Instant::now() > end {
            anyhow::bail!("{}; {}; {}", links.join(", "), rules.join(", "), taken.join(", "));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
