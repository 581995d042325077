//! Connections the kernel tracks (linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use crate::attributes::{find as inside, read as attributes};
use crate::socket::{DONE, ERROR, Socket, messages, verdict};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;

/// One direction of a connection, as far as it is looked at.
struct Tuple {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: u8,
    destination_port: u16,
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let parts = attributes(bytes);
    let (ip, protocol) = (attributes(inside(&parts, 1)?), attributes(inside(&parts, 2)?));
    // Source: 1 of IPv4, 3 of IPv6; destination behind it.
    let part = |v4, v6| inside(&ip, v4).or_else(|| inside(&ip, v6)).and_then(address);
    let (source, destination) = (part(1, 3), part(2, 4));
    let port = inside(&protocol, 3).and_then(|b| b.first_chunk::<2>().copied()).map_or(0, u16::from_be_bytes);
    Some(Tuple { source, destination, protocol: *inside(&protocol, 1)?.first()?, destination_port: port })
}

fn message(kind: u16, flags: u16, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((20 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

/// A port and its protocol's number.
pub type Port = (u8, u16);

/// Forgets the flows that came to one of `ports` of the host itself, whose addresses are `own`, or are answered by one of
/// `pods` in a protocol of theirs, and gives their number. For protocols where a client goes on from the same port with nobody
/// to tell it that the other end is another one: it would be led to where the port led before. Those that a port leads to other
/// pods, and those that only pass through, go on.
///
/// The namespace of the calling thread. Reads every tracked connection of the family once.
pub fn forget(pods: &[IpAddr], ports: &[Port], own: &[IpAddr]) -> io::Result<usize> {
    let (v4, v6) = (nix::libc::AF_INET as u8, nix::libc::AF_INET6 as u8);
    let mut count = 0;
    for (family, _) in
        [(v4, true), (v6, false)].iter().filter(|(_, is4)| pods.iter().any(|p| p.is_ipv4() == *is4))
    {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.send(&message(GET, DUMP, *family, &[]))?;
        let mut stale = Vec::new();
        'dump: loop {
            let datagram = socket.receive()?;
            for (kind, _, body) in messages(&datagram) {
                match kind {
                    DONE => break 'dump,
                    ERROR => verdict(body)?,
                    _ => stale.extend(body.get(4..).and_then(|body| wanted(body, pods, ports, own))),
                }
            }
        }
        for flow in stale {
            socket.send(&message(DELETE, ACK, *family, &flow))?;
            let datagram = socket.receive()?;
            for (kind, _, body) in messages(&datagram) {
                match verdict(body) {
                    // It ended by itself meanwhile.
                    Err(error) if kind == ERROR && error.kind() != io::ErrorKind::NotFound => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            count += 1;
        }
    }
    Ok(count)
}

/// What names the flow in a request to delete it.
fn wanted(body: &[u8], pods: &[IpAddr], ports: &[Port], own: &[IpAddr]) -> Option<Vec<u8>> {
    let all = attributes(body);
    let original = inside(&all, ORIGINAL)?;
    let (to, from) = (tuple(original)?, tuple(inside(&all, REPLY)?)?);
    // Who is asked answers: nothing leads it to a pod.
    let to_host = to.destination == from.source;
    let to_host = to_host && to.destination.is_some_and(|ip| ip.is_loopback() || own.contains(&ip));
    let by_pod = from.source.is_some_and(|ip| pods.contains(&ip));
    let by_pod = by_pod && ports.iter().any(|(protocol, _)| *protocol == to.protocol);
    let to_host = to_host && ports.contains(&(to.protocol, to.destination_port));
    if !by_pod && !to_host {
        return None;
    }
    let named = [(ORIGINAL | 0x8000, Some(original)), (ZONE, inside(&all, ZONE))];
    let mut bytes = Vec::new();
    for (kind, value) in named.iter().filter_map(|(kind, value)| value.map(|value| (*kind, value))) {
        bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Some(bytes)
}
