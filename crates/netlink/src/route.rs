use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use berth_sys::net::Glance;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::SockProtocol;

use crate::socket::{DONE, ERROR, Socket, messages, verdict};
use crate::{Change, Veth};

/// Links, addresses and routes of one network namespace (rtnetlink(7)).
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
    next: AtomicU32,
}

/// Where a route leads; the default route has a prefix of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub network: IpAddr,
    pub prefix: u8,
    /// The index of the interface it leaves by; 0 for none.
    pub interface: u32,
}

impl Routes {
    /// In the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(SockProtocol::NetlinkRoute)?;
        berth_sys::net::strict_dumps(socket.fd.as_fd())?;
        Ok(Self { socket, next: AtomicU32::new(1) })
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn encode(&self, message: RouteNetlinkMessage, flags: u16) -> (u32, Vec<u8>) {
        let mut packet = NetlinkMessage::from(message);
        let sequence = self.number();
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len().next_multiple_of(4)];
        packet.serialize(&mut bytes);
        (sequence, bytes)
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let (sequence, bytes) = self.encode(message, flags);
        self.socket.send(&bytes)?;
        Ok(sequence)
    }

    /// Changes one after the other in one request: a round through the kernel costs more than most of them. Those behind one
    /// that is refused are tried as well; the first refusal is the answer.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> io::Result<()> {
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            // A refusal is told in any case, so the last acknowledgement is one of all.
            let last = if changes.peek().is_none() { NLM_F_ACK } else { 0 };
            let (sequence, message) = self.encode(change.message, change.flags | last);
            bytes.extend(message);
            sent.push((sequence, change.forgiven));
        }
        let Some((last, _)) = sent.last().copied() else { return Ok(()) };
        self.socket.send(&bytes)?;
        let mut first = Ok(());
        loop {
            let datagram = self.socket.receive_short()?;
            for (kind, number, body) in messages(&datagram) {
                let Some((_, forgiven)) = sent.iter().find(|(sequence, _)| *sequence == number) else {
                    continue;
                };
                if kind == ERROR {
                    let is_good = |e: &io::Error| forgiven.is_some() && e.raw_os_error() == *forgiven;
                    first = first.and(verdict(body).or_else(|e| if is_good(&e) { Ok(()) } else { Err(e) }));
                    if number == last {
                        return first;
                    }
                }
            }
        }
    }

    /// Sends and waits for the acknowledgement.
    pub(crate) fn call(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.apply([Change::new(message, flags)])
    }

    fn acknowledged(&self, sequence: u32) -> io::Result<()> {
        loop {
            let datagram = self.socket.receive_short()?;
            let mine = messages(&datagram)
                .into_iter()
                .find(|(kind, number, _)| *kind == ERROR && *number == sequence);
            if let Some((_, _, body)) = mine {
                return verdict(body);
            }
        }
    }

    /// Sends a request and gives its one answer.
    pub(crate) fn one(&self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let sequence = self.send(message, 0)?;
        loop {
            let datagram = self.socket.receive_short()?;
            for (kind, number, body) in messages(&datagram) {
                match kind {
                    _ if number != sequence => {}
                    ERROR => verdict(body)?,
                    _ => {
                        let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram);
                        return match parsed.map_err(io::Error::other)?.payload {
                            NetlinkPayload::InnerMessage(inner) => Ok(inner),
                            _ => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                }
            }
        }
    }

    /// A request that the library has no type for.
    pub(crate) fn raw(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let sequence = self.send_raw(kind, flags | NLM_F_ACK, body)?;
        self.acknowledged(sequence)
    }

    /// The bodies of the answers to such a request.
    pub(crate) fn raw_dump(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.send_raw(kind, flags, body)?;
        let mut found = Vec::new();
        loop {
            let datagram = self.socket.receive()?;
            for (kind, number, body) in messages(&datagram) {
                match kind {
                    _ if number != sequence => {}
                    DONE => return Ok(found),
                    ERROR => verdict(body)?,
                    _ => found.push(body.to_vec()),
                }
            }
        }
    }

    fn send_raw(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<u32> {
        let sequence = self.number();
        let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.socket.send(&bytes)?;
        Ok(sequence)
    }

    /// Every answer to a dump.
    pub(crate) fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            let datagram = self.socket.receive()?;
            let mut at = 0;
            for (kind, number, body) in messages(&datagram) {
                let length = body.len() + 16;
                let bytes = &datagram[at..at + length];
                at += length.next_multiple_of(4);
                match kind {
                    _ if number != sequence => {}
                    DONE => return Ok(found),
                    ERROR => verdict(body)?,
                    // One that the library does not know is not one we look for.
                    _ => {
                        if let Ok(parsed) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                            && let NetlinkPayload::InnerMessage(inner) = parsed.payload
                        {
                            found.push(inner);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let dumped = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(dumped
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    /// What there is of an interface that is expected to be there, without waiting for others' changes.
    pub fn glance(&self, name: &str) -> io::Result<Option<Glance>> {
        berth_sys::net::glance(self.socket.fd.as_fd(), name)
    }

    /// Whether an interface has a carrier. What the kernel still has to do about that is done then.
    pub fn has_carrier(&self, name: &str) -> io::Result<bool> {
        berth_sys::net::has_carrier(self.socket.fd.as_fd(), name)
    }

    /// The index of an interface, if there is one of that name.
    pub fn index(&self, name: &str) -> io::Result<Option<u32>> {
        let mut wanted = LinkMessage::default();
        wanted.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let sequence = self.send(RouteNetlinkMessage::GetLink(wanted), 0)?;
        loop {
            let datagram = self.socket.receive()?;
            for (kind, number, body) in messages(&datagram) {
                match kind {
                    _ if number != sequence => {}
                    ERROR => match verdict(body) {
                        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(None),
                        Err(error) => return Err(error),
                        Ok(()) => {}
                    },
                    // struct ifinfomsg: the index is its second word.
                    _ => {
                        let index = body.get(4..8).and_then(|b| b.first_chunk::<4>());
                        return Ok(index.map(|b| u32::from_ne_bytes(*b)));
                    }
                }
            }
        }
    }

    /// Interfaces that are ports of `master`: index and name.
    pub fn ports(&self, master: u32) -> io::Result<Vec<(u32, String)>> {
        let port = |link: LinkMessage| {
            let ours =
                link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(m) if *m == master));
            let name = link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            name.filter(|_| ours).map(|name| (link.header.index, name))
        };
        Ok(self.links()?.into_iter().filter_map(port).collect())
    }

    /// A bridge with the kernel's settings but those named. An MTU of 0 is the kernel's choice.
    pub fn add_bridge(&self, name: &str, mtu: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut link = LinkMessage::default();
        // No loops are possible with pods alone, and learning when to forward costs 30 s otherwise.
        let data = InfoData::Bridge(vec![InfoBridge::StpState(BridgeStpState::Disabled)]);
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.to_vec())];
        link.attributes.extend((mtu > 0).then_some(LinkAttribute::Mtu(mtu)));
        link.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]));
        self.call(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// See [`Change::veth`].
    pub fn add_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        self.apply([Change::veth(veth)])
    }

    pub fn set_up(&self, index: u32) -> io::Result<()> {
        self.apply([Change::up(index)])
    }

    pub fn set_down(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.change_mask = LinkFlags::Up;
        self.call(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives an interface to another network namespace.
    pub fn move_to(&self, index: u32, netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::NetNsFd(netns.as_raw_fd())];
        self.call(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Waits for the kernel's grace periods: some 20 ms.
    pub fn delete_link(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.call(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// See [`Change::address`].
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.apply([Change::address(index, address, prefix)])
    }

    /// The largest packet of an interface, in bytes; `None` when it is gone.
    pub fn mtu(&self, index: u32) -> io::Result<Option<u32>> {
        Ok(self.link_at(index)?.map(|link| link.mtu))
    }

    /// The networks of an IP version that the host has routes to, in every table.
    pub fn networks(&self, v6: bool) -> io::Result<Vec<Route>> {
        let of = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = of;
        let mut found = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetRoute(wanted))? {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            if route.header.address_family != of {
                continue;
            }
            let to = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
                _ => None,
            });
            let by = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let whole: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            found.push(Route {
                network: to.unwrap_or(whole),
                prefix: route.header.destination_prefix_length,
                interface: by.unwrap_or(0),
            });
        }
        Ok(found)
    }
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
