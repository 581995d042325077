//! What an interface is, and what can be changed of one.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use crate::Routes;
use crate::route::family;

/// An interface, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Such as veth or bridge; empty for hardware and lo.
    pub kind: String,
    pub mac: Vec<u8>,
    /// Bytes.
    pub mtu: u32,
    pub is_up: bool,
    /// The other end is up too.
    pub has_carrier: bool,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth, by its number in the other's namespace.
    pub peer: Option<u32>,
    pub promiscuous: bool,
    /// It takes what is sent to any group.
    pub all_multicast: bool,
    /// In packets.
    pub queue_length: u32,
    pub received: Counters,
    pub sent: Counters,
}

/// Of one direction, since the interface was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Of a bridge's port; `None` leaves as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct PortSettings {
    pub hairpin: Option<bool>,
    /// Speaks with ports only that are not isolated.
    pub isolated: Option<bool>,
    /// Gets what is sent to groups that nobody is known to have joined.
    pub hears_groups: Option<bool>,
}

impl Link {
    fn read(message: LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mac: Vec::new(),
            mtu: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
            master: None,
            peer: None,
            promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
            queue_length: 0,
            received: Counters::default(),
            sent: Counters::default(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(length) => link.queue_length = length,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = kind.to_string();
                        }
                    }
                }
                LinkAttribute::Stats64(stats) => {
                    link.received = Counters {
                        bytes: stats.rx_bytes,
                        packets: stats.rx_packets,
                        errors: stats.rx_errors,
                        dropped: stats.rx_dropped,
                    };
                    link.sent = Counters {
                        bytes: stats.tx_bytes,
                        packets: stats.tx_packets,
                        errors: stats.tx_errors,
                        dropped: stats.tx_dropped,
                    };
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// As people write it.
    pub fn mac(&self) -> String {
        mac_text(&self.mac)
    }
}

/// A hardware address as people write it.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

impl Routes {
    /// An interface by name.
    pub fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut wanted = LinkMessage::default();
        wanted.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.wanted(wanted)
    }

    /// An interface by number.
    pub fn link_at(&self, index: u32) -> io::Result<Option<Link>> {
        let mut wanted = LinkMessage::default();
        wanted.header.index = index;
        self.wanted(wanted)
    }

    fn wanted(&self, wanted: LinkMessage) -> io::Result<Option<Link>> {
        match self.one(RouteNetlinkMessage::GetLink(wanted)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Link::read(link)),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Every interface.
    pub fn all_links(&self) -> io::Result<Vec<Link>> {
        Ok(self.links()?.into_iter().filter_map(Link::read).collect())
    }

    /// Addresses of an interface with the lengths of their prefixes.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<(IpAddr, u8)>> {
        self.of_interface(index, AddressFamily::Unspec)
    }

    /// Those of the IP version that `like` is of. The kernel answers that also while it is busy with interfaces.
    pub fn addresses_like(&self, index: u32, like: IpAddr) -> io::Result<Vec<(IpAddr, u8)>> {
        self.of_interface(index, family(like))
    }

    fn of_interface(&self, index: u32, family: AddressFamily) -> io::Result<Vec<(IpAddr, u8)>> {
        let all = self.addresses_of(index, family)?;
        Ok(all.into_iter().filter(|(of, ..)| *of == index).map(|(_, ip, prefix)| (ip, prefix)).collect())
    }

    /// Addresses of all interfaces.
    pub fn all_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(self.addresses_of(0, AddressFamily::Unspec)?.into_iter().map(|(_, ip, _)| ip).collect())
    }

    /// Of one interface, or of all for 0: interface, address and prefix.
    fn addresses_of(&self, index: u32, family: AddressFamily) -> io::Result<Vec<(u32, IpAddr, u8)>> {
        let mut found = Vec::new();
        let mut wanted = AddressMessage::default();
        (wanted.header.index, wanted.header.family) = (index, family);
        let dumped = match self.dump(RouteNetlinkMessage::GetAddress(wanted)) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(found),
            dumped => dumped?,
        };
        for message in dumped {
            let RouteNetlinkMessage::NewAddress(address) = message else { continue };
            let of = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Local(ip) => Some((0, *ip)),
                // The other end's, unless there is no other.
                AddressAttribute::Address(ip) => Some((1, *ip)),
                _ => None,
            };
            if let Some((_, ip)) = address.attributes.iter().filter_map(of).min_by_key(|(order, _)| *order) {
                found.push((address.header.index, ip, address.header.prefix_len));
            }
        }
        Ok(found)
    }

    /// Whose addresses were put on an interface for good ([`crate::Change::neighbour`]).
    pub fn neighbours(&self, index: u32) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
            let RouteNetlinkMessage::NewNeighbour(neighbour) = message else { continue };
            if neighbour.header.ifindex != index || neighbour.header.state != NeighbourState::Permanent {
                continue;
            }
            found.extend(neighbour.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
                _ => None,
            }));
        }
        Ok(found)
    }

    pub fn remove_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = crate::route::family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        self.call(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// An intermediate functional block: what is sent to it is queued and goes on where it came from.
    pub fn add_ifb(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        ];
        self.call(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.change(index, vec![LinkAttribute::Mtu(mtu)])
    }

    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.change(index, vec![LinkAttribute::Address(mac.to_vec())])
    }

    pub fn set_promiscuous(&self, index: u32, on: bool) -> io::Result<()> {
        self.switch(index, LinkFlags::Promisc, on)
    }

    /// Whether it takes what is sent to any group.
    pub fn set_all_multicast(&self, index: u32, on: bool) -> io::Result<()> {
        self.switch(index, LinkFlags::Allmulti, on)
    }

    /// In packets.
    pub fn set_queue_length(&self, index: u32, length: u32) -> io::Result<()> {
        self.change(index, vec![LinkAttribute::TxQueueLen(length)])
    }

    fn switch(&self, index: u32, flag: LinkFlags, on: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = if on { flag } else { LinkFlags::empty() };
        link.header.change_mask = flag;
        self.call(RouteNetlinkMessage::SetLink(link), 0)
    }

    fn change(&self, index: u32, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = attributes;
        self.call(RouteNetlinkMessage::SetLink(link), 0)
    }
}
