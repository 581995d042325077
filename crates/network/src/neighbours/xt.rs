//! Matches and targets of xtables, whose structs iptables gives the kernel, also where it writes to nf_tables.
//! Layouts: linux/netfilter/xt_*.h.

use super::packet::{Packet, State, TCP};
use super::registers::Answer;

fn half(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*info.get(at..)?.first_chunk()?))
}

fn word(info: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?))
}

/// Whether a packet matches; what is not understood is not decided.
pub(crate) fn matches(packet: &Packet, name: &str, revision: u32, info: &[u8]) -> Answer {
    let answer = match (name, revision) {
        ("comment", _) => Some(Answer::Yes),
        ("conntrack", 2 | 3) => connection(packet, info),
        ("state", 0) => word(info, 0).map(|mask| (mask & tracked(packet) != 0).into()),
        ("addrtype", 1) => address_type(packet, info),
        ("mark", 1) => mark(packet, info),
        ("tcp", 0) => tcp(packet, info),
        ("udp", 0) => ports(packet, info, 8),
        ("multiport", 1) => several(packet, info),
        _ => None,
    };
    answer.unwrap_or(Answer::Perhaps)
}

/// XT_CONNTRACK_STATE_BIT.
fn tracked(packet: &Packet) -> u32 {
    const TRANSLATED: u32 = 1 << 7;
    let state = if packet.state == State::New { 1 << 3 } else { 1 << 1 };
    state | if packet.translated { TRANSLATED } else { 0 }
}

fn connection(packet: &Packet, info: &[u8]) -> Option<Answer> {
    const BY_STATE: u16 = 1;
    let (flags, inverted, states) = (half(info, 146)?, half(info, 148)?, half(info, 150)?);
    if flags != BY_STATE {
        return None;
    }
    let hit = u32::from(states) & tracked(packet) != 0;
    Some((hit != (inverted & BY_STATE != 0)).into())
}

fn address_type(packet: &Packet, info: &[u8]) -> Option<Answer> {
    const NOT_DESTINATION: u32 = 2;
    let (source, destination, flags) = (half(info, 0)?, half(info, 2)?, word(info, 4)?);
    if source != 0 || destination == 0 {
        return None;
    }
    // 1 << RTN_LOCAL, 1 << RTN_UNICAST.
    let own = if packet.local { 1 << 2 } else { 1 << 1 };
    Some((destination & own != 0).into())
        .map(|a: Answer| if flags & NOT_DESTINATION != 0 { a.not() } else { a })
}

fn mark(packet: &Packet, info: &[u8]) -> Option<Answer> {
    let (mark, mask, not) = (word(info, 0)?, word(info, 4)?, *info.get(8)? != 0);
    let own: Option<Vec<u8>> = packet.mark.iter().copied().collect();
    let own = u32::from_ne_bytes(*own?.first_chunk()?);
    Some(((own & mask == mark) != not).into())
}

/// A range of ports that a packet's may be in: of all or, where it is not known, perhaps.
fn within(port: Option<u16>, low: u16, high: u16, not: bool) -> Answer {
    let all = low == 0 && high == u16::MAX;
    match port {
        _ if all => (!not).into(),
        Some(port) => ((low..=high).contains(&port) != not).into(),
        None => Answer::Perhaps,
    }
}

fn ports(packet: &Packet, info: &[u8], inverted: usize) -> Option<Answer> {
    let not = *info.get(inverted)?;
    let source = within(packet.source_port, half(info, 0)?, half(info, 2)?, not & 1 != 0);
    Some(source.and(within(packet.port, half(info, 4)?, half(info, 6)?, not & 2 != 0)))
}

fn tcp(packet: &Packet, info: &[u8]) -> Option<Answer> {
    const NOT_FLAGS: u8 = 4;
    if packet.protocol != TCP {
        return Some(Answer::No);
    }
    let [option, mask, wanted, not] = *info.get(8..)?.first_chunk()?;
    let own = if packet.state == State::New { 0x02 } else { 0x10 };
    let flags = Answer::from((own & mask == wanted) != (not & NOT_FLAGS != 0));
    let with = if option == 0 { Answer::Yes } else { Answer::Perhaps };
    Some(ports(packet, info, 11)?.and(flags).and(with))
}

fn several(packet: &Packet, info: &[u8]) -> Option<Answer> {
    const PORTS: usize = 15;
    let (which, count) = (*info.first()?, usize::from(*info.get(1)?).min(PORTS));
    let port = match which {
        0 => packet.source_port,
        1 => packet.port,
        _ => return None,
    }?;
    let (mut hit, mut at) = (false, 0);
    while at < count {
        let low = half(info, 2 + 2 * at)?;
        // A flag says that the next one is the range's end.
        let range = *info.get(32 + at)? != 0;
        let high = if range { half(info, 4 + 2 * at)? } else { low };
        hit |= (low..=high).contains(&port);
        at += if range { 2 } else { 1 };
    }
    Some((hit != (*info.get(47)? != 0)).into())
}

/// What a target does to a packet that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    Drop,
    Accept,
    /// A program decides.
    Asks,
    GoesOn,
    /// Another mark: the bits of `mask` are cleared, then those of `mark` turned.
    Marks {
        mark: u32,
        mask: u32,
    },
    /// Not understood.
    Something,
}

pub(crate) fn does(name: &str, revision: u32, info: &[u8]) -> Does {
    match (name, revision) {
        ("REJECT" | "TARPIT" | "DROP", _) => Does::Drop,
        ("MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" | "ACCEPT", _) => Does::Accept,
        ("NFQUEUE", _) => Does::Asks,
        ("MARK", 2) => match (word(info, 0), word(info, 4)) {
            (Some(mark), Some(mask)) => Does::Marks { mark, mask },
            _ => Does::Something,
        },
        (
            "LOG" | "NFLOG" | "TCPMSS" | "CONNMARK" | "CHECKSUM" | "CLASSIFY" | "CT" | "TRACE" | "SECMARK"
            | "CONNSECMARK" | "DSCP" | "TOS" | "SET" | "AUDIT" | "TTL" | "HL" | "TEE",
            _,
        ) => Does::GoesOn,
        _ => Does::Something,
    }
}
