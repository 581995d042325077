//! Ports of the host.

use std::net::SocketAddr;

use anyhow::Result;
use berth_cri_api::v1::*;

use super::kind::Kind;
use super::machine::{Machine, OWN, ip};
use super::pods::Served;
use super::traffic::{Datagrams, answers, ask, datagram, datagram_client};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

pub(super) fn map(protocol: Protocol, host_port: i32, container_port: i32, host_ip: &str) -> PortMapping {
    PortMapping { protocol: protocol.into(), host_port, container_port, host_ip: host_ip.into() }
}

pub(super) fn tcp(host_port: i32) -> PortMapping {
    map(Protocol::Tcp, host_port, 80, "")
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

pub(super) async fn all(
    checks: &mut Checks,
    machine: &Machine,
    daemon: &mut Daemon,
    kind: Kind,
) -> Result<()> {
    let served = Served::new(daemon, "served", &[tcp(8080)]).await?;
    let other = Served::new(daemon, "other", &[]).await?;
    everywhere(checks, machine, &served, &other, kind);
    conflicts(checks, daemon, kind).await?;
    served.gone(daemon).await?;
    let refused = ask(&machine.outside, at(OWN[0], 8080));
    let is_refused = refused.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
    kind.that(checks, "the pod gone, its port is refused again", is_refused, format!("{refused:?}"));
    let again = Served::new(daemon, "again", &[tcp(8080)]).await?;
    checks.note("  and free for the next pod", answers(&machine.outside, at(OWN[0], 8080), "again"));
    again.gone(daemon).await?;
    other.gone(daemon).await?;
    bound(checks, machine, daemon, kind).await?;
    datagrams(checks, machine, daemon, kind).await
}

fn everywhere(checks: &mut Checks, machine: &Machine, served: &Served, other: &Served, kind: Kind) {
    for own in OWN {
        let to = at(own, 8080);
        for (from, netns) in [
            ("a port of the host, from outside", &machine.outside),
            ("  from the machine", &machine.own),
            ("  from another pod", &other.netns),
            ("  from the pod itself", &served.netns),
        ] {
            kind.note(checks, &format!("{from} to {own}"), answers(netns, to, "served"));
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        let answer = answers(&machine.own, at(loopback, 8080), "served");
        kind.note(checks, &format!("  from the machine to {loopback}"), answer);
    }
}

async fn conflicts(checks: &mut Checks, daemon: &Daemon, kind: Kind) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let taken = PodSandboxConfig { port_mappings: vec![tcp(8080)], ..pod("taken", &daemon.path("logs")) };
    let said = client.run_pod(&taken).await.err().map(|error| error.to_string()).unwrap_or_default();
    let names = said.contains("8080") && said.contains("demo/served");
    kind.that(checks, "the same port for a second pod is refused with the holder's name", names, &said);
    let listener = std::net::TcpListener::bind("0.0.0.0:8081")?;
    let used = PodSandboxConfig { port_mappings: vec![tcp(8081)], ..pod("used", &daemon.path("logs")) };
    let said = client.run_pod(&used).await.err().map(|error| error.to_string()).unwrap_or_default();
    drop(listener);
    let names = said.contains("8081") && said.contains("a process of the host listens");
    kind.that(checks, "one that a process listens on is refused", names, &said);
    // What was refused leaves no pod; one that another kind let in goes.
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let named = |pod: &PodSandbox| pod.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
    for pod in pods.iter().filter(|pod| ["taken", "used"].contains(&named(pod).as_str())) {
        client.remove_pod(&pod.id).await?;
    }
    Ok(())
}

/// Ports on one address alone.
async fn bound(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    for (host_ip, others) in
        [("127.0.0.1", [OWN[0], "::1"]), ("::1", [OWN[1], "127.0.0.1"]), (OWN[0], ["127.0.0.1", OWN[1]])]
    {
        let ports = [map(Protocol::Tcp, 8090, 80, host_ip)];
        let served = Served::new(daemon, "bound", &ports).await?;
        let answer = answers(&machine.own, at(host_ip, 8090), "bound");
        kind.note(checks, &format!("a port on {host_ip} alone, from the machine"), answer);
        let elsewhere = others.iter().find(|other| ask(&machine.own, at(other, 8090)).is_ok());
        checks.that("  and on no other address", elsewhere.is_none(), format!("{elsewhere:?}"));
        served.gone(daemon).await?;
    }
    Ok(())
}

/// A client that goes on sending finds the next pod: no flow of the one before is left.
async fn datagrams(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    let ports = [map(Protocol::Udp, 5353, 53, "")];
    let mut clients = Vec::new();
    for own in OWN {
        clients.push((own, datagram_client(&machine.outside, at(own, 5353))?));
    }
    clients.push(("::1", datagram_client(&machine.own, at("::1", 5353))?));
    clients.push(("127.0.0.1", datagram_client(&machine.own, at("127.0.0.1", 5353))?));
    let silent = Served::new(daemon, "silent", &ports).await?;
    for (own, client) in &clients {
        let answer = datagram(client).err().map(|error| error.kind());
        let refused = answer == Some(std::io::ErrorKind::ConnectionRefused);
        kind.that(
            checks,
            &format!("datagrams to {own} where no pod listens are refused"),
            refused,
            format!("{answer:?}"),
        );
    }
    silent.gone(daemon).await?;
    for word in ["first", "second"] {
        let served = Served::new(daemon, word, &ports).await?;
        let server = Datagrams::serve(&served.netns, 53, word)?;
        for (own, client) in &clients {
            let answer = datagram(client).unwrap_or_else(|error| error.to_string());
            kind.that(checks, &format!("datagrams to {own} reach the {word} pod"), answer == word, answer);
        }
        drop(server);
        served.gone(daemon).await?;
    }
    Ok(())
}
