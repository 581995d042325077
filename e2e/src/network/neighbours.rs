//! Others who write rules on the machine, as they write them: what is said of their rules is what happens to packets.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::kind::{Kind, NETWORK, addresses, clear};
use super::machine::{Machine, OWN, ip};
use super::others::{OTHERS, Other};
use super::pods::Served;
use super::ports::tcp;
use super::services;
use super::traffic::{Datagrams, ask, datagram, datagram_client};
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::conflist::in_use;
use crate::daemon::Daemon;

const TRAFFIC: [&str; 6] =
    ["pod_to_outside", "outside_to_pod", "pod_to_pod", "pod_to_pod_translated", "pod_to_host", "host_to_pod"];

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let machine = Machine::new()?;
    for kind in Kind::ALL {
        println!("  {}", kind.name());
        // Whose program lets pods pass on its own account, which is another matter.
        let mut daemon = kind.daemon_without("firewall").await?;
        let done = all(checks, &machine, &daemon, kind).await;
        for other in &OTHERS {
            let _ = shell(other.away);
        }
        services::away();
        daemon.finish(done).await?;
        clear(checks, |left| {
            kind == Kind::Programs && left.plugin != "firewall" && !left.away.contains("lane1")
        });
        gone(checks, &machine).await;
    }
    println!("  pods without a bridge");
    let mut daemon = Kind::InProcess.daemon_without("firewall").await?;
    let done = routed(checks, &machine, &daemon).await;
    let _ = shell(OTHERS[0].away);
    daemon.finish(done).await?;
    gone(checks, &machine).await;
    println!("  with the plugin firewall, by Debian's programs");
    let mut daemon = Kind::Programs.daemon().await?;
    let done = accepted(checks, &machine, &daemon).await;
    daemon.finish(done).await?;
    clear(checks, |left| !left.away.contains("lane1"));
    gone(checks, &machine).await;
    Ok(())
}

async fn gone(checks: &mut Checks, machine: &Machine) {
    let left = machine.left().await;
    checks.that("after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
}

async fn all(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    let (a, b) = (Served::new(daemon, "a", &[]).await?, Served::new(daemon, "b", &[tcp(8080)]).await?);
    let scene = Scene { machine, a: &a, b: &b, gateways: gateways(daemon, kind)? };
    let _resolver = Datagrams::serve(&machine.own, 53, "name")?;
    compare(checks, &scene, daemon, "nobody else", &[]).await?;
    for other in &OTHERS {
        shell(other.here).with_context(|| other.name.to_owned())?;
        let stopped = compare(checks, &scene, daemon, other.name, other.stops).await?;
        if other.name == OTHERS[0].name {
            checked(checks, daemon, &stopped)?;
        }
        if !other.has_programs && !stopped.is_empty() {
            told(checks, daemon, other).await?;
        } else if !stopped.is_empty() {
            // In the order they were said; a command that two have is typed once.
            let mut commands: Vec<&str> = stopped.iter().filter_map(|one| one["allow"].as_str()).collect();
            commands.sort_unstable();
            commands.dedup();
            for command in commands {
                shell(command)?;
            }
            compare(checks, &scene, daemon, "  after the commands that were named", &[]).await?;
        }
        shell(other.away)?;
    }
    services::all(checks, &scene, daemon, kind).await?;
    compare(checks, &scene, daemon, "everybody has gone", &[]).await?;
    a.gone(daemon).await?;
    b.gone(daemon).await
}

/// Each pod has a pair of interfaces of its own: Docker's DROP meets what is passed on, also from pod to pod.
async fn routed(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [
            { "type": "ptp", "ipMasq": true, "ipam": addresses(&daemon.path("")) },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    std::fs::write(daemon.path("cni/10-lane.conflist"), conf.to_string())?;
    in_use(daemon, |shown| shown["plugins"][0]["conf"]["type"] == "ptp" && shown["problem"].is_null())
        .await?;
    let docker = &OTHERS[0];
    let a = Served::new(daemon, "a", &[]).await?;
    shell(docker.here)?;
    let said = until("the status to name what is stopped", || async {
        let all = status(daemon)?["stopped_by_others"].as_array().cloned().unwrap_or_default();
        Ok((!all.is_empty()).then_some(all))
    })
    .await;
    checks.note(&format!("one pod alone, {}: the status names it", docker.name), said.as_ref().map(drop));
    checked(checks, daemon, &said.unwrap_or_default())?;
    shell(docker.away)?;
    let b = Served::new(daemon, "b", &[tcp(8080)]).await?;
    let scene = Scene { machine, a: &a, b: &b, gateways: gateways(daemon, Kind::InProcess)? };
    let _resolver = Datagrams::serve(&machine.own, 53, "name")?;
    compare(checks, &scene, daemon, "nobody else", &[]).await?;
    shell(docker.here)?;
    let stopped = compare(checks, &scene, daemon, docker.name, docker.stops).await?;
    checked(checks, daemon, &stopped)?;
    let mut commands: Vec<&str> = stopped.iter().filter_map(|one| one["allow"].as_str()).collect();
    commands.dedup();
    for command in commands {
        shell(command)?;
    }
    compare(checks, &scene, daemon, "  after the commands that were named", &[]).await?;
    a.gone(daemon).await?;
    b.gone(daemon).await
}

/// The program accepts what its pods begin, by their addresses, and answers to them: what comes from outside is still dropped.
async fn accepted(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    let (a, b) = (Served::new(daemon, "a", &[]).await?, Served::new(daemon, "b", &[tcp(8080)]).await?);
    let scene = Scene { machine, a: &a, b: &b, gateways: gateways(daemon, Kind::Programs)? };
    let _resolver = Datagrams::serve(&machine.own, 53, "name")?;
    compare(checks, &scene, daemon, "nobody else", &[]).await?;
    for version in ["", "6"] {
        shell(&format!("ip{version}tables -P FORWARD DROP"))?;
    }
    let stops = ["outside_to_pod IPv4", "outside_to_pod IPv6"];
    compare(checks, &scene, daemon, "somebody drops what is passed on", &stops).await?;
    a.gone(daemon).await?;
    b.gone(daemon).await
}

/// The check of a pod names the first that is stopped as its failure.
fn checked(checks: &mut Checks, daemon: &Daemon, stopped: &[Value]) -> Result<()> {
    let (code, text) = daemon.says(&["network", "check", "a"])?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL    others' rules")).collect();
    let by = |one: &Value| one["by"].as_str().unwrap_or_default().to_owned();
    let same = lines.len() == stopped.len() && !stopped.is_empty();
    let named = same && lines.iter().zip(stopped).all(|(line, one)| line.contains(&by(one)));
    checks.that("  and so does the check of a pod", code == 1 && named, &text);
    Ok(())
}

pub(super) struct Scene<'a> {
    pub(super) machine: &'a Machine,
    pub(super) a: &'a Served,
    /// With a port of the host.
    pub(super) b: &'a Served,
    gateways: [IpAddr; 2],
}

impl Scene<'_> {
    fn passes(&self, traffic: &str, v6: bool) -> Result<()> {
        let own = ip(OWN[usize::from(v6)]);
        let (from, to) = match traffic {
            "pod_to_outside" => (&self.a.netns, Machine::mirror(v6)),
            "outside_to_pod" => (&self.machine.outside, SocketAddr::new(own, 8080)),
            "pod_to_pod" => (&self.a.netns, self.b.at(v6)?),
            "pod_to_pod_translated" => (&self.a.netns, SocketAddr::new(own, 8080)),
            "host_to_pod" => (&self.machine.own, self.a.at(v6)?),
            _ => {
                let to = SocketAddr::new(self.gateways[usize::from(v6)], 53);
                let said = datagram(&datagram_client(&self.a.netns, to)?)?;
                holds!(said == "name", "{said}");
                return Ok(());
            }
        };
        ask(from, to)?;
        Ok(())
    }

    /// What does not get through, all tried at once.
    fn stopped(&self) -> Vec<String> {
        let ways = TRAFFIC.iter().flat_map(|traffic| [(*traffic, false), (*traffic, true)]);
        thread::scope(|scope| {
            let tries: Vec<_> = ways
                .map(|(traffic, v6)| (traffic, v6, scope.spawn(move || self.passes(traffic, v6).is_ok())))
                .collect();
            let failed = tries.into_iter().filter_map(|(traffic, v6, tried)| {
                let passed = tried.join().unwrap_or(false);
                (!passed).then(|| format!("{traffic} IPv{}", if v6 { 6 } else { 4 }))
            });
            failed.collect()
        })
    }
}

pub(super) fn status(daemon: &Daemon) -> Result<Value> {
    let done = daemon.typed(&["status", "--json"])?.output()?;
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// The first address of each of the pods' networks.
pub(super) fn gateways(daemon: &Daemon, kind: Kind) -> Result<[IpAddr; 2]> {
    let of = |network: &String| -> Result<IpAddr> {
        Ok(match network.split('/').next().unwrap_or_default().parse()? {
            IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
            IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
        })
    };
    let [v4, v6] = networks(daemon, kind)?;
    Ok([of(&v4)?, of(&v6)?])
}

/// Of the pods, one of each IP version.
pub(super) fn networks(daemon: &Daemon, kind: Kind) -> Result<[String; 2]> {
    if kind != Kind::Embedded {
        return Ok(["10.77.0.0/24", "fd00:77::/64"].map(str::to_owned));
    }
    let status = status(daemon)?;
    let of = |at: usize| -> Result<String> {
        let text = status["network"]["subnets"][at].as_str().context("no subnets in the status")?;
        Ok(text.to_owned())
    };
    Ok([of(0)?, of(1)?])
}

/// What gets through, what the status says of it, and what is expected are the same. Gives what the status has.
pub(super) async fn compare(
    checks: &mut Checks,
    scene: &Scene<'_>,
    daemon: &Daemon,
    who: &str,
    expected: &[&str],
) -> Result<Vec<Value>> {
    let happens = scene.stopped();
    let mut wanted: Vec<&str> = expected.to_vec();
    wanted.sort_unstable();
    let mut found: Vec<&str> = happens.iter().map(String::as_str).collect();
    found.sort_unstable();
    checks.that(
        &format!("{who}: {} of 12 ways are stopped", wanted.len()),
        found == wanted,
        found.join(", "),
    );
    let named =
        |one: &Value| format!("{} IPv{}", one["traffic"].as_str().unwrap_or_default(), one["ip_version"]);
    let mut last = Vec::new();
    let said = until("the status to say what happens", || {
        last = status(daemon)
            .map(|s| s["stopped_by_others"].as_array().cloned().unwrap_or_default())
            .unwrap_or_default();
        let mut sure: Vec<String> = last.iter().filter(|one| one["sure"] == true).map(named).collect();
        sure.sort_unstable();
        let same = sure == found && last.len() == sure.len();
        let now = last.clone();
        async move { Ok(same.then_some(now)) }
    })
    .await;
    let ok = said.is_ok();
    checks.that("  and the status says the same, surely", ok, Value::from(last.clone()));
    for one in &last {
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        println!("      {}: {}; {}", named(one), text("by"), text("allow"));
    }
    Ok(last)
}

/// The node's condition is ready, and says by whom something is stopped.
async fn told(checks: &mut Checks, daemon: &Daemon, other: &Other) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let request = berth_cri_api::v1::StatusRequest { verbose: true };
    let answer = client.runtime.status(request).await?.into_inner();
    let conditions = answer.status.unwrap_or_default().conditions;
    let network = conditions.iter().find(|one| one.r#type == "NetworkReady").context("no NetworkReady")?;
    let names = network.message.contains(other.named) && network.reason == "TrafficStopped";
    checks.that("  CRI: NetworkReady is true and names it", network.status && names, &network.message);
    Ok(())
}

/// As a person types it, or a script: nft(8) and iptables(8).
pub(super) fn shell(script: &str) -> Result<()> {
    let mut sh = Command::new("sh")
        .args(["-e"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    sh.stdin.take().context("no stdin")?.write_all(script.as_bytes())?;
    let done = sh.wait_with_output()?;
    if !done.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
