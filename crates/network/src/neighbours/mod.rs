//! Others who write rules on this machine: firewalls, Docker, kube-proxy. Their tables are read, never changed; where one
//! of them would stop pods' packets, it is said which and how its owner lets them pass. Accepting a packet in a chain
//! of our own would not help: every chain that the kernel calls must let it pass (nft(8), verdicts).

mod advice;
mod bridged;
pub(crate) mod legacy;
mod packet;
mod registers;
mod scene;
#[cfg(test)]
mod tests;
mod walk;
mod xt;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use berth_netlink::nft::{Base, ChainName, Element, Reader, Rule};
use berth_netlink::{Link, Routes};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::packet::Interface;
use self::scene::{Scene, blocked};
use self::walk::Tables;
use crate::{NetworkError, names, step};

pub use self::bridged::{Bridged, PodNetwork, bridges};
pub use self::scene::Traffic;

/// Beside a family's number: the chain is of iptables-legacy, which nf_tables does not know. Of ours alone.
const LEGACY: u8 = 0x80;

/// Somewhere on the Internet. Rules are compared with it; nothing is ever sent there.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(151, 101, 2, 132)),
    IpAddr::V6(Ipv6Addr::new(0x2a04, 0x4e42, 0x600, 0, 0, 0, 0, 0x644)),
];
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-ip";
/// The tables are read again at most so often, and not more than a fiftieth of the time is spent with it.
const PAUSE: Duration = Duration::from_secs(1);
const SHARE: u32 = 50;
/// The kernel tells of no change to iptables-legacy: where it is in use, it is read so often.
const STALE: Duration = Duration::from_secs(10);

/// Traffic of pods that another's rules stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub traffic: Traffic,
    /// The one that leads to the pods; without one, the interfaces that do.
    #[serde(default)]
    pub bridge: String,
    /// The same in words.
    #[serde(default)]
    pub way: String,
    /// 4 or 6.
    pub ip_version: u8,
    /// False: it may be stopped, depending on what is not known beforehand.
    pub sure: bool,
    /// Chain, and policy or rule.
    pub by: String,
    /// What root would type to let it pass.
    pub allow: String,
}

impl Finding {
    /// Without what would help.
    pub fn what(&self) -> String {
        let is = if self.sure { "is" } else { "may be" };
        let Self { ip_version, way, by, .. } = self;
        format!("IPv{ip_version} {} on {way} {is} stopped by {by}", self.traffic.words())
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; to let it pass: {}", self.what(), self.allow)
    }
}

/// What was found, and of which state of the tables.
#[derive(Debug, Clone)]
struct Seen {
    generation: u32,
    scene: String,
    at: Instant,
    took: Duration,
    findings: Vec<Finding>,
}

/// Looks at the rules of others when asked, and remembers what it saw until they change.
#[derive(Debug, Default)]
pub struct Neighbours {
    seen: Mutex<Option<Seen>>,
}

struct Source {
    reader: Reader,
    legacy: BTreeMap<ChainName, Vec<Rule>>,
    /// Each chain is read once for all packets.
    read: Mutex<BTreeMap<ChainName, Vec<Rule>>>,
}

impl Tables for Source {
    fn rules(&self, of: &ChainName) -> io::Result<Vec<Rule>> {
        if of.family & LEGACY != 0 {
            return Ok(self.legacy.get(of).cloned().unwrap_or_default());
        }
        if let Some(known) = self.read.lock().get(of) {
            return Ok(known.clone());
        }
        let rules = self.reader.rules(of)?;
        self.read.lock().insert(of.clone(), rules.clone());
        Ok(rules)
    }

    fn element(&self, of: &ChainName, set: &str, key: &[u8]) -> io::Result<Element> {
        self.reader.element(of, set, key)
    }
}

fn read_failed(source: io::Error) -> NetworkError {
    step("read the rules of others")(source)
}

impl Neighbours {
    /// What stops packets of these bridges' pods. Blocking, and cheap where no table changed since the last time, or that was
    /// a moment ago: one question to the kernel for the tables, a few for links and routes.
    pub fn look(&self, bridges: &[Bridged]) -> Result<Vec<Finding>, NetworkError> {
        let (reader, scenes) = open(bridges)?;
        let generation = reader.generation().map_err(read_failed)?;
        let legacy = legacy::in_use();
        let scene = format!("{scenes:?} {legacy}");
        if let Some(seen) = &*self.seen.lock() {
            let same = seen.generation == generation && seen.scene == scene;
            let same = same && (!legacy || seen.at.elapsed() < STALE);
            if same || seen.at.elapsed() < PAUSE.max(seen.took * SHARE) {
                return Ok(seen.findings.clone());
            }
        }
        let begun = Instant::now();
        let read = findings(reader, &scenes);
        let found = read.as_ref().map(Vec::clone).unwrap_or_default();
        let took = begun.elapsed();
        let now = Seen { generation, scene, at: Instant::now(), took, findings: found };
        // Also where they could not be read: that is told once for each state of the tables.
        let before = self.seen.lock().replace(now);
        let findings = read.map_err(read_failed)?;
        let before = before.map(|seen| seen.findings).unwrap_or_default();
        for new in findings.iter().filter(|finding| !before.contains(finding)) {
            tracing::warn!("{new}");
        }
        tracing::debug!(?took, findings = findings.len(), "the rules of others were read");
        Ok(findings)
    }
}

/// The same at this very moment, for a person who just changed something.
pub fn look_now(bridges: &[Bridged]) -> Result<Vec<Finding>, NetworkError> {
    let (reader, scenes) = open(bridges)?;
    findings(reader, &scenes).map_err(read_failed)
}

fn open(bridges: &[Bridged]) -> Result<(Reader, Vec<Scene>), NetworkError> {
    let opened = || -> io::Result<_> {
        let (reader, routes) = (Reader::open()?, Routes::open()?);
        Ok((reader, scenes(&routes, bridges)?))
    };
    opened().map_err(read_failed)
}

/// The interface of the default route and the machine's address there.
pub(crate) fn uplink(routes: &Routes, v6: bool) -> io::Result<Option<(Link, IpAddr)>> {
    let default = routes.paths(v6)?.into_iter().find(|path| path.prefix == 0 && path.interface != 0);
    let Some(route) = default else { return Ok(None) };
    let Some(link) = routes.link_at(route.interface)? else { return Ok(None) };
    let own = routes.addresses(route.interface)?.into_iter().map(|(ip, _)| ip);
    let mut own = own.filter(|ip| ip.is_ipv6() == v6);
    let own = own.find(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    Ok(own.map(|own| (link, own)))
}

/// One for each IP version that pods of a bridge have.
fn scenes(routes: &Routes, bridges: &[Bridged]) -> io::Result<Vec<Scene>> {
    let interface = |link: Link| Interface { name: link.name, index: link.index };
    let mut uplinks = Vec::new();
    for v6 in [false, true] {
        uplinks.push(uplink(routes, v6)?.map(|(link, own)| (interface(link), own)));
    }
    let mut scenes = Vec::new();
    for Bridged { name, networks, other } in bridges {
        let known = |name: &String| -> io::Result<Interface> {
            Ok(Interface { name: name.clone(), index: routes.index(name)?.unwrap_or(0) })
        };
        let (bridge, other) = (known(name)?, other.as_ref().map(known).transpose()?);
        for network in networks {
            let v6 = network.pod.is_ipv6();
            let called = std::fs::read_to_string(format!("{BRIDGED}{}tables", if v6 { "6" } else { "" }));
            scenes.push(Scene {
                bridge: bridge.clone(),
                other: other.clone(),
                gateway: network.gateway,
                pod: network.pod,
                other_pod: network.other,
                uplink: uplinks[usize::from(v6)].clone(),
                outside: OUTSIDE[usize::from(v6)],
                bridged_is_filtered: called.is_ok_and(|text| text.trim() == "1"),
            });
        }
    }
    Ok(scenes)
}

fn findings(reader: Reader, scenes: &[Scene]) -> io::Result<Vec<Finding>> {
    let (mut bases, mut chains) = reader.chains()?;
    let legacy = legacy::read()?;
    chains.extend(legacy.chains.keys().cloned());
    bases.extend(legacy.bases);
    bases.sort_by_key(|base: &Base| base.priority);
    // What an instance of ours drops, its settings ask for.
    bases.retain(|base| !names::is_table(&base.name.table));
    let source = Source { reader, legacy: legacy.chains, read: Mutex::default() };
    let mut found = Vec::new();
    for scene in scenes {
        for traffic in Traffic::ALL {
            if let Some((block, stage)) = blocked(&source, &bases, scene.stages(traffic))? {
                found.push(Finding {
                    traffic,
                    bridge: scene.interfaces('*'),
                    way: scene.way(),
                    ip_version: if stage.packet.is_ipv6() { 6 } else { 4 },
                    sure: block.sure,
                    by: advice::cause(&block),
                    allow: advice::allow(&block, &stage, &chains, scene),
                });
            }
        }
    }
    Ok(found)
}
