//! Changes that can be made together with others in one request ([`crate::Routes::apply`]).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use crate::PortSettings;
use crate::route::family;

/// A pair of connected interfaces, the peer in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    /// Ours, at once.
    pub up: bool,
    /// The bridge that ours is a port of.
    pub master: Option<u32>,
    /// Ours. `None`: the kernel's choice.
    pub mac: Option<[u8; 6]>,
    pub peer: &'a str,
    pub peer_netns: BorrowedFd<'a>,
    /// `None`: the kernel's choice.
    pub peer_mac: Option<[u8; 6]>,
    /// Bytes; 0: the kernel's choice.
    pub mtu: u32,
}

/// A route to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewRoute {
    pub destination: IpAddr,
    pub prefix: u8,
    /// `None`: whoever is there is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The address that is used on the way. `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// The interface's number.
    pub interface: u32,
    /// Bytes.
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    pub priority: Option<u32>,
    /// `None`: the main one.
    pub table: Option<u32>,
    pub scope: Option<u8>,
}

impl NewRoute {
    /// Without anything special.
    pub fn to(interface: u32, destination: IpAddr, prefix: u8) -> Self {
        Self {
            destination,
            prefix,
            gateway: None,
            source: None,
            interface,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Change {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
    /// The refusal that is as good as success.
    pub(crate) forgiven: Option<i32>,
}

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

pub(crate) fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

impl Change {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags, forgiven: None }
    }

    /// That it is there already is as good as making it.
    pub fn or_there(self) -> Self {
        Self { forgiven: Some(nix::libc::EEXIST), ..self }
    }

    /// One change makes the pair, moves the peer, connects ours to the bridge and may set it up.
    pub fn veth(veth: &Veth<'_>) -> Self {
        let mut peer = LinkMessage::default();
        // One queue each, as the kernel leaves it after having made one for each processor, at 0.1 ms for the pair of two.
        let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        // Not up yet: a peer that comes up before the pair is complete is refused (ENOTCONN).
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer.to_owned()),
            LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()),
        ];
        peer.attributes.extend(queues.clone());
        peer.attributes.extend(veth.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        let mut link = LinkMessage::default();
        if veth.up {
            set_up(&mut link);
        }
        link.attributes = vec![LinkAttribute::IfName(veth.name.to_owned())];
        link.attributes.extend(queues);
        link.attributes.extend(veth.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        if veth.mtu > 0 {
            peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
            link.attributes.push(LinkAttribute::Mtu(veth.mtu));
        }
        link.attributes.extend(veth.master.map(LinkAttribute::Controller));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        Self::new(RouteNetlinkMessage::NewLink(link), NEW)
    }

    pub fn up(index: u32) -> Self {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up(&mut link);
        Self::new(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Up, and from then on it tells its neighbours of a new hardware address (`arp_notify`; the kernel looks for that when an
    /// interface comes up and then sets it, so it does not tell them now).
    pub fn up_to_tell(index: u32) -> Self {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up(&mut link);
        let mut tells = InetDevConf::default();
        tells.arp_notify = 1;
        let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(tells)]);
        link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![inet])];
        Self::new(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Settings of a bridge's port, by the interface's name, and up with it.
    pub fn port_up(name: &str, settings: PortSettings) -> Self {
        let data = [
            settings.hairpin.map(InfoBridgePort::HairpinMode),
            settings.isolated.map(InfoBridgePort::Isolated),
            settings.hears_groups.map(InfoBridgePort::MulticastFlood),
        ];
        let mut link = LinkMessage::default();
        set_up(&mut link);
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(data.into_iter().flatten().collect())),
            ]),
        ];
        Self::new(RouteNetlinkMessage::NewLink(link), 0)
    }

    /// Usable at once: nobody else has it, so nobody is asked (RFC 4862, 5.4, is switched off for it).
    pub fn address(index: u32, address: IpAddr, prefix: u8) -> Self {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        match address {
            IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
            // A network of two or one has none (RFC 3021).
            IpAddr::V4(v4) if prefix < 31 => {
                let broadcast = v4 | Ipv4Addr::from_bits(u32::MAX >> prefix);
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
            IpAddr::V4(_) => {}
        }
        Self::new(RouteNetlinkMessage::NewAddress(message), NEW)
    }

    /// Whose address is where on an interface, for good: nobody is asked, and it takes none of the places that the kernel has
    /// for what it found out (`gc_thresh3`, 1024 for all network namespaces together).
    pub fn neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Self {
        let mut message = neighbour(index, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        Self::new(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub fn no_neighbour(index: u32, address: IpAddr) -> Self {
        Self::new(RouteNetlinkMessage::DelNeighbour(neighbour(index, address)), 0)
    }

    pub fn default_route(gateway: IpAddr, index: u32) -> Self {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
        Self::new(RouteNetlinkMessage::NewRoute(message), NEW)
    }

    /// Removes the route that the kernel makes of an address by itself, if there is one.
    pub fn no_network(index: u32, network: IpAddr, prefix: u8) -> Self {
        let mut message = RouteMessage::default();
        message.header.address_family = family(network);
        message.header.destination_prefix_length = prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        // Of any.
        message.header.scope = RouteScope::NoWhere;
        message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::Destination(network.into())];
        Self { forgiven: Some(nix::libc::ESRCH), ..Self::new(RouteNetlinkMessage::DelRoute(message), 0) }
    }

    pub fn route(route: &NewRoute) -> Self {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.destination);
        message.header.destination_prefix_length = route.prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        let usual = if route.gateway.is_some() || route.destination.is_ipv6() { 0 } else { 253 };
        message.header.scope = RouteScope::from(route.scope.unwrap_or(usual));
        message.header.kind = RouteType::Unicast;
        let mut attributes = vec![RouteAttribute::Oif(route.interface)];
        if route.prefix > 0 {
            attributes.push(RouteAttribute::Destination(route.destination.into()));
        }
        attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(route.priority.map(RouteAttribute::Priority));
        attributes.extend(route.table.map(RouteAttribute::Table));
        let metrics: Vec<_> = [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)]
            .into_iter()
            .flatten()
            .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        message.attributes = attributes;
        Self::new(RouteNetlinkMessage::NewRoute(message), NEW)
    }
}
