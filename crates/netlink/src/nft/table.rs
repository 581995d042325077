//! The one table an instance has. Its rules never change; pods and their ports are elements of its sets and maps, so
//! that a packet costs the same with one pod and with a thousand.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use super::batch::{Batch, Connection};
use super::expression::{self as on, Family, V4, V6};
use crate::attributes::Attributes;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Hooks of linux/netfilter.h.
const PRE_ROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POST_ROUTING: u32 = 4;
/// Priorities of linux/netfilter_ipv4.h.
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;
/// When a packet's own translation is undone.
const AFTER_NAT: i32 = 150;

/// Elements of one message: its attribute's length has 16 bits.
const ELEMENTS: usize = 400;

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forward {
    /// IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP.
    pub protocol: u8,
    /// `None`: every address of the host.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub to: (IpAddr, u16),
}

/// What the table has of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    pub addresses: Vec<IpAddr>,
    /// What leaves the machine bears the machine's address.
    pub masquerade: bool,
    pub forwards: Vec<Forward>,
}

/// What an instance's table does.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    pub name: &'a str,
    /// The interfaces that lead to pods.
    pub links: &'a [String],
    /// Those of them between which nothing is passed on.
    pub closed: &'a [String],
    /// Pods reach no service of the machine's own but ports that lead to pods.
    pub isolated: bool,
    /// An address of the host's that nobody else uses; it stands for ::1 on the way to a pod. `None`: ports on ::1 lead
    /// nowhere.
    pub loopback6: Option<Ipv6Addr>,
    pub pods: &'a [Pod],
}

/// A set or map: type numbers are those nft(8) shows elements by, six bits each.
#[derive(PartialEq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    id: u32,
    key: (u32, u32),
    value: Option<(u32, u32)>,
}

const ADDRESS4: u32 = 7;
const ADDRESS6: u32 = 8;
const LINK: u32 = 41;
const SERVICE: u32 = 12 << 6 | 13;
const PORT: u32 = 13;

const fn set(name: &'static str, id: u32, key: (u32, u32), value: Option<(u32, u32)>) -> Set {
    Set { name, id, key, value }
}

const TO4: Option<(u32, u32)> = Some((ADDRESS4 << 6 | PORT, 8));
const TO6: Option<(u32, u32)> = Some((ADDRESS6 << 6 | PORT, 20));
const PODS4: Set = set("pods4", 1, (ADDRESS4, 4), None);
const PODS6: Set = set("pods6", 2, (ADDRESS6, 16), None);
const PORTS4: Set = set("ports4", 3, (SERVICE, 8), TO4);
const PORTS6: Set = set("ports6", 4, (SERVICE, 8), TO6);
const BOUND4: Set = set("bound4", 5, (ADDRESS4 << 12 | SERVICE, 12), TO4);
const BOUND6: Set = set("bound6", 6, (ADDRESS6 << 12 | SERVICE, 24), TO6);
const HIDDEN4: Set = set("hidden4", 7, (ADDRESS4, 4), None);
const HIDDEN6: Set = set("hidden6", 8, (ADDRESS6, 16), None);
pub(super) const LINKS: Set = set("links", 9, (LINK, 16), None);
pub(super) const CLOSED: Set = set("closed", 10, (LINK, 16), None);
/// An interface twice: a rule cannot compare by which one a packet came and by which it leaves.
pub(super) const WITHIN: Set = set("within", 11, (LINK << 6 | LINK, 32), None);
/// A pod's address twice, for the same reason.
pub(super) const ITSELF4: Set = set("itself4", 12, (ADDRESS4 << 6 | ADDRESS4, 8), None);
pub(super) const ITSELF6: Set = set("itself6", 13, (ADDRESS6 << 6 | ADDRESS6, 32), None);
pub(super) const SETS: [&Set; 13] = [
    &PODS4, &PODS6, &PORTS4, &PORTS6, &BOUND4, &BOUND6, &HIDDEN4, &HIDDEN6, &LINKS, &CLOSED, &WITHIN,
    &ITSELF4, &ITSELF6,
];
const FAMILIES: [(Family, [&Set; 5]); 2] = [
    (V4, [&PODS4, &PORTS4, &BOUND4, &HIDDEN4, &ITSELF4]),
    (V6, [&PODS6, &PORTS6, &BOUND6, &HIDDEN6, &ITSELF6]),
];

fn named(table: &str) -> Attributes {
    Attributes::default().text(1, table)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Set {
    fn declare(&self, table: &str) -> Attributes {
        const MAP: u32 = 8;
        let flags = if self.value.is_some() { MAP } else { 0 };
        let plain =
            named(table).text(2, self.name).number(3, flags).number(4, self.key.0).number(5, self.key.1);
        let whole = match self.value {
            Some((kind, length)) => plain.number(6, kind).number(7, length),
            None => plain,
        };
        let whole = whole.number(10, self.id);
        match self.key.0 {
            // For nft(8) alone: a name's bytes are in the host's order; else it shows "".
            LINK => {
                let [a, b, c, d] = 1u32.to_ne_bytes();
                whole.bytes(13, &[0, 4, a, b, c, d])
            }
            _ => whole,
        }
    }
}

/// Where an element is, its key and, in a map, its value.
#[derive(Clone, PartialEq)]
pub(super) struct Element {
    pub(super) set: &'static Set,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Element {
    pub(super) fn of_link(name: &str) -> Self {
        Self { set: &LINKS, key: on::link(name), value: Vec::new() }
    }

    /// As that by which a packet comes and leaves.
    fn within(name: &str) -> Self {
        let key = on::link(name);
        Self { set: &WITHIN, key: [key.clone(), key].concat(), value: Vec::new() }
    }
}

impl Pod {
    pub(super) fn elements(&self) -> impl Iterator<Item = Element> {
        let of = |sets: [&'static Set; 2], times: usize| {
            let all = self.addresses.iter().filter(move |_| times != 0);
            all.map(move |address| Element {
                set: if address.is_ipv4() { sets[0] } else { sets[1] },
                key: octets(*address).repeat(times),
                value: Vec::new(),
            })
        };
        of([&PODS4, &PODS6], 1)
            .chain(of([&HIDDEN4, &HIDDEN6], usize::from(self.masquerade)))
            .chain(of([&ITSELF4, &ITSELF6], 2))
            .chain(self.forwards.iter().map(Forward::element))
    }
}

impl Forward {
    fn element(&self) -> Element {
        let mut key = self.address.map(octets).unwrap_or_default();
        // Each part of a key fills whole registers.
        key.extend([self.protocol, 0, 0, 0]);
        key.extend(self.port.to_be_bytes());
        key.extend([0; 2]);
        let mut value = octets(self.to.0);
        value.extend(self.to.1.to_be_bytes());
        value.extend([0; 2]);
        let set = match (self.address.is_some(), self.to.0.is_ipv4()) {
            (false, true) => &PORTS4,
            (false, false) => &PORTS6,
            (true, true) => &BOUND4,
            (true, false) => &BOUND6,
        };
        Element { set, key, value }
    }
}

impl Batch {
    fn pods(&mut self, kind: u16, table: &str, pods: &[Pod]) {
        self.elements(kind, table, || pods.iter().flat_map(Pod::elements));
    }

    fn links(&mut self, kind: u16, table: &str, links: &[String]) {
        let elements = |name: &String| [Element::of_link(name), Element::within(name)];
        self.elements(kind, table, || links.iter().flat_map(elements));
    }

    fn closed(&mut self, table: &str, links: &[String]) {
        let element = |name: &String| Element { set: &CLOSED, key: on::link(name), value: Vec::new() };
        self.elements(NEW_ELEMENT, table, || links.iter().map(element));
    }

    fn elements<I: Iterator<Item = Element>>(&mut self, kind: u16, table: &str, all: impl Fn() -> I) {
        for set in SETS {
            let elements: Vec<Element> = all().filter(|element| element.set.id == set.id).collect();
            for some in elements.chunks(ELEMENTS) {
                let list = some.iter().fold(Attributes::default(), |list, element| {
                    let one = Attributes::default().nested(1, on::value(&element.key));
                    let one = match element.value.is_empty() || kind == DELETE_ELEMENT {
                        true => one,
                        false => one.nested(2, on::value(&element.value)),
                    };
                    list.nested(1, one)
                });
                let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
                self.add(kind, flags, named(table).text(2, set.name).nested(3, list));
            }
        }
    }

    fn chain(&mut self, table: &str, name: &str, kind: &str, hook: u32, priority: i32) {
        let hook = Attributes::default().number(1, hook).number(2, priority.cast_unsigned());
        self.add(NEW_CHAIN, CREATE, named(table).text(3, name).nested(4, hook).text(7, kind));
    }

    /// Ports on ::1. A packet that has it for an address is dropped wherever it comes from but `lo`, so neither it nor its
    /// answer could cross the bridge (Linux: ip6_rcv_core), translated or not. So before the kernel takes it for a connection
    /// it gets the stand-in for both addresses, which is translated like any other of the host's, and the answer gets
    /// ::1 again as the last thing before it reaches its socket. Nobody else may open connections to the stand-in.
    fn loopback6(&mut self, table: &str, stand_in: &[u8]) {
        let localhost = Ipv6Addr::LOCALHOST.octets();
        self.chain(table, "loopback6", "route", OUTPUT, RAW);
        let [protocol, port] = Family::service(V6.length);
        let bound = vec![on::load(stand_in, on::FIRST), protocol, port, on::mapped(BOUND6.name, BOUND6.id)];
        let [protocol, port] = Family::service(0);
        let everywhere = vec![protocol, port, on::mapped(PORTS6.name, PORTS6.id)];
        for lookup in [bound, everywhere] {
            let to_it = V6.goes_to(&localhost);
            self.rule(table, "loopback6", vec![V6.is(), to_it, lookup, V6.readdress(stand_in)]);
        }
        self.chain(table, "guard6", "filter", PRE_ROUTING, MANGLE);
        let begins = vec![V6.is(), V6.goes_to(stand_in), on::is_original(), vec![on::drop()]];
        self.rule(table, "guard6", begins);
        self.chain(table, "answers6", "filter", INPUT, AFTER_NAT);
        let answer = || vec![V6.is(), V6.comes_from(stand_in), V6.goes_to(stand_in)];
        // That nobody listens there is told to the socket that the quoted packet names.
        let error = [V6.quotes(stand_in), V6.requote(&localhost)];
        self.rule(table, "answers6", answer().into_iter().chain(error).collect());
        self.rule(table, "answers6", answer().into_iter().chain([V6.readdress(&localhost)]).collect());
    }

    fn rule(&mut self, table: &str, chain: &str, parts: Vec<Vec<Attributes>>) {
        let list = parts.into_iter().flatten().fold(Attributes::default(), |list, e| list.nested(1, e));
        self.add(NEW_RULE, CREATE | APPEND, named(table).text(2, chain).nested(4, list));
    }
}

/// The nf_tables of the network namespace in which it was first used.
#[derive(Debug, Default)]
pub struct Tables {
    connection: Connection,
}

impl Tables {
    /// Makes or replaces the table in one transaction, with all it shall have: connections go on.
    ///
    /// A port on 127.0.0.1 is reached by translation in the output hook. The packet then leaves by the bridge with a source
    /// that the kernel lets out only with `route_localnet`, so the first chain keeps pods from using that the other way round
    /// (CVE-2020-8558). A relay in user space would do without, but would end with the daemon.
    ///
    /// For ::1 the kernel has no such switch, see [`Batch::loopback6`].
    pub fn install(&self, table: &Table<'_>) -> io::Result<()> {
        let Table { name, links, closed, isolated, loopback6, pods } = table;
        let mut batch = Batch::new();
        // Made so that it can be deleted, deleted so that nothing old is in it.
        batch.add(NEW_TABLE, CREATE, named(name));
        batch.add(DELETE_TABLE, 0, named(name));
        batch.add(NEW_TABLE, CREATE, named(name));
        for set in SETS {
            batch.add(NEW_SET, CREATE, set.declare(name));
        }
        let by_pod = || on::comes_by(LINKS.name, LINKS.id);
        batch.chain(name, "guard", "filter", PRE_ROUTING, RAW);
        batch.rule(name, "guard", vec![V4.is(), by_pod(), on::to_loopback4(), vec![on::drop()]]);
        if let Some(stand_in) = loopback6 {
            batch.loopback6(name, &stand_in.octets());
        }
        batch.chain(name, "prerouting", "nat", PRE_ROUTING, DESTINATION_NAT);
        batch.chain(name, "output", "nat", OUTPUT, DESTINATION_NAT);
        for chain in ["prerouting", "output"] {
            for (family, [_, ports, bound, ..]) in FAMILIES {
                let [protocol, port] = Family::service(family.length);
                let lookup = vec![family.destination(), protocol, port, on::mapped(bound.name, bound.id)];
                batch.rule(name, chain, vec![family.is(), lookup, vec![family.forward()]]);
                let [protocol, port] = Family::service(0);
                let lookup = vec![protocol, port, on::mapped(ports.name, ports.id)];
                let local = on::to_this_machine();
                let parts = vec![family.is(), local, lookup, vec![family.forward()]];
                batch.rule(name, chain, parts);
            }
        }
        let to_pod = |not| on::leaves_by(LINKS.name, LINKS.id, not);
        batch.chain(name, "postrouting", "nat", POST_ROUTING, SOURCE_NAT);
        for (family, [pods, _, _, hidden, itself]) in FAMILIES {
            let mut masquerade = |parts: Vec<Vec<Attributes>>| {
                let parts = std::iter::once(family.is()).chain(parts).chain([vec![on::masquerade()]]);
                batch.rule(name, "postrouting", parts.collect());
            };
            if family == V4 {
                // From the host to itself, and on to a pod.
                masquerade(vec![to_pod(false), on::from_loopback4()]);
            }
            let from_pods = || vec![family.source(), on::among(pods.name, pods.id, false)];
            // From a pod to an address that leads to itself: nobody answers to his own address.
            let ends = family.ends().into_iter().chain([on::among(itself.name, itself.id, false)]);
            masquerade(vec![to_pod(false), on::was_forwarded(), ends.collect()]);
            // From a pod to an address that leads to another one of the same bridge, ours or a Service's: else the answer would
            // take the short way, past who translated. With br_netfilter it does not, and the other pod sees who asks: then the
            // packet stays on the bridge, and here it has come by no interface.
            let within = on::goes_between(WITHIN.name, WITHIN.id);
            masquerade(vec![within, on::was_forwarded(), from_pods()]);
            masquerade(vec![to_pod(true), vec![family.source(), on::among(hidden.name, hidden.id, false)]]);
        }
        if *isolated {
            batch.chain(name, "isolation", "filter", INPUT, FILTER);
            for protocol in [6, 17, 132] {
                let parts = vec![by_pod(), on::is_protocol(protocol), on::is_original()];
                batch.rule(
                    name,
                    "isolation",
                    parts.into_iter().chain([vec![on::reject(protocol)]]).collect(),
                );
            }
        }
        if !closed.is_empty() {
            batch.chain(name, "closed", "filter", FORWARD, FILTER);
            batch.rule(name, "closed", vec![on::goes_between(WITHIN.name, WITHIN.id), vec![on::accept()]]);
            let [from, to] =
                [on::comes_by(CLOSED.name, CLOSED.id), on::leaves_by(CLOSED.name, CLOSED.id, false)];
            batch.rule(name, "closed", vec![from, to, vec![on::drop()]]);
            batch.closed(name, closed);
        }
        batch.links(NEW_ELEMENT, name, links);
        batch.pods(NEW_ELEMENT, name, pods);
        batch.commit(&self.connection)
    }

    /// Adds a pod to an installed table: all of it or nothing.
    pub fn add(&self, table: &str, pod: &Pod) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.pods(NEW_ELEMENT, table, std::slice::from_ref(pod));
        batch.commit(&self.connection)
    }

    /// What a pod has becomes other than it was, in one transaction: nothing that stays is away in between, and nobody waits
    /// until the kernel has cleared what goes, as a second transaction would.
    pub fn change(&self, table: &str, old: &Pod, new: &Pod) -> io::Result<()> {
        let stays = |one: &Element| new.elements().any(|other| other == *one);
        let gone = || old.elements().filter(|one| !stays(one));
        let mut batch = Batch::new();
        batch.elements(DELETE_ELEMENT, table, gone);
        batch.pods(NEW_ELEMENT, table, std::slice::from_ref(new));
        batch.commit(&self.connection)
    }

    /// Removes what is there of a pod. Idempotent; a table that is gone has nothing of it.
    pub fn remove(&self, table: &str, pod: &Pod) -> io::Result<()> {
        let whole = |pod: &Pod| {
            let mut batch = Batch::new();
            batch.pods(DELETE_ELEMENT, table, std::slice::from_ref(pod));
            batch.commit(&self.connection)
        };
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match whole(pod) {
            Err(error) if missing(&error) => {}
            done => return done,
        }
        // Part of it is gone: the rest one by one.
        for one in pod.elements() {
            let mut batch = Batch::new();
            batch.elements(DELETE_ELEMENT, table, || std::iter::once(one.clone()));
            match batch.commit(&self.connection) {
                Err(error) if !missing(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// An interface that leads to pods. Idempotent.
    pub fn add_link(&self, table: &str, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.links(NEW_ELEMENT, table, &[name.to_owned()]);
        batch.commit(&self.connection)
    }

    /// Idempotent.
    pub fn remove_link(&self, table: &str, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.links(DELETE_ELEMENT, table, &[name.to_owned()]);
        match batch.commit(&self.connection) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Removes a table with all that is in it; not there: no error.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.add(DELETE_TABLE, 0, named(name));
        match batch.commit(&self.connection) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
