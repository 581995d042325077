//! Which addresses the embedded network gives.

use std::net::IpAddr;

use anyhow::Result;
use berth_cri_api::v1::*;

use super::machine::{Machine, OWN, ip};
use super::pods::Served;
use super::traffic::answers;
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &mut Daemon) -> Result<()> {
    late(checks, daemon).await?;
    cidr(checks, machine, daemon).await
}

/// An address given back is not the next one handed out.
async fn late(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let mut seen: Vec<IpAddr> = Vec::new();
    let mut again = Vec::new();
    for number in 0..20 {
        let id = client.run_pod(&pod(&format!("late-{number}"), &daemon.path("logs"))).await?;
        let ips = client.pod_ips(&id).await?;
        again.extend(ips.iter().filter(|ip| seen.contains(ip)).copied());
        seen.extend(ips);
        client.remove_pod(&id).await?;
    }
    checks.that(
        "20 pods one after the other: no address is used again",
        again.is_empty() && seen.len() == 2 * 20,
        format!("{again:?} of {seen:?}"),
    );
    Ok(())
}

/// The kubelet's networks take over without a restart; what runs keeps its addresses and its ways.
async fn cidr(checks: &mut Checks, machine: &Machine, daemon: &mut Daemon) -> Result<()> {
    let old = Served::new(daemon, "old", &[]).await?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let network = NetworkConfig { pod_cidr: "10.222.3.0/24,fd22:3::/64".into() };
    let request =
        UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config: Some(network) }) };
    client.runtime.update_runtime_config(request).await?;
    let new = Served::new(daemon, "new", &[super::ports::tcp(8080)]).await?;
    named(checks, "podCIDR: the next pod is in the new networks", &new);
    for v6 in [false, true] {
        checks.note("  old and new reach each other", {
            answers(&old.netns, new.at(v6)?, "new").and(answers(&new.netns, old.at(v6)?, "old"))
        });
        let to = std::net::SocketAddr::new(ip(OWN[usize::from(v6)]), 8080);
        checks.note("  and outside reaches the new one's port", answers(&machine.outside, to, "new"));
    }
    let kept = client.pod_ips(&old.id).await?;
    checks.that("  the old one keeps its addresses", kept == old.ips, format!("{kept:?}"));
    daemon.kill()?;
    let usual = daemon.flags.clone();
    daemon.flags.extend(["--network-subnets".into(), "10.223.3.0/24,fd23:3::/64".into()]);
    daemon.start().await?;
    checks.note("  also over a restart", answers(&machine.own, old.at(false)?, "old"));
    let next = Served::new(daemon, "next", &[]).await?;
    named(checks, "  a pod after it is in the kubelet's networks, whatever is set", &next);
    daemon.flags = usual;
    for pod in [old, new, next] {
        pod.gone(daemon).await?;
    }
    Ok(())
}

/// That a pod has addresses of the networks that the kubelet named.
fn named(checks: &mut Checks, what: &str, pod: &Served) {
    let given: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
    let of = given.len() == 2 && given[0].starts_with("10.222.3.") && given[1].starts_with("fd22:3::");
    checks.that(what, of, given.join(" "));
}
