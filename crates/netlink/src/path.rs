//! Where packets are led, and whether the next one on the way is there.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

use crate::change::neighbour;
use crate::route::family;
use crate::{Change, Routes};

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    pub destination: IpAddr,
    pub prefix: u8,
    /// `None`: whoever is there is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The number of the interface it leaves by; 0 for none.
    pub interface: u32,
}

/// What is known of a neighbour's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Asked for, or not at all.
    Unknown,
    /// Nobody answered.
    Failed,
    /// It answered a moment ago, or a while ago and was not asked since.
    Answered { lately: bool },
    /// Set by hand, or none is needed.
    Fixed,
}

impl Routes {
    /// Of one IP version, to one destination each.
    pub fn paths(&self, v6: bool) -> io::Result<Vec<Path>> {
        let any = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family(any);
        let address = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
            RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
            _ => None,
        };
        let mut found = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetRoute(wanted))? {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            let header = &route.header;
            if (header.address_family, header.table, header.kind)
                != (family(any), RouteHeader::RT_TABLE_MAIN, RouteType::Unicast)
            {
                continue;
            }
            let prefix = header.destination_prefix_length;
            let mut path = Path { destination: any, prefix, gateway: None, interface: 0 };
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(to) => path.destination = address(to).unwrap_or(any),
                    RouteAttribute::Gateway(by) => path.gateway = address(by),
                    RouteAttribute::Oif(index) => path.interface = *index,
                    _ => {}
                }
            }
            found.push(path);
        }
        Ok(found)
    }

    /// How far the kernel has come with a neighbour.
    pub fn neighbour(&self, ip: IpAddr, interface: u32) -> io::Result<Reach> {
        let wanted = neighbour(interface, ip);
        let mut all = NeighbourMessage::default();
        all.header.family = wanted.header.family;
        for message in self.dump(RouteNetlinkMessage::GetNeighbour(all))? {
            let RouteNetlinkMessage::NewNeighbour(found) = message else { continue };
            if found.header.ifindex != interface || !found.attributes.contains(&wanted.attributes[0]) {
                continue;
            }
            return Ok(match found.header.state {
                NeighbourState::Permanent | NeighbourState::Noarp => Reach::Fixed,
                NeighbourState::Reachable => Reach::Answered { lately: true },
                NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
                    Reach::Answered { lately: false }
                }
                NeighbourState::Failed => Reach::Failed,
                _ => Reach::Unknown,
            });
        }
        Ok(Reach::Unknown)
    }

    /// It is asked for again when a packet goes there. Idempotent.
    pub fn forget_neighbour(&self, ip: IpAddr, interface: u32) -> io::Result<()> {
        match self.apply([Change::no_neighbour(interface, ip)]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
