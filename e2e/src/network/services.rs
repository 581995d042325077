//! Services beside Berth's own ports of the host: kube-proxy's rules as it writes them, for pods that are there.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::kind::Kind;
use super::kube_proxy::{Mode, Service, cluster_ip};
use super::machine::{OUTSIDE, OWN, ip, tool};
use super::neighbours::{Scene, compare, networks, shell};
use super::ports::everywhere;
use super::traffic::{Mirror, answers, ask};
use crate::checks::Checks;
use crate::daemon::Daemon;

/// Whether what a bridge carries passes IP's rules (br_netfilter): Kubernetes counts on it, and kube-proxy does not turn it on in its
/// mode nftables.
const BRIDGED: [(&str, &str); 2] = [("with br_netfilter", "1"), ("without br_netfilter", "0")];

/// In a pod: who listens there says who asks.
const MIRROR: u16 = 7778;
/// What a refusal may take: a packet and its answer. Of IPv6 a packet more: that nobody listens ends no connection while its first
/// one is still being sent, which is so where the answer comes from the same machine (Linux, with no rule of ours there either).
const AT_ONCE: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];

fn service(name: &'static str, v6: bool, number: u8, node_port: u16, endpoints: Vec<SocketAddr>) -> Service {
    Service { name, at: SocketAddr::new(cluster_ip(v6, number), 80), node_port, endpoints, local: false }
}

fn services(scene: &Scene<'_>, v6: bool) -> Result<Vec<Service>> {
    let (a, b) = (scene.a.at(v6)?, scene.b.at(v6)?);
    let mirror = SocketAddr::new(b.ip(), MIRROR);
    Ok(vec![
        service("one", v6, 31, 30_031, vec![b]),
        service("two", v6, 32, 30_032, vec![a, b]),
        service("none", v6, 33, 30_033, Vec::new()),
        service("mirror", v6, 34, 30_034, vec![mirror]),
        Service { local: true, ..service("seen", v6, 35, 30_035, vec![mirror]) },
    ])
}

/// After a failure: nothing that is there is left.
pub(super) fn away() {
    for mode in Mode::ALL {
        let _ = shell(mode.away());
    }
    let _ = bridged("1");
}

fn bridged(value: &str) -> Result<()> {
    for version in ["", "6"] {
        tool(&format!("sysctl -q -w net.bridge.bridge-nf-call-ip{version}tables={value}"))?;
    }
    Ok(())
}

pub(super) async fn all(checks: &mut Checks, scene: &Scene<'_>, daemon: &Daemon, kind: Kind) -> Result<()> {
    let networks = networks(daemon, kind)?;
    let _mirror = Mirror::serve(&scene.b.netns, MIRROR)?;
    for mode in Mode::ALL {
        for v6 in [false, true] {
            shell(&mode.here(v6, &networks[usize::from(v6)], &services(scene, v6)?))?;
        }
        for (how, value) in BRIDGED {
            bridged(value)?;
            println!("    {}, {how}", mode.name());
            for v6 in [false, true] {
                reached(checks, scene, kind, how, v6)?;
                sources(checks, scene, kind, how, v6)?;
                refused(checks, scene, v6)?;
            }
            everywhere(checks, scene.machine, (scene.b, "b"), scene.a, kind);
            compare(checks, scene, daemon, "  beside it", &[]).await?;
        }
        bridged("1")?;
        shell(mode.away())?;
    }
    Ok(())
}

fn version(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn reached(checks: &mut Checks, scene: &Scene<'_>, kind: Kind, how: &str, v6: bool) -> Result<()> {
    let Scene { machine, a, b, .. } = scene;
    let all = services(scene, v6)?;
    let (one, own, version) = (all[0].at, ip(OWN[usize::from(v6)]), version(v6));
    let node = SocketAddr::new(own, all[0].node_port);
    kind.note(checks, &format!("a pod reaches another by its Service, {how}, {version}"), {
        answers(&a.netns, one, "b")
    });
    for (what, from, to) in [
        ("the endpoint reaches itself by its Service", &b.netns, one),
        ("the machine reaches a Service", &machine.own, one),
        ("the outside reaches a NodePort", &machine.outside, node),
        ("the machine reaches a NodePort", &machine.own, node),
        ("a pod reaches a NodePort", &a.netns, node),
        ("the endpoint reaches itself by a NodePort", &b.netns, node),
    ] {
        kind.note(checks, &format!("{what}, {version}"), answers(from, to, "b"));
    }
    let mut seen: Vec<String> = Vec::new();
    let mut failed = Vec::new();
    // By chance one of two: that it is never the other is as likely as 2^-40.
    for _ in 0..40 {
        match ask(&machine.own, all[1].at) {
            Ok(answer) if !seen.contains(&answer) => seen.push(answer),
            Ok(_) => {}
            Err(error) => failed.push(error.to_string()),
        }
        if seen.len() == 2 {
            break;
        }
    }
    seen.sort();
    let both = seen == ["a", "b"] && failed.is_empty();
    checks.that(
        &format!("two endpoints of a Service share, {version}"),
        both,
        format!("{seen:?} {failed:?}"),
    );
    Ok(())
}

/// "Never translated" is what a Service promises of pods that ask for it, and of the outside where it is to be local.
fn sources(checks: &mut Checks, scene: &Scene<'_>, kind: Kind, how: &str, v6: bool) -> Result<()> {
    let Scene { machine, a, .. } = scene;
    let all = services(scene, v6)?;
    let (own, version) = (ip(OWN[usize::from(v6)]), version(v6));
    let seen = |from: &OwnedFd, to: SocketAddr| ask(from, to).unwrap_or_else(|error| error.to_string());
    // Without br_netfilter the answer would take the short way, past who translated.
    if how == BRIDGED[0].0 {
        let found = seen(&a.netns, all[3].at);
        let pod = a.at(v6)?.ip().to_string();
        kind.that(checks, &format!("an endpoint sees which pod asks, {version}"), found == pod, found);
    }
    let found = seen(&machine.outside, SocketAddr::new(own, all[4].node_port));
    let outside = OUTSIDE[usize::from(v6)];
    let what = format!("an endpoint of a local NodePort sees who asks from outside, {version}");
    kind.that(checks, &what, found == outside, found);
    Ok(())
}

fn refused(checks: &mut Checks, scene: &Scene<'_>, v6: bool) -> Result<()> {
    let Scene { machine, a, .. } = scene;
    let none = &services(scene, v6)?[2];
    let node = SocketAddr::new(ip(OWN[usize::from(v6)]), none.node_port);
    for (from, netns, to) in [
        ("a pod", &a.netns, none.at),
        ("the machine", &machine.own, none.at),
        ("the outside", &machine.outside, node),
    ] {
        let since = Instant::now();
        let said = ask(netns, to).map_err(|error| error.kind());
        let (took, is_refused) = (since.elapsed(), said == Err(ErrorKind::ConnectionRefused));
        checks.that(
            &format!("a Service without endpoints refuses {from} at once, {}", version(v6)),
            is_refused && took < AT_ONCE[usize::from(v6)],
            format!("{said:?} after {took:?}"),
        );
    }
    Ok(())
}
