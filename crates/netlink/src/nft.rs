//! nf_tables by netlink: whole tables in one transaction. The numbers are those of linux/netfilter/nf_tables.h.

use std::io;
use std::net::Ipv4Addr;

use nix::sys::socket::SockProtocol;

use crate::socket::{ERROR, Socket, messages, verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const IPV4: u8 = 2;
const NESTED: u16 = 0x8000;

/// Attributes: length, type, value, padding to four bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// nf_tables counts in network order.
    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn nested(self, kind: u16, inside: Self) -> Self {
        self.bytes(kind | NESTED, &inside.0)
    }
}

/// A transaction being written: all of it happens or nothing.
struct Batch {
    bytes: Vec<u8>,
    next: u32,
    acknowledged: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), next: 1, acknowledged: 0 };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, Attributes::default());
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: Attributes) {
        let length = 16 + 4 + attributes.0.len();
        self.bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.next.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(&attributes.0);
        self.next += 1;
    }

    fn add(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        self.message((SUBSYSTEM << 8) | kind, REQUEST | ACK | flags, IPV4, 0, attributes);
        self.acknowledged += 1;
    }

    /// The first refusal is the answer: the kernel then does nothing of the batch.
    fn commit(mut self) -> io::Result<()> {
        self.message(BATCH_END, REQUEST, 0, SUBSYSTEM, Attributes::default());
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.send(&self.bytes)?;
        let mut answered = 0;
        while answered < self.acknowledged {
            let datagram = socket.receive()?;
            for (kind, _, body) in messages(&datagram) {
                if kind == ERROR {
                    verdict(body)?;
                    answered += 1;
                }
            }
        }
        Ok(())
    }
}

fn table(name: &str) -> Attributes {
    Attributes::default().text(1, name)
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// "The address at this offset of the IPv4 header is (not) in the subnet."
fn in_subnet(offset: u32, subnet: Ipv4Addr, prefix: u8, not: bool) -> Vec<Attributes> {
    const REGISTER: u32 = 1;
    const NETWORK_HEADER: u32 = 1;
    let value = |bytes: [u8; 4]| Attributes::default().bytes(1, &bytes);
    vec![
        expression(
            "payload",
            Attributes::default()
                .number(1, REGISTER)
                .number(2, NETWORK_HEADER)
                .number(3, offset)
                .number(4, 4),
        ),
        expression(
            "bitwise",
            Attributes::default()
                .number(1, REGISTER)
                .number(2, REGISTER)
                .number(3, 4)
                .nested(4, value(mask(prefix).to_be_bytes()))
                .nested(5, value([0; 4])),
        ),
        expression(
            "cmp",
            Attributes::default()
                .number(1, REGISTER)
                .number(2, u32::from(not))
                .nested(3, value(subnet.octets())),
        ),
    ]
}

/// Makes or replaces a table whose one rule gives what leaves the subnet the host's address. The namespace of the
/// calling thread.
pub fn masquerade(name: &str, subnet: Ipv4Addr, prefix: u8) -> io::Result<()> {
    const POST_ROUTING: u32 = 4;
    const SOURCE_NAT: u32 = 100;
    const SOURCE: u32 = 12;
    const DESTINATION: u32 = 16;
    let mut batch = Batch::new();
    // Made so that it can be deleted, deleted so that nothing old is in it.
    batch.add(NEW_TABLE, CREATE, table(name));
    batch.add(DELETE_TABLE, 0, table(name));
    batch.add(NEW_TABLE, CREATE, table(name));
    let hook = Attributes::default().number(1, POST_ROUTING).number(2, SOURCE_NAT);
    let chain = table(name).text(3, "postrouting").nested(4, hook).text(7, "nat");
    batch.add(NEW_CHAIN, CREATE, chain);
    let mut expressions = in_subnet(SOURCE, subnet, prefix, false);
    expressions.extend(in_subnet(DESTINATION, subnet, prefix, true));
    expressions.push(expression("masq", Attributes::default()));
    let list = expressions.into_iter().fold(Attributes::default(), |list, e| list.nested(1, e));
    batch.add(NEW_RULE, CREATE | APPEND, table(name).text(2, "postrouting").nested(4, list));
    batch.commit()
}

/// Removes a table with all that is in it; not there: no error.
pub fn delete(name: &str) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.add(DELETE_TABLE, 0, table(name));
    match batch.commit() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_table_comes_and_goes() {
        let netns = berth_sys::netns::new_netns().unwrap();
        berth_sys::netns::run_in(netns.as_fd(), || {
            masquerade("berth-test", Ipv4Addr::new(10, 1, 0, 0), 16)?;
            masquerade("berth-test", Ipv4Addr::new(10, 2, 0, 0), 16)?;
            delete("berth-test")?;
            delete("berth-test")
        })
        .unwrap();
    }

    #[test]
    fn masks() {
        assert_eq!((mask(0), mask(16), mask(32)), (0, 0xffff_0000, u32::MAX));
    }
}
