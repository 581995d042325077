//! What an instance's table really has, beside what it should have.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::read::{ChainName, Element as Found, Reader};
use super::table::{CLOSED, Element, ITSELF4, ITSELF6, LINKS, Pod, SETS, WITHIN};

/// NFPROTO_INET.
const INET: u8 = 1;
/// What is translated on its way out.
const LAST_CHAIN: &str = "postrouting";

/// One element that the table should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub set: &'static str,
    /// For people: key and, in a map, where it leads.
    pub text: String,
    pub state: HeldState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldState {
    There,
    Missing,
    /// The key leads elsewhere.
    Other(String),
}

/// A table as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Set and text of every element.
    pub elements: BTreeMap<&'static str, Vec<String>>,
    /// Rules of the chain that translates what leaves the machine.
    pub translating: usize,
}

fn at(table: &str) -> ChainName {
    ChainName { family: INET, table: table.to_owned(), chain: LAST_CHAIN.to_owned() }
}

impl Reader {
    /// What the table has of a pod, and of the interface that leads to it alone; all is missing where there is no table.
    pub fn held(&self, table: &str, pod: &Pod, link: Option<&str>) -> io::Result<Vec<Held>> {
        let place = at(table);
        pod.elements()
            .chain(link.map(Element::of_link))
            .map(|element| {
                let found = match self.element(&place, element.set.name, &element.key) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Absent,
                    found => found?,
                };
                let state = match found {
                    Found::Absent => HeldState::Missing,
                    Found::Value(value) if value != element.value => HeldState::Other(place_text(&value)),
                    _ => HeldState::There,
                };
                let set = element.set.name;
                Ok(Held { set, text: text(set, &element.key, &element.value), state })
            })
            .collect()
    }

    /// Whether a table has its rules: not after somebody flushed the ruleset. For whoever asks every few seconds.
    pub fn has_rules(&self, table: &str) -> io::Result<bool> {
        match self.rules(&at(table)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => Ok(!found?.is_empty()),
        }
    }

    /// `None`: there is no such table.
    pub fn standing(&self, table: &str) -> io::Result<Option<Standing>> {
        let mut standing = Standing::default();
        for set in SETS {
            let found = match self.elements(&at(table), set.name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                found => found?,
            };
            let texts = found.iter().map(|(key, value)| text(set.name, key, value));
            standing.elements.insert(set.name, texts.collect());
        }
        standing.translating = self.rules(&at(table))?.len();
        Ok(Some(standing))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn port(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().copied().map_or(0, u16::from_be_bytes)
}

/// The parts of a key fill whole registers: an address, a protocol and a port, or both.
fn text(set: &str, key: &[u8], value: &[u8]) -> String {
    if [LINKS.name, CLOSED.name, WITHIN.name].contains(&set) {
        // Each name is padded to 16 bytes.
        let names =
            key.chunks(16).map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        return names.collect::<Vec<_>>().join(" ");
    }
    let (own, service) = match key.len() {
        4 | 16 => (key, &[][..]),
        // One address twice.
        length if [ITSELF4.name, ITSELF6.name].contains(&set) => (&key[..length / 2], &[][..]),
        length => key.split_at(length.saturating_sub(8)),
    };
    let mut words: Vec<String> = address(own).map(|ip| ip.to_string()).into_iter().collect();
    if let Some(protocol) = service.first() {
        let protocol = match protocol {
            6 => "TCP".to_owned(),
            17 => "UDP".to_owned(),
            132 => "SCTP".to_owned(),
            other => format!("protocol {other}"),
        };
        words.push(format!("{protocol} {}", port(service.get(4..).unwrap_or_default())));
    }
    if !value.is_empty() {
        words.push(format!("to {}", place_text(value)));
    }
    words.join(" ")
}

/// Where an element of a map leads.
fn place_text(value: &[u8]) -> String {
    let (ip, rest) = value.split_at(value.len().saturating_sub(4));
    match address(ip) {
        Some(ip) => std::net::SocketAddr::new(ip, port(rest)).to_string(),
        None => format!("{value:02x?}"),
    }
}
