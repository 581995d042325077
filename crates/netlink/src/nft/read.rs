//! The tables of every owner in a network namespace, as they are.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::SockProtocol;

use super::decode::{Rule, Verdict, number, rule, text, verdict};
use crate::attributes::Attributes;
use crate::attributes::{find as inside, read as attributes};
use crate::socket::{DONE, ERROR, Socket, messages, verdict as acknowledged};

const SUBSYSTEM: u16 = 10;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENT: u16 = 13;
const GET_GENERATION: u16 = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Bytes of one answer. A table that is longer is read by nobody here.
const MOST: usize = 32 * 1024 * 1024;

/// Where a chain is: family (NFPROTO_*), table and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainName {
    pub family: u8,
    pub table: String,
    pub chain: String,
}

/// A chain that the kernel itself calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub name: ChainName,
    /// "filter", "nat" or "route".
    pub kind: String,
    pub hook: u32,
    pub priority: i32,
    /// Of netdev chains.
    pub devices: Vec<String>,
    /// What is not decided is dropped.
    pub drops: bool,
}

/// What a set has of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    Absent,
    Present,
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// Reads; changes nothing. Of the namespace it was opened in.
#[derive(Debug)]
pub struct Reader {
    socket: Socket,
    next: AtomicU32,
}

fn at(name: &ChainName) -> Attributes {
    Attributes::default().text(1, &name.table)
}

impl Reader {
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkNetFilter)?, next: AtomicU32::new(1) })
    }

    /// Asks, and gives the body of every answer with its family.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: Attributes,
    ) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let inner = attributes.encoded().to_vec();
        let mut bytes = ((20 + inner.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(inner);
        self.socket.send(&bytes)?;
        let (mut found, mut length) = (Vec::new(), 0);
        loop {
            let datagram = self.socket.receive()?;
            for (kind, number, body) in messages(&datagram) {
                match kind {
                    _ if number != sequence => {}
                    DONE => return Ok(found),
                    ERROR => return acknowledged(body).map(|()| found),
                    _ => {
                        length += body.len();
                        if let (Some(family), Some(rest)) = (body.first(), body.get(4..))
                            && length <= MOST
                        {
                            found.push((*family, rest.to_vec()));
                        }
                    }
                }
            }
            if length > MOST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
    }

    /// Another one after every change of any table.
    pub fn generation(&self) -> io::Result<u32> {
        let answers = self.ask(GET_GENERATION, ACK, 0, Attributes::default())?;
        let id = answers.first().and_then(|(_, body)| inside(&attributes(body), 1).map(number));
        id.map(|id| id as u32).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Every chain: the base ones, and the names of all.
    pub fn chains(&self) -> io::Result<(Vec<Base>, Vec<ChainName>)> {
        let (mut bases, mut names) = (Vec::new(), Vec::new());
        for (family, body) in self.ask(GET_CHAIN, DUMP, 0, Attributes::default())? {
            let all = attributes(&body);
            let (Some(table), Some(chain)) = (inside(&all, 1), inside(&all, 3)) else { continue };
            let name = ChainName { family, table: text(table), chain: text(chain) };
            names.push(name.clone());
            let Some(hook) = inside(&all, 4).map(attributes) else { continue };
            let (Some(hooked), Some(priority)) = (inside(&hook, 1), inside(&hook, 2)) else { continue };
            let several = inside(&hook, 4).map(attributes).unwrap_or_default();
            let devices = inside(&hook, 3).into_iter().chain(several.iter().map(|(_, name)| *name));
            bases.push(Base {
                name,
                kind: inside(&all, 7).map(text).unwrap_or_default(),
                hook: number(hooked) as u32,
                priority: (number(priority) as u32).cast_signed(),
                devices: devices.map(text).collect(),
                drops: inside(&all, 5).is_some_and(|policy| number(policy) == 0),
            });
        }
        bases.sort_by_key(|base| base.priority);
        Ok((bases, names))
    }

    /// The rules of one chain, in order.
    pub fn rules(&self, of: &ChainName) -> io::Result<Vec<Rule>> {
        let answers = self.ask(GET_RULE, DUMP, of.family, at(of).text(2, &of.chain))?;
        // A kernel that does not know the filter by chain gives the table's: each tells its own.
        let ours = |body: &[u8]| inside(&attributes(body), 2).map(text).as_deref() == Some(&of.chain);
        Ok(answers.iter().filter(|(_, body)| ours(body)).filter_map(|(_, body)| rule(body)).collect())
    }

    /// What a set of the chain's table has of a key that begins `key`; a longer one than the set's is cut.
    pub fn element(&self, of: &ChainName, set: &str, key: &[u8]) -> io::Result<Element> {
        let found = self.ask(GET_SET, ACK, of.family, at(of).text(2, set))?;
        let length = found.first().and_then(|(_, body)| inside(&attributes(body), 5).map(number));
        let key = length.and_then(|length| key.get(..length as usize)).ok_or(io::ErrorKind::InvalidData)?;
        const CATCH_ALL: u32 = 2;
        let by_key = Attributes::default().nested(1, Attributes::default().bytes(1, key));
        for wanted in [by_key, Attributes::default().number(3, CATCH_ALL)] {
            let list = Attributes::default().nested(1, wanted);
            match self.ask(GET_ELEMENT, ACK, of.family, at(of).text(2, set).nested(3, list)) {
                Ok(answers) => return Ok(answers.first().map_or(Element::Absent, |(_, body)| told(body))),
                // ENOENT: not this one. EINVAL: a set that cannot catch the rest.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Element::Absent)
    }
}

impl Reader {
    /// Keys and values of all elements of a set; a value is empty where the set is no map of data.
    pub(super) fn elements(&self, of: &ChainName, set: &str) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        for (_, body) in self.ask(GET_ELEMENT, DUMP, of.family, at(of).text(2, set))? {
            for (_, one) in inside(&attributes(&body), 3).map(attributes).unwrap_or_default() {
                let one = attributes(one);
                let data = |kind| {
                    let data = inside(&one, kind).map(attributes).unwrap_or_default();
                    inside(&data, 1).unwrap_or_default().to_vec()
                };
                found.push((data(1), data(2)));
            }
        }
        Ok(found)
    }
}

fn told(body: &[u8]) -> Element {
    let list = inside(&attributes(body), 3).map(attributes).unwrap_or_default();
    let Some((_, one)) = list.first() else { return Element::Absent };
    let Some(data) = inside(&attributes(one), 2).map(attributes) else { return Element::Present };
    match (inside(&data, 1), inside(&data, 2).and_then(verdict)) {
        (_, Some(verdict)) => Element::Verdict(verdict),
        (Some(value), None) => Element::Value(value.to_vec()),
        (None, None) => Element::Present,
    }
}
