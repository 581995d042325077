//! Packets that are sent to see who answers. All of it in the namespace of the calling thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use berth_netlink::{Reach, Routes};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

/// Nobody listens there (RFC 863); a refusal is an answer.
pub(super) const DISCARD: u16 = 9;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Echo requests to one address.
const REQUESTS: u32 = 4;

/// How somebody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Echo,
    /// To a connection, by accepting or refusing it.
    Tcp,
}

/// A raw socket of ICMP for one destination (icmp(7)).
fn icmp(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    // The library has no type for it; reading, writing and connecting are the same.
    let socket = UdpSocket::from(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?);
    socket.connect(SocketAddr::new(to, 0))?;
    Ok(socket)
}

/// The Internet's checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// An echo request (RFC 792, RFC 4443).
fn request(v6: bool, id: u16) -> Vec<u8> {
    let mut packet = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(1u16.to_be_bytes());
    packet.extend(b"berth network check");
    if !v6 {
        // Of IPv6 the kernel does it.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Whether this is the answer to [`request`].
fn is_reply(v6: bool, id: u16, packet: &[u8]) -> bool {
    // Of IPv4 with the header of the packet.
    let header = if v6 { 0 } else { packet.first().map_or(0, |b| usize::from(b & 0x0f) * 4) };
    let Some(message) = packet.get(header..) else { return false };
    message.first() == Some(&if v6 { 129 } else { 0 }) && message.get(4..6) == Some(&id.to_be_bytes()[..])
}

/// Whether an address answers to an echo request. One that is lost, as on a machine that is busy, is sent again.
pub(super) fn ping(to: IpAddr, patience: Duration) -> io::Result<bool> {
    let (socket, v6) = (icmp(to)?, to.is_ipv6());
    let id = (std::process::id() as u16) ^ 0x5be7;
    let end = Instant::now() + patience;
    let mut again = Instant::now();
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(false);
        }
        if now >= again {
            socket.send(&request(v6, id))?;
            again = now + patience / REQUESTS;
        }
        // At least a microsecond: none at all is for ever.
        let left = again.min(end).saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        socket.set_read_timeout(Some(left))?;
        let mut packet = [0; 256];
        match socket.recv(&mut packet) {
            Ok(length) if is_reply(v6, id, &packet[..length]) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects, and takes the connection back at once: it leaves nothing that lingers in the pod's namespace, where it would keep
/// that alive after the pod's end.
pub(super) fn connect(to: SocketAddr, patience: Duration) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    // A close is a reset then (socket(7)).
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(&stream, sockopt::Linger, &at_once)?)
}

/// Whether an address answers at all: to an echo request, else to a connection.
pub(super) fn reach(to: IpAddr, patience: Duration) -> io::Result<Option<Answer>> {
    if ping(to, patience / 2)? {
        return Ok(Some(Answer::Echo));
    }
    match connect(SocketAddr::new(to, DISCARD), patience / 2) {
        Ok(()) => Ok(Some(Answer::Tcp)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Some(Answer::Tcp)),
        Err(_) => Ok(None),
    }
}

/// Whether a neighbour's hardware address can be had: asked for anew (ARP, neighbour discovery), which no packet filter of IP
/// keeps from being answered.
pub(super) fn resolve(routes: &Routes, to: IpAddr, interface: u32, patience: Duration) -> io::Result<Reach> {
    let before = routes.neighbour(to, interface)?;
    if before == Reach::Fixed {
        return Ok(before);
    }
    routes.forget_neighbour(to, interface)?;
    let any = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let sent = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(&[], (to, DISCARD)));
    sent?;
    let end = Instant::now() + patience;
    loop {
        match routes.neighbour(to, interface)? {
            Reach::Unknown if Instant::now() < end => std::thread::sleep(LOOK_AGAIN),
            found => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_checksum_of_the_rfc() {
        // RFC 1071, section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&request(false, 7)), 0, "a message with its sum adds up to nothing");
    }

    #[test]
    fn replies_are_told_from_requests() {
        let mut reply = vec![0x45; 20];
        reply.extend([0, 0, 0, 0, 0, 7, 0, 1]);
        assert!(is_reply(false, 7, &reply) && !is_reply(false, 8, &reply));
        assert!(is_reply(true, 7, &[129, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply(true, 7, &request(true, 7)) && !is_reply(false, 7, &[]));
    }

    #[test]
    fn loopback_answers_and_an_address_of_nobody_does_not() {
        let netns = berth_sys::netns::new_netns().unwrap();
        berth_sys::netns::run_in(netns.as_fd(), || {
            Routes::open()?.set_up(1)?;
            let second = Duration::from_secs(1);
            for to in ["127.0.0.1", "::1"] {
                assert!(ping(to.parse().unwrap(), second)?, "{to}");
                assert_eq!(reach(to.parse().unwrap(), second)?, Some(Answer::Echo));
            }
            // There is no route.
            assert!(ping("192.0.2.1".parse().unwrap(), second).is_err());
            Ok(())
        })
        .unwrap();
    }
}
