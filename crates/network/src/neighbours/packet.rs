//! A packet as far as it is known before it is sent: what rules are asked about.

use std::net::IpAddr;

/// Families of linux/netfilter.h.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const NETDEV: u8 = 5;
pub(crate) const BRIDGE: u8 = 7;
pub(crate) const IPV6: u8 = 10;

/// Where on its way a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    PreRouting,
    Input,
    Forward,
    Output,
    PostRouting,
    /// Of an interface, before all others.
    Ingress,
}

impl Hook {
    /// The number in chains of a family.
    pub(crate) fn number(self, family: u8) -> u32 {
        match self {
            Self::PreRouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::PostRouting => 4,
            Self::Ingress if family == NETDEV => 0,
            Self::Ingress => 5,
        }
    }
}

/// Which packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    New,
    /// Of the direction the first packet had, or the other one.
    Established {
        answer: bool,
    },
}

/// An interface: name and index, 0 where it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
}

/// A byte that may not be known.
pub(crate) type Byte = Option<u8>;

#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// IPPROTO_*.
    pub(crate) protocol: u8,
    pub(crate) source_port: Option<u16>,
    pub(crate) port: Option<u16>,
    pub(crate) comes_by: Option<Interface>,
    pub(crate) leaves_by: Option<Interface>,
    pub(crate) state: State,
    /// Its connection's destination was translated.
    pub(crate) translated: bool,
    /// Its destination is an address of this machine.
    pub(crate) local: bool,
    /// As rules before may have written it.
    pub(crate) mark: [Byte; 4],
}

pub(crate) const TCP: u8 = 6;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn known(bytes: &[u8]) -> impl Iterator<Item = Byte> {
    bytes.iter().copied().map(Some)
}

impl Packet {
    pub(crate) fn is_ipv6(&self) -> bool {
        self.from.is_ipv6()
    }

    pub(crate) fn family(&self) -> u8 {
        if self.is_ipv6() { IPV6 } else { IPV4 }
    }

    /// `length` bytes of a header; what is not known of it, or not there, is `None`.
    pub(crate) fn header(&self, base: u32, offset: usize, length: usize) -> Vec<Byte> {
        let whole: Vec<Byte> = match base {
            1 if self.is_ipv6() => {
                let head = [Some(0x60), None, None, None, None, None, Some(self.protocol), None];
                head.into_iter().chain(known(&octets(self.from))).chain(known(&octets(self.to))).collect()
            }
            1 => {
                // No fragment: bytes 6 and 7.
                let head = [Some(0x45), None, None, None, None, None, Some(0), Some(0), None];
                let head = head.into_iter().chain([Some(self.protocol), None, None]);
                head.chain(known(&octets(self.from))).chain(known(&octets(self.to))).collect()
            }
            2 => {
                let port =
                    |port: Option<u16>| port.map_or([None; 2], |port| port.to_be_bytes().map(Some)).to_vec();
                let mut head = [port(self.source_port), port(self.port)].concat();
                if self.protocol == TCP {
                    head.resize(13, None);
                    head.push(Some(if self.state == State::New { 0x02 } else { 0x10 }));
                }
                head
            }
            _ => Vec::new(),
        };
        (offset..offset.saturating_add(length).min(offset + 64))
            .map(|at| whole.get(at).copied().flatten())
            .collect()
    }

    /// NFT_META_*.
    pub(crate) fn meta(&self, key: u32) -> Vec<Byte> {
        let word = |n: u32| known(&n.to_ne_bytes()).collect::<Vec<_>>();
        let index = |interface: &Option<Interface>| match interface {
            Some(Interface { index: 1.., .. }) => word(interface.as_ref().map_or(0, |i| i.index)),
            Some(_) => vec![None; 4],
            None => word(0),
        };
        let name = |interface: &Option<Interface>| {
            let mut padded = [0; 16];
            let name = interface.as_ref().map_or("", |i| &i.name).as_bytes();
            let length = name.len().min(15);
            padded[..length].copy_from_slice(&name[..length]);
            known(&padded).collect()
        };
        match key {
            1 => known(if self.is_ipv6() { &[0x86, 0xdd] } else { &[0x08, 0x00] }).collect(),
            3 => self.mark.to_vec(),
            4 => index(&self.comes_by),
            5 => index(&self.leaves_by),
            6 => name(&self.comes_by),
            7 => name(&self.leaves_by),
            // Ethernet, as bridges, pairs and most uplinks are.
            8 | 9 => known(&1_u16.to_ne_bytes()).collect(),
            15 => vec![Some(self.family())],
            16 => vec![Some(self.protocol)],
            // To this machine's hardware address.
            19 => vec![Some(0)],
            _ => vec![None; 16],
        }
    }

    /// Bits of NFT_CT_STATE.
    pub(crate) fn state_bit(&self) -> u32 {
        if self.state == State::New { 8 } else { 2 }
    }

    /// NFT_CT_*.
    pub(crate) fn connection(&self, key: u32) -> Vec<Byte> {
        const SEEN_REPLY: u32 = 1 << 1;
        const CONFIRMED: u32 = 1 << 3;
        const DESTINATION: u32 = 1 << 5 | 1 << 8;
        match key {
            0 => known(&self.state_bit().to_ne_bytes()).collect(),
            1 => vec![Some(u8::from(self.state == State::Established { answer: true }))],
            2 => {
                let status = if self.state == State::New { 0 } else { SEEN_REPLY | CONFIRMED };
                let status = status | if self.translated { DESTINATION } else { 0 };
                known(&status.to_ne_bytes()).collect()
            }
            // Marks of connections are of who else writes them: none has one yet.
            3 => vec![Some(0); 4],
            _ => vec![None; 16],
        }
    }

    /// What the routes say: of NFT_FIB_RESULT_* and NFTA_FIB_F_*.
    pub(crate) fn routes(&self, result: u32, flags: u32) -> Vec<Byte> {
        const SOURCE: u32 = 1;
        const DESTINATION: u32 = 2;
        const PRESENT: u32 = 32;
        match (result, flags) {
            // The way back to who sends leaves where it came in, else it were no network that works.
            (1 | 2, _) if flags & SOURCE != 0 && flags & PRESENT != 0 => vec![Some(1)],
            (1, _) if flags & SOURCE != 0 => self.meta(4),
            (2, _) if flags & SOURCE != 0 => self.meta(6),
            // RTN_LOCAL and RTN_UNICAST.
            (3, _) if flags & DESTINATION != 0 => {
                known(&(if self.local { 2_u32 } else { 1 }).to_ne_bytes()).collect()
            }
            (3, _) if self.comes_by.is_some() => known(&1_u32.to_ne_bytes()).collect(),
            _ => vec![None; 16],
        }
    }
}
