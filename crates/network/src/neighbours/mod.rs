//! Others who write rules on this machine: firewalls, Docker, kube-proxy. Their tables are read, never changed; where one
//! of them would stop pods' packets, it is said which and how its owner lets them pass. Accepting a packet in a chain
//! of our own would not help: every chain that the kernel calls must let it pass (nft(8), verdicts).

mod advice;
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

use berth_netlink::Routes;
use berth_netlink::nft::{Base, ChainName, Element, Reader, Rule};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::packet::Interface;
use self::scene::{Scene, blocked};
use self::walk::Tables;
use crate::{Network, NetworkError, Subnet, step};

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
        format!("IPv{} {} {is} stopped by {}", self.ip_version, self.traffic.words(), self.by)
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
    /// What stops pods' packets. Blocking, and cheap where no table changed since the last time, or that was a moment ago: one
    /// question to the kernel for the tables, a few for links and routes.
    pub fn look(&self, network: &Network) -> Result<Vec<Finding>, NetworkError> {
        self.look_unless(network, |seen| seen.at.elapsed() < PAUSE.max(seen.took * SHARE))
    }

    /// The same at this very moment, for a person who just changed something.
    pub fn look_now(&self, network: &Network) -> Result<Vec<Finding>, NetworkError> {
        self.look_unless(network, |_| false)
    }

    fn look_unless(
        &self,
        network: &Network,
        fresh: impl FnOnce(&Seen) -> bool,
    ) -> Result<Vec<Finding>, NetworkError> {
        let reader = Reader::open().map_err(read_failed)?;
        let generation = reader.generation().map_err(read_failed)?;
        let routes = Routes::open().map_err(read_failed)?;
        let scenes = scenes(&routes, network.bridge(), &network.subnets()).map_err(read_failed)?;
        let legacy = legacy::in_use();
        let scene = format!("{scenes:?} {legacy}");
        if let Some(seen) = &*self.seen.lock() {
            let same = seen.generation == generation && seen.scene == scene;
            let same = same && (!legacy || seen.at.elapsed() < STALE);
            if same || fresh(seen) {
                return Ok(seen.findings.clone());
            }
        }
        let begun = Instant::now();
        let findings = findings(reader, &scenes).map_err(read_failed)?;
        let mut seen = self.seen.lock();
        let before = seen.as_ref().map(|seen| seen.findings.as_slice()).unwrap_or_default();
        for new in findings.iter().filter(|finding| !before.contains(finding)) {
            tracing::warn!("{new}");
        }
        let took = begun.elapsed();
        tracing::debug!(?took, findings = findings.len(), "the rules of others were read");
        let at = Instant::now();
        *seen = Some(Seen { generation, scene, at, took, findings: findings.clone() });
        Ok(findings)
    }
}

/// One for each IP version that pods have.
fn scenes(routes: &Routes, bridge: &str, subnets: &[Subnet]) -> io::Result<Vec<Scene>> {
    let index = routes.index(bridge)?.unwrap_or(0);
    let bridge = Interface { name: bridge.to_owned(), index };
    let mut scenes = Vec::new();
    for subnet in subnets {
        let v6 = subnet.is_ipv6();
        let default = routes.networks(v6)?.into_iter().find(|r| r.prefix == 0 && r.interface != 0);
        let mut uplink = None;
        if let Some(route) = default
            && let Some(link) = routes.link_at(route.interface)?
        {
            let own = routes.addresses(route.interface)?.into_iter().map(|(ip, _)| ip);
            let own = own.filter(|ip| ip.is_ipv6() == v6).find(|ip| match ip {
                IpAddr::V6(ip) => !ip.is_unicast_link_local(),
                IpAddr::V4(_) => true,
            });
            uplink = own.map(|own| (Interface { name: link.name, index: link.index }, own));
        }
        let called = std::fs::read_to_string(format!("{BRIDGED}{}tables", if v6 { "6" } else { "" }));
        let hosts = subnet.hosts();
        scenes.push(Scene {
            bridge: bridge.clone(),
            gateway: subnet.gateway(),
            pod: subnet.host(hosts.start),
            other_pod: subnet.host(hosts.start + 1),
            uplink,
            outside: OUTSIDE[usize::from(v6)],
            bridged_is_filtered: called.is_ok_and(|text| text.trim() == "1"),
        });
    }
    Ok(scenes)
}

fn findings(reader: Reader, scenes: &[Scene]) -> io::Result<Vec<Finding>> {
    let (mut bases, mut names) = reader.chains()?;
    let legacy = legacy::read()?;
    names.extend(legacy.chains.keys().cloned());
    bases.extend(legacy.bases);
    bases.sort_by_key(|base: &Base| base.priority);
    // What an instance of ours drops, its settings ask for.
    bases.retain(|base| !base.name.table.starts_with("berth"));
    let source = Source { reader, legacy: legacy.chains, read: Mutex::default() };
    let mut found = Vec::new();
    for scene in scenes {
        for traffic in Traffic::ALL {
            if let Some((block, stage)) = blocked(&source, &bases, scene.stages(traffic))? {
                found.push(Finding {
                    traffic,
                    ip_version: if stage.packet.is_ipv6() { 6 } else { 4 },
                    sure: block.sure,
                    by: advice::cause(&block),
                    allow: advice::allow(&block, &stage, &names, &scene.bridge.name),
                });
            }
        }
    }
    Ok(found)
}
