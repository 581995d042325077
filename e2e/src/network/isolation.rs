//! `network.isolate_host`: pods reach no service of the machine's own, and everything else as before.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::kind::Kind;
use super::machine::{Machine, OUTSIDE, OWN, ip};
use super::neighbours::gateways;
use super::pods::Served;
use super::ports::tcp;
use super::traffic::{Datagrams, Mirror, answers, ask, datagram, datagram_client, echo};
use crate::checks::Checks;
use crate::daemon::{Daemon, IMAGE};

/// Services of the machine's own, and of who is outside.
const TCP: u16 = 7000;
const UDP: u16 = 7001;
/// A refusal is told; nobody waits for an answer that does not come.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) async fn all(checks: &mut Checks, machine: &Machine) -> Result<()> {
    for isolated in [true, false] {
        let value = isolated.to_string();
        let mut daemon = Daemon::empty_with(&["--network-isolate-host", &value]).await?;
        let done = async {
            daemon.import(IMAGE, "hello").await?;
            with(checks, machine, &daemon, isolated).await
        }
        .await;
        daemon.finish(done).await?;
        let left = machine.left().await;
        checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
    }
    Ok(())
}

async fn with(checks: &mut Checks, machine: &Machine, daemon: &Daemon, isolated: bool) -> Result<()> {
    println!("    {}", if isolated { "an isolated host" } else { "one that is not" });
    let (a, b) = (Served::new(daemon, "a", &[]).await?, Served::new(daemon, "b", &[tcp(8080)]).await?);
    let gateways = gateways(daemon, Kind::Embedded)?;
    let _by_tcp = Mirror::serve(&machine.own, TCP)?;
    // At each address, so that it answers from there.
    let mut by_udp = Vec::new();
    for own in OWN.iter().map(|own| ip(own)).chain(gateways) {
        let word = |_: &[u8]| Some(b"machine".to_vec());
        by_udp.push(Datagrams::answer(&machine.own, (&own.to_string(), UDP), word)?);
    }
    let _outside = Datagrams::serve(&machine.outside, UDP, "outside")?;
    for v6 in [false, true] {
        let at = usize::from(v6);
        for host in [ip(OWN[at]), gateways[at]] {
            services(checks, &a, host, isolated);
        }
        checks.note("  the gateway answers an echo", echo(&a.netns, gateways[at]));
        let (outside, own) = (ip(OUTSIDE[at]), ip(OWN[at]));
        let seen = ask(&a.netns, Machine::mirror(v6)).unwrap_or_else(|error| error.to_string());
        checks.that("  a pod reaches the outside", seen == own.to_string(), seen);
        let name =
            datagram_client(&a.netns, SocketAddr::new(outside, UDP)).and_then(|client| datagram(&client));
        let name = name.unwrap_or_else(|error| error.to_string());
        checks.that("  by datagrams too, as to a name server", name == "outside", name);
        checks.note("  a pod reaches another", answers(&a.netns, b.at(v6)?, "b"));
        checks.note("  the machine reaches a pod", answers(&machine.own, a.at(v6)?, "a"));
        let port = SocketAddr::new(own, 8080);
        for (from, netns) in [
            ("the outside", &machine.outside),
            ("the machine", &machine.own),
            ("another pod", &a.netns),
            ("the pod itself", &b.netns),
        ] {
            checks.note(&format!("  {from} reaches a port that leads to a pod"), answers(netns, port, "b"));
        }
        let gateway = SocketAddr::new(gateways[at], 8080);
        checks.note("  a pod by its gateway too", answers(&a.netns, gateway, "b"));
        let loopback = SocketAddr::new(ip(if v6 { "::1" } else { "127.0.0.1" }), 8080);
        checks.note("  the machine by its loopback", answers(&machine.own, loopback, "b"));
    }
    // Whom the machine asks for names is not the lane's.
    let (_, text) = daemon.says(&["network", "check", "a"])?;
    let bad: Vec<&str> =
        text.lines().filter(|line| line.starts_with("FAIL") && !line.contains("name server")).collect();
    let answers =
        text.lines().filter(|line| line.starts_with("ok      IPv") && line.contains("to the host")).count();
    checks.that("  and the check of a pod finds it well", bad.is_empty() && answers == 2, &text);
    a.gone(daemon).await?;
    b.gone(daemon).await
}

/// Those of the machine, at one of its addresses.
fn services(checks: &mut Checks, pod: &Served, host: IpAddr, isolated: bool) {
    let since = Instant::now();
    let by_tcp = ask(&pod.netns, SocketAddr::new(host, TCP));
    let by_udp = datagram_client(&pod.netns, SocketAddr::new(host, UDP)).and_then(|client| datagram(&client));
    let took = since.elapsed();
    let found = format!("{by_tcp:?} {by_udp:?} after {took:?}");
    let holds = match isolated {
        true => {
            by_tcp.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
                && by_udp.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
                && took < AT_ONCE
        }
        false => {
            by_tcp.is_ok_and(|seen| seen == pod_at(pod, host)) && by_udp.is_ok_and(|word| word == "machine")
        }
    };
    let what = match isolated {
        true => format!("a pod is refused services of the machine at {host}"),
        false => format!("a pod reaches services of the machine at {host}"),
    };
    checks.that(&what, holds, found);
}

/// As the machine sees it.
fn pod_at(pod: &Served, host: IpAddr) -> String {
    let own = pod.ips.iter().find(|ip| ip.is_ipv4() == host.is_ipv4());
    own.map(ToString::to_string).unwrap_or_default()
}
