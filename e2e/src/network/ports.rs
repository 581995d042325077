//! Ports of the host.

use std::net::SocketAddr;

use anyhow::Result;
use berth_cri_api::v1::*;

use super::kind::{Kind, taken};
use super::machine::{Machine, OWN, ip, tool};
use super::neighbours::gateways;
use super::pods::Served;
use super::traffic::{Datagrams, answers, ask, datagram, datagram_client};
use crate::checks::{Checks, until};
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
    everywhere(checks, machine, (&served, "served"), &other, kind);
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

/// A pod with port 8080 of the host answers by its name, whoever asks.
pub(super) fn everywhere(
    checks: &mut Checks,
    machine: &Machine,
    (served, name): (&Served, &str),
    other: &Served,
    kind: Kind,
) {
    for own in OWN {
        let to = at(own, 8080);
        for (from, netns) in [
            ("a port of the host, from outside", &machine.outside),
            ("  from the machine", &machine.own),
            ("  from another pod", &other.netns),
            ("  from the pod itself", &served.netns),
        ] {
            kind.note(checks, &format!("{from} to {own}"), answers(netns, to, name));
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        let answer = answers(&machine.own, at(loopback, 8080), name);
        kind.note(checks, &format!("  from the machine to {loopback}"), answer);
    }
}

async fn conflicts(checks: &mut Checks, daemon: &Daemon, kind: Kind) -> Result<()> {
    let before = footprint(daemon)?;
    let said = refused(checks, daemon, 8080).await?;
    let names = said.contains("8080") && said.contains("demo/served");
    kind.that(checks, "the same port for a second pod is refused with the holder's name", names, &said);
    untouched(checks, daemon, &before).await?;
    let listener = std::net::TcpListener::bind("0.0.0.0:8081")?;
    let said = refused(checks, daemon, 8081).await?;
    drop(listener);
    let names = said.contains("8081") && said.contains("a process of the host listens");
    kind.that(checks, "one that a process listens on is refused", names, &said);
    untouched(checks, daemon, &before).await
}

/// Why a pod with this port is refused; nothing of it is listed. One that another kind lets in goes.
async fn refused(checks: &mut Checks, daemon: &Daemon, port: i32) -> Result<String> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = PodSandboxConfig { port_mappings: vec![tcp(port)], ..pod("refused", &daemon.path("logs")) };
    let error = match client.run_pod(&config).await {
        Ok(id) => {
            client.remove_pod(&id).await?;
            return Ok("it runs".into());
        }
        Err(error) => error,
    };
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let named = |pod: &PodSandbox| pod.metadata.as_ref().is_some_and(|m| m.name == "refused");
    let left = pods.iter().filter(|pod| named(pod)).count();
    checks.that("a pod that is refused is not listed", left == 0, format!("{left} of {}", pods.len()));
    Ok(error.to_string())
}

/// Interfaces, addresses and rules of the machine, and the addresses that pods have.
fn footprint(daemon: &Daemon) -> Result<Vec<String>> {
    let mut found = Vec::new();
    // Without what they count.
    for line in ["ip -br link show", "ip -br address show", "nft -s list ruleset"] {
        found.extend(tool(line)?.lines().map(|text| text.trim().to_owned()));
    }
    found.extend(taken(daemon));
    let (_, text) = daemon.says(&["network", "inspect", "--json"])?;
    let view: serde_json::Value = serde_json::from_str(&text)?;
    found.extend([&view["own"]["subnets"], &view["own"]["host_ports"]].map(ToString::to_string));
    Ok(found)
}

/// The kernel clears namespaces in its own time.
async fn untouched(checks: &mut Checks, daemon: &Daemon, before: &[String]) -> Result<()> {
    let mut differs = Vec::new();
    let same = until("the machine to be as before", || {
        let now = footprint(daemon).unwrap_or_default();
        let without = |one: &[String], other: &[String]| {
            one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>()
        };
        differs = [without(before, &now), without(&now, before)].concat();
        let same = now == before;
        async move { Ok(same.then_some(())) }
    })
    .await;
    let same = same.map_err(|error| format!("{error:#}: {}", differs.join("; ")));
    checks.note("  no address, interface, rule or element of it is left", same);
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
    tool(&format!("ip address add {}/32 dev up0", SECOND[0]))?;
    tool(&format!("ip address add {}/128 dev up0 nodad", SECOND[1]))?;
    let done = alone(checks, machine, daemon, kind).await;
    tool(&format!("ip address del {}/32 dev up0", SECOND[0]))?;
    tool(&format!("ip address del {}/128 dev up0", SECOND[1]))?;
    done
}

/// One more of the machine's, of each version.
const SECOND: [&str; 2] = ["192.0.2.9", "2001:db8::9"];

/// A port on one of the machine's addresses, for those who come from elsewhere.
async fn alone(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    let other = Served::new(daemon, "other", &[]).await?;
    let gateways = gateways(daemon, kind)?;
    for v6 in [false, true] {
        let [own, second, none] = [OWN[usize::from(v6)], SECOND[usize::from(v6)], OWN[usize::from(!v6)]];
        let served = Served::new(daemon, "alone", &[map(Protocol::Tcp, 8090, 80, own)]).await?;
        for (from, netns) in [
            ("from outside", &machine.outside),
            ("from the machine", &machine.own),
            ("from another pod", &other.netns),
            ("from the pod itself", &served.netns),
        ] {
            kind.note(
                checks,
                &format!("a port on {own} alone, {from}"),
                answers(netns, at(own, 8090), "alone"),
            );
            let gateway = gateways[usize::from(v6)].to_string();
            for elsewhere in [second, none, &gateway] {
                // Nobody outside knows the way to it.
                if elsewhere == gateway && from == "from outside" {
                    continue;
                }
                let said = ask(netns, at(elsewhere, 8090)).map_err(|error| error.kind());
                let refused = said == Err(std::io::ErrorKind::ConnectionRefused);
                checks.that(&format!("  and not at {elsewhere}"), refused, format!("{said:?}"));
            }
        }
        served.gone(daemon).await?;
    }
    other.gone(daemon).await
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
