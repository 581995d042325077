//! Ports of the host: whether they lead to somebody who listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use berth_model::Protocol;
use berth_netlink::Routes;
use berth_netlink::nft::{HeldState, Pod, Reader};
use berth_sys::netns::run_in;

use super::probe::connect;
use super::{Clock, Step, Subject};
use crate::HostPort;
use crate::neighbours::uplink;

/// The host's own addresses towards the outside: those of the interface its default route leaves by.
pub(super) fn own_addresses(routes: &Routes) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for v6 in [false, true] {
        found.extend(uplink(routes, v6)?.map(|(_, own)| own));
    }
    Ok(found)
}

/// Where a client of the host finds the port. Whoever leads it there by other rules than ours leads nobody from ::1: the
/// kernel has `route_localnet` for IPv4 alone.
fn places(port: HostPort, pod: &[IpAddr], own: &[IpAddr], by_us: bool) -> Vec<IpAddr> {
    let loopback6 = by_us.then_some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)].into_iter().chain(loopback6);
    let everywhere = own.iter().copied().chain(loopback);
    let led = |ip: &IpAddr| pod.iter().any(|to| to.is_ipv6() == ip.is_ipv6());
    match port.address {
        Some(ip) if ip.is_unspecified() => {
            everywhere.filter(|p| p.is_ipv6() == ip.is_ipv6() && led(p)).collect()
        }
        Some(ip) => vec![ip],
        None => everywhere.filter(led).collect(),
    }
}

/// One line for one port.
pub(super) fn step(subject: &Subject<'_>, port: HostPort, own: &[IpAddr], clock: Clock) -> Step {
    let name = format!("port {port}");
    let Some(patience) = clock.next() else { return Step::skipped(name, "there is no time left") };
    let missing = match subject.recorded.rules.is_some() {
        true => missing(subject, port),
        false => Vec::new(),
    };
    let connects = |at: SocketAddr| connect(at, patience);
    if port.protocol != Protocol::Tcp {
        return unconnected(subject, port, name, &missing);
    }
    // Whoever does not listen in the pod is not the network's fault.
    let listens =
        |ip: &&IpAddr| run_in(subject.netns, || connects(SocketAddr::new(**ip, port.container_port))).is_ok();
    let served: Vec<IpAddr> = subject.recorded.addresses.iter().filter(listens).copied().collect();
    let nobody =
        || Step::skipped(&name, format!("nothing in the pod listens on port {}", port.container_port));
    if served.is_empty() {
        return match missing.is_empty() {
            true => nobody(),
            false => lost(name, &missing),
        };
    }
    let places = places(port, &served, own, subject.recorded.rules.is_some());
    let results: Vec<(IpAddr, io::Result<()>)> = std::thread::scope(|scope| {
        let asked: Vec<_> = places
            .iter()
            .map(|ip| (*ip, scope.spawn(move || connects(SocketAddr::new(*ip, port.port)))))
            .collect();
        let lost = || Err(io::Error::other("the probe was lost"));
        asked.into_iter().map(|(ip, probe)| (ip, probe.join().unwrap_or_else(|_| lost()))).collect()
    });
    let failed: Vec<String> = results
        .iter()
        .filter_map(|(ip, result)| result.as_ref().err().map(|error| format!("{ip}: {error}")))
        .collect();
    if failed.is_empty() && missing.is_empty() {
        let texts: Vec<String> = places.iter().map(ToString::to_string).collect();
        return Step::ok(name, format!("a connection is answered at {}", texts.join(", ")));
    }
    if !missing.is_empty() {
        return lost(name, &missing);
    }
    Step::failed(
        name,
        format!("no connection at {}, but the pod listens", failed.join("; ")),
        "see what others' rules stop below, and whether the address is the host's",
    )
}

fn lost(name: String, missing: &[String]) -> Step {
    Step::failed(name, missing.join("; "), super::steps::TABLE_HELPS)
}

/// Elements of the port that are not in the table.
fn missing(subject: &Subject<'_>, port: HostPort) -> Vec<String> {
    let Some(rules) = &subject.recorded.rules else { return Vec::new() };
    let mine = |forward: &&berth_netlink::nft::Forward| {
        (forward.protocol, forward.port, forward.to.1) == (port.number(), port.port, port.container_port)
    };
    let forwards = rules.pod.forwards.iter().filter(mine).copied().collect();
    let part = Pod { forwards, ..Pod::default() };
    let held = match Reader::open().and_then(|reader| reader.held(&rules.table, &part, None)) {
        Ok(held) => held,
        Err(error) => return vec![format!("table {} cannot be read: {error}", rules.table)],
    };
    let bad = held.into_iter().filter(|one| one.state != HeldState::There);
    bad.map(|one| match one.state {
        HeldState::Other(place) => format!("{} leads to {place} in table {}", one.text, rules.table),
        _ => format!("{} is not in map {} of table {}", one.text, one.set, rules.table),
    })
    .collect()
}

/// Datagrams and SCTP are not sent: who listens may take them for a client's.
fn unconnected(subject: &Subject<'_>, port: HostPort, name: String, missing: &[String]) -> Step {
    if !missing.is_empty() {
        return lost(name, missing);
    }
    if port.protocol == Protocol::Udp && !bound(subject.netns, port.container_port).unwrap_or(true) {
        let why = format!("nothing in the pod listens on UDP port {}", port.container_port);
        return Step::skipped(name, why);
    }
    match &subject.recorded.rules {
        Some(rules) => Step::ok(name, format!("leads to the pod in table {}; nothing was sent", rules.table)),
        None => Step::skipped(name, "its rules are another program's, and nothing can be sent without harm"),
    }
}

/// Whether a socket of UDP has the port (proc_pid_net(5)).
fn bound(netns: BorrowedFd<'_>, port: u16) -> io::Result<bool> {
    run_in(netns, || {
        let mut any = false;
        for file in ["udp", "udp6"] {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            any |= has_port(&text, port);
        }
        Ok(any)
    })
}

/// The second word of each line is `ADDRESS:PORT`, in hexadecimal.
fn has_port(text: &str, port: u16) -> bool {
    text.lines().skip(1).any(|line| {
        let local = line.split_whitespace().nth(1).and_then(|word| word.rsplit_once(':'));
        local.is_some_and(|(_, number)| u16::from_str_radix(number, 16) == Ok(port))
    })
}

pub(super) fn all(subject: &Subject<'_>, own: &[IpAddr], clock: Clock) -> Vec<Step> {
    subject.recorded.host_ports.iter().map(|port| step(subject, *port, own, clock)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_kernels_table() {
        let text = "  sl  local_address rem_address   st\n 1: 00000000:0035 00000000:0000 07\n";
        assert!(has_port(text, 53) && !has_port(text, 54) && !has_port("", 53));
    }

    #[test]
    fn where_a_port_is_found() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = [ip("192.0.2.1"), ip("2001:db8::1")];
        let pod = [ip("10.0.0.2"), ip("fd00::2")];
        let of = |address: &str, pod: &[IpAddr], by_us| {
            let port = HostPort {
                protocol: Protocol::Tcp,
                address: address.parse().ok(),
                port: 80,
                container_port: 80,
            };
            places(port, pod, &own, by_us).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let at = |address, pod| of(address, pod, true);
        assert_eq!(at("", &pod), "192.0.2.1 2001:db8::1 127.0.0.1 ::1");
        assert_eq!(of("", &pod, false), "192.0.2.1 2001:db8::1 127.0.0.1");
        assert_eq!(at("", &pod[..1]), "192.0.2.1 127.0.0.1");
        assert_eq!(at("::", &pod), "2001:db8::1 ::1");
        assert_eq!(at("127.0.0.1", &pod), "127.0.0.1");
    }
}
