//! Ports of the host of SCTP. The kernel of the lane's machine translates SCTP (nf_conntrack's part for it) and has no SCTP itself
//! (CONFIG_IP_SCTP), so both ends are raw sockets here: one sends what begins an association (RFC 9260, INIT), the other sees it
//! arrive and answers.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_cri_api::v1::*;
use berth_sys::netns::run_in;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::kind::Kind;
use super::machine::{Machine, OWN, ip, tool};
use super::pods::Served;
use super::ports::map;
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// Of a client and its server: both ends' are well-known.
const CLIENT: u16 = 36_412;
/// Of the host, and where in the pod they lead.
const PORTS: [(i32, i32); 2] = [(9990, 38_412), (9991, 38_413)];
const PATIENCE: Duration = Duration::from_secs(3);

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

fn ports() -> Vec<PortMapping> {
    PORTS.iter().map(|(host, container)| map(Protocol::Sctp, *host, *container, "")).collect()
}

/// CRC-32C (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let one = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, one)
}

/// A packet with one chunk, of those that begin an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    /// What the other end named; nothing yet in an INIT.
    verification: u32,
    chunk: u8,
    /// What this end names.
    tag: u32,
}

impl Packet {
    fn init(from: u16, to: u16, tag: u32) -> Self {
        Self { from, to, verification: 0, chunk: INIT, tag }
    }

    /// The other end's answer.
    fn answer(self) -> Self {
        Self { from: self.to, to: self.from, verification: self.tag, chunk: INIT_ACK, tag: !self.tag }
    }

    fn bytes(self) -> Vec<u8> {
        const WINDOW: u32 = 65_536;
        // Of an INIT ACK; what is in it is the server's own affair.
        let cookie: &[u8] = if self.chunk == INIT_ACK { &[0, 7, 0, 8, 1, 2, 3, 4] } else { &[] };
        let mut bytes = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        bytes.extend(self.verification.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.chunk, 0, 0, 20 + cookie.len() as u8]);
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend(WINDOW.to_be_bytes());
        bytes.extend([0, 10, 0, 10]);
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend(cookie);
        let sum = checksum(&bytes);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// One whose checksum is right.
    fn read(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two));
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four));
        let mut summed = bytes.to_vec();
        summed.get_mut(8..12)?.fill(0);
        let good = bytes.get(8..12)? == checksum(&summed).to_le_bytes();
        let chunk = *bytes.get(12)?;
        good.then_some(Self { from: half(0)?, to: half(2)?, verification: word(4)?, chunk, tag: word(16)? })
    }
}

/// An end: what arrives at one address.
struct End {
    socket: OwnedFd,
    at: IpAddr,
}

impl End {
    fn new(netns: &OwnedFd, at: IpAddr) -> Result<Self> {
        let family = if at.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let opened = run_in(netns.as_fd(), || {
            let opened = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)?;
            bind(opened.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(at, 0)))?;
            Ok(opened)
        })?;
        setsockopt(&opened, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        Ok(Self { socket: opened, at })
    }

    fn send(&self, to: IpAddr, packet: Packet) -> Result<()> {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.socket.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty())?;
        Ok(())
    }

    /// What arrives, if it does: with whom it is from where the kernel tells, which is with IPv4's header.
    fn receive(&self) -> Result<Option<(Option<IpAddr>, Packet)>> {
        let mut buffer = [0; 512];
        let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            received => received?,
        };
        let bytes = &buffer[..length];
        if self.at.is_ipv6() {
            return Ok(Packet::read(bytes).map(|packet| (None, packet)));
        }
        let header = usize::from(bytes.first().context("an empty packet")? & 15) * 4;
        let address =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|ip: &[u8; 4]| (*ip).into());
        let (from, to): (Option<IpAddr>, Option<IpAddr>) = (address(12), address(16));
        anyhow::ensure!(to == Some(self.at), "{to:?} is not {}", self.at);
        Ok(bytes.get(header..).and_then(Packet::read).map(|packet| (from, packet)))
    }

    fn expect(&self, wanted: impl Fn(Packet) -> bool) -> Result<(Option<IpAddr>, Packet)> {
        let end = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while Instant::now() < end {
            match self.receive()? {
                Some(found) if wanted(found.1) => return Ok(found),
                found => others.extend(found),
            }
        }
        bail!("nothing at {}, but {others:?}", self.at)
    }
}

/// An INIT from one end to the host's port arrives in the pod at the container's, and its answer comes from where it was sent to.
fn begins(
    (client, from): (&End, u16),
    to: IpAddr,
    pod: &End,
    (host, container): (i32, i32),
    tag: u32,
) -> Result<Option<IpAddr>> {
    let (host, container) = (u16::try_from(host)?, u16::try_from(container)?);
    let sent = Packet::init(from, host, tag);
    client.send(to, sent)?;
    let (seen, arrived) = pod.expect(|packet| packet.chunk == INIT && packet.tag == tag)?;
    let wanted = Packet { to: container, ..sent };
    anyhow::ensure!(arrived == wanted, "{arrived:?} is not {wanted:?}");
    let back = seen.unwrap_or(client.at);
    pod.send(back, arrived.answer())?;
    let (_, answer) = client.expect(|packet| packet.chunk == INIT_ACK && packet.tag == !tag)?;
    anyhow::ensure!(answer == sent.answer(), "{answer:?} is not {:?}", sent.answer());
    Ok(seen)
}

/// Elements and rules of ours, and of the program's, with one of the ports.
fn rules() -> Result<Vec<String>> {
    let all = tool("nft list ruleset")?;
    let of = |line: &&str| PORTS.iter().any(|(host, _)| line.contains(&host.to_string()));
    Ok(all.lines().filter(of).map(|line| line.trim().to_owned()).collect())
}

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    // A client that goes on from the same port with the same machine: also from before there was a pod, and after the first.
    let mut clients = Vec::new();
    for v6 in [false, true] {
        let own = ip(OWN[usize::from(v6)]);
        let outside = End::new(&machine.outside, ip(super::machine::OUTSIDE[usize::from(v6)]))?;
        for (host, _) in PORTS {
            outside.send(own, Packet::init(CLIENT, u16::try_from(host)?, 1))?;
        }
        clients.push((own, outside, v6));
    }
    for (name, first) in [("associated", true), ("next", false)] {
        let served = Served::new(daemon, name, &ports()).await?;
        for (own, outside, v6) in &clients {
            let inside = End::new(&served.netns, served.at(*v6)?.ip())?;
            for (number, port) in PORTS.iter().enumerate() {
                let tag = 100 + number as u32 + if first { 0 } else { 10 };
                // Debian's portmap forgets UDP's flows alone: there each association is of another port.
                let from = if kind == Kind::Programs { CLIENT + u16::try_from(tag)? } else { CLIENT };
                let found = begins((outside, from), *own, &inside, *port, tag);
                let what = match first {
                    true => format!(
                        "SCTP from outside to {own}, port {}, arrives in the pod and is answered",
                        port.0
                    ),
                    false => {
                        format!("  to {own}, port {}, it begins anew with the next pod", port.0)
                    }
                };
                let seen = found.as_ref().ok().copied().flatten();
                checks.note(&what, found.map(drop));
                if first
                    && !v6
                    && let Some(seen) = seen
                {
                    let is_outside = seen == outside.at;
                    checks.that("  which sees who asks", is_outside, seen);
                }
            }
            if first {
                let here = End::new(&machine.own, *own)?;
                let found = begins((&here, CLIENT), *own, &inside, PORTS[0], 500);
                checks.note(&format!("  from the machine to {own}"), found.map(drop));
            }
        }
        if first {
            refused(checks, daemon, &served, kind).await?;
        }
        let has = rules()?;
        let each = PORTS.iter().all(|(host, _)| has.iter().any(|line| line.contains(&host.to_string())));
        checks.that("  its ports are in the kernel's tables", each, has.join("; "));
        served.gone(daemon).await?;
        let gone = until("the ports to go", || async { Ok(rules()?.is_empty().then_some(())) }).await;
        checks.note("  and with the pod no more", gone);
    }
    Ok(())
}

async fn refused(checks: &mut Checks, daemon: &Daemon, served: &Served, kind: Kind) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = rules()?;
    let ports = vec![map(Protocol::Sctp, PORTS[1].0, 1, "")];
    let config = PodSandboxConfig { port_mappings: ports, ..pod("taken", &daemon.path("logs")) };
    let said = match client.run_pod(&config).await {
        Ok(id) => {
            client.remove_pod(&id).await?;
            "it runs".into()
        }
        Err(error) => error.to_string(),
    };
    let port = format!("SCTP port {}", PORTS[1].0);
    let named = said.contains(&port) && said.contains("demo/associated");
    kind.that(checks, "  the same port for a second pod is refused with the holder's name", named, &said);
    let same = rules()? == before;
    checks.that("  and the first one's stay", same, before.join("; "));
    // The number is another one in another protocol.
    let ports = vec![map(Protocol::Tcp, PORTS[0].0, 80, "")];
    let beside = Served::new(daemon, "beside", &ports).await?;
    let at = |v6: bool| SocketAddr::new(ip(OWN[usize::from(v6)]), PORTS[0].0 as u16);
    checks.note("  TCP has that number beside it", {
        let both = [false, true].map(|v6| super::traffic::answers(&served.netns, at(v6), "beside"));
        both.into_iter().collect::<Result<Vec<()>>>().map(drop)
    });
    beside.gone(daemon).await
}
