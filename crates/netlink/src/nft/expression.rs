//! The expressions of a rule, one function for each that ours are made of.

use crate::attributes::Attributes;

/// Registers by four bytes (NFT_REG32_00 and on).
pub(super) const FIRST: u32 = 8;

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const META_OIFNAME: u32 = 7;
const META_IIFNAME: u32 = 6;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
/// IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const DST_NAT: u32 = 1 << 5;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const LESS: u32 = 2;
/// Where an error of ICMPv6 quotes source and destination of the packet it is about, behind its own eight bytes (RFC 4443, 3).
const QUOTED6: [u32; 2] = [8 + 8, 8 + 24];
/// IFNAMSIZ: a name is compared with its padding.
const INTERFACE: usize = 16;

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn meta(key: u32, register: u32) -> Attributes {
    expression("meta", Attributes::default().number(1, register).number(2, key))
}

fn compare(how: u32, bytes: &[u8]) -> Attributes {
    expression("cmp", Attributes::default().number(1, FIRST).number(2, how).nested(3, value(bytes)))
}

fn payload(base: u32, offset: u32, length: u32, register: u32) -> Attributes {
    let what = Attributes::default().number(1, register).number(2, base).number(3, offset).number(4, length);
    expression("payload", what)
}

/// An IP version: its number for netfilter and where its header has what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) number: u8,
    pub(super) length: u32,
    source: u32,
    destination: u32,
}

pub(super) const V4: Family = Family { number: NFPROTO_IPV4, length: 4, source: 12, destination: 16 };
pub(super) const V6: Family = Family { number: NFPROTO_IPV6, length: 16, source: 8, destination: 24 };

impl Family {
    pub(super) fn is(self) -> Vec<Attributes> {
        vec![meta(META_NFPROTO, FIRST), compare(EQUAL, &[self.number])]
    }

    pub(super) fn source(self) -> Attributes {
        payload(NETWORK, self.source, self.length, FIRST)
    }

    pub(super) fn destination(self) -> Attributes {
        payload(NETWORK, self.destination, self.length, FIRST)
    }

    /// Source and destination, one behind the other.
    pub(super) fn ends(self) -> Vec<Attributes> {
        let next = FIRST + self.length / 4;
        vec![self.source(), payload(NETWORK, self.destination, self.length, next)]
    }

    pub(super) fn goes_to(self, address: &[u8]) -> Vec<Attributes> {
        vec![self.destination(), compare(EQUAL, address)]
    }

    pub(super) fn comes_from(self, address: &[u8]) -> Vec<Attributes> {
        vec![self.source(), compare(EQUAL, address)]
    }

    /// Writes another source and destination into the packet, and mends the transport's checksum. No connection of the
    /// kernel's is asked: whoever looks at the packet later sees it as if it had been sent so.
    pub(super) fn readdress(self, address: &[u8]) -> Vec<Attributes> {
        const PSEUDO_HEADER: u32 = 1;
        let write = |offset| {
            let what = Attributes::default()
                .number(2, NETWORK)
                .number(3, offset)
                .number(4, self.length)
                .number(5, FIRST)
                .number(6, 0)
                .number(7, 0)
                .number(8, PSEUDO_HEADER);
            expression("payload", what)
        };
        vec![load(address, FIRST), write(self.source), write(self.destination)]
    }

    /// "It is an error about a packet from this address to itself" (ICMPv6; RFC 4443, 2.1: its types are below 128).
    pub(super) fn quotes(self, address: &[u8]) -> Vec<Attributes> {
        const ICMPV6: u8 = 58;
        let is_error = [payload(TRANSPORT, 0, 1, FIRST), compare(LESS, &[128])];
        let quoted = QUOTED6.map(|at| [payload(TRANSPORT, at, self.length, FIRST), compare(EQUAL, address)]);
        is_protocol(ICMPV6).into_iter().chain(is_error).chain(quoted.into_iter().flatten()).collect()
    }

    /// Writes another source and destination into the packet that an error is about: by these its sender is found.
    pub(super) fn requote(self, address: &[u8]) -> Vec<Attributes> {
        // The sum over all of the message is two bytes behind its beginning.
        const INTERNET_SUM: u32 = 1;
        let write = |offset| {
            let what = Attributes::default()
                .number(2, TRANSPORT)
                .number(3, offset)
                .number(4, self.length)
                .number(5, FIRST)
                .number(6, INTERNET_SUM)
                .number(7, 2)
                .number(8, 0);
            expression("payload", what)
        };
        std::iter::once(load(address, FIRST)).chain(QUOTED6.map(write)).collect()
    }

    /// Protocol and destination port, behind `after` bytes of a key.
    pub(super) fn service(after: u32) -> [Attributes; 2] {
        let register = FIRST + after / 4;
        [meta(META_L4PROTO, register), payload(TRANSPORT, 2, 2, register + 1)]
    }

    /// Sends to the address and port that a map put into the registers.
    pub(super) fn forward(self) -> Attributes {
        const DESTINATION: u32 = 1;
        let what = Attributes::default()
            .number(1, DESTINATION)
            .number(2, u32::from(self.number))
            .number(3, FIRST)
            .number(5, FIRST + self.length / 4);
        expression("nat", what)
    }
}

/// Puts bytes into the registers from `register` on.
pub(super) fn load(bytes: &[u8], register: u32) -> Attributes {
    expression("immediate", Attributes::default().number(1, register).nested(2, value(bytes)))
}

/// "It begins a connection, or goes the way its first packet went."
pub(super) fn is_original() -> Vec<Attributes> {
    const DIRECTION: u32 = 1;
    let direction = expression("ct", Attributes::default().number(1, FIRST).number(2, DIRECTION));
    vec![direction, compare(EQUAL, &[0])]
}

/// "From 127.0.0.0/8."
pub(super) fn from_loopback4() -> Vec<Attributes> {
    vec![payload(NETWORK, V4.source, 1, FIRST), compare(EQUAL, &[127])]
}

/// "To 127.0.0.0/8."
pub(super) fn to_loopback4() -> Vec<Attributes> {
    vec![payload(NETWORK, V4.destination, 1, FIRST), compare(EQUAL, &[127])]
}

/// An interface's name as sets have it.
pub(super) fn link(name: &str) -> Vec<u8> {
    let mut padded = vec![0; INTERFACE];
    let length = name.len().min(INTERFACE - 1);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    padded
}

/// "It comes by an interface of the set."
pub(super) fn comes_by(set: &str, id: u32) -> Vec<Attributes> {
    vec![meta(META_IIFNAME, FIRST), among(set, id, false)]
}

/// "It leaves by an interface (not) of the set."
pub(super) fn leaves_by(set: &str, id: u32, not: bool) -> Vec<Attributes> {
    vec![meta(META_OIFNAME, FIRST), among(set, id, not)]
}

/// "The interfaces it comes and leaves by are in the set as a pair."
pub(super) fn goes_between(set: &str, id: u32) -> Vec<Attributes> {
    let next = FIRST + INTERFACE as u32 / 4;
    vec![meta(META_IIFNAME, FIRST), meta(META_OIFNAME, next), among(set, id, false)]
}

/// "It is of this transport protocol."
pub(super) fn is_protocol(number: u8) -> Vec<Attributes> {
    vec![meta(META_L4PROTO, FIRST), compare(EQUAL, &[number])]
}

/// Ends a TCP connection by RST, anything else by "administratively prohibited".
pub(super) fn reject(protocol: u8) -> Attributes {
    const RESET: u32 = 1;
    const ICMPX: u32 = 2;
    const PROHIBITED: u8 = 3;
    const TCP: u8 = 6;
    let what = match protocol {
        TCP => Attributes::default().number(1, RESET),
        _ => Attributes::default().number(1, ICMPX).bytes(2, &[PROHIBITED]),
    };
    expression("reject", what)
}

/// "The destination is an address of this machine."
pub(super) fn to_this_machine() -> Vec<Attributes> {
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    /// RTN_LOCAL of linux/rtnetlink.h, in the machine's order.
    const LOCAL: u32 = 2;
    let what = Attributes::default().number(1, FIRST).number(2, ADDRESS_TYPE).number(3, OF_DESTINATION);
    vec![expression("fib", what), compare(EQUAL, &LOCAL.to_ne_bytes())]
}

/// "The destination was changed by a rule of this machine."
pub(super) fn was_forwarded() -> Vec<Attributes> {
    let mask = Attributes::default()
        .number(1, FIRST)
        .number(2, FIRST)
        .number(3, 4)
        .nested(4, value(&DST_NAT.to_ne_bytes()))
        .nested(5, value(&[0; 4]));
    vec![
        expression("ct", Attributes::default().number(1, FIRST).number(2, CT_STATUS)),
        expression("bitwise", mask),
        compare(NOT_EQUAL, &[0; 4]),
    ]
}

/// "What is in the registers is (not) in the set."
pub(super) fn among(set: &str, id: u32, not: bool) -> Attributes {
    let what = Attributes::default().text(1, set).number(2, FIRST).number(4, id).number(5, u32::from(not));
    expression("lookup", what)
}

/// What the map says of what is in the registers, put there in its place; nothing said ends the rule.
pub(super) fn mapped(map: &str, id: u32) -> Attributes {
    expression("lookup", Attributes::default().text(1, map).number(2, FIRST).number(3, FIRST).number(4, id))
}

pub(super) fn masquerade() -> Attributes {
    expression("masq", Attributes::default())
}

/// Ends with the chain's hook: chains of others may still drop the packet.
pub(super) fn accept() -> Attributes {
    verdict(1)
}

pub(super) fn drop() -> Attributes {
    verdict(0)
}

/// NF_DROP or NF_ACCEPT of linux/netfilter.h.
fn verdict(number: u32) -> Attributes {
    const VERDICT_REGISTER: u32 = 0;
    let verdict = Attributes::default().nested(2, Attributes::default().number(1, number));
    expression("immediate", Attributes::default().number(1, VERDICT_REGISTER).nested(2, verdict))
}
