//! The pods' network without a plugin: one bridge, for each pod a pair of interfaces and an address of each IP
//! version, masquerade, ports of the host.
//!
//! Blocking. What a pod was given is in its [`Attachment`], which the caller keeps and gives back: tear-down needs
//! nothing else, and a restart learns from it which addresses are taken.

mod addresses;
mod check;
mod counters;
mod error;
mod garbage;
mod held;
mod here;
mod host;
mod host_ports;
mod inspect;
mod names;
mod neighbours;
mod plugin;
mod pod_cidr;
mod pods;
mod port;
mod settings;
mod shaping;
mod subnet;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use berth_cni::Bandwidth;
use berth_ids::SandboxId;
use berth_model::PortMapping;
use berth_netlink::{Change, PortSettings, Routes, Veth, nft};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use check::{Outcome, Step, Subject, check_pod};
pub use counters::counters;
pub use error::NetworkError;
pub use held::HeldPorts;
pub use host_ports::HostPort;
pub use inspect::{
    Counters, End, InstanceView, PodView, PortHolder, Recorded, ResolverView, RouteView, RuleView,
    ShapingView, SubnetView, TableView, inspect_pod,
};
pub use neighbours::{Bridged, Finding, Neighbours, PodNetwork, Traffic, bridges, look_now};
pub use plugin::Plugins;
pub use subnet::Subnet;

use crate::addresses::Addresses;
use crate::here::Here;
use crate::pods::{Holds, Pods};
use crate::port::Inside;
use crate::settings::Settings;
use crate::shaping::Limits;
use crate::subnet::Saved;

/// The name of a pod's interface inside the pod, as CNI has it.
const POD_INTERFACE: &str = "eth0";

/// So many pods that have ended are looked after with each that comes.
const LOOKED_AFTER: usize = 2;
/// How long a pod waits for addresses of those that have ended, and how long between two looks: the kernel clears namespaces in
/// some 50 ms.
const CLEARED: Duration = Duration::from_secs(2);
const CLEARING: Duration = Duration::from_millis(10);

/// The number of lo in every namespace (Linux: LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// What an instance's network is made of.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Part of every name, so that instances share nothing.
    pub instance: String,
    /// `None`: derived from the instance.
    pub bridge: Option<String>,
    /// At most one of each IP version. Empty: the first of our own that the host has no route to, one of each.
    pub subnets: Vec<Subnet>,
    /// Bytes. `None`: that of the interface the default route leaves by.
    pub mtu: Option<u32>,
    /// Pods reach no service of the host's own, only ports of it that lead to pods.
    pub isolate_host: bool,
    pub state: PathBuf,
}

/// Who a pod is and what it asks of the network.
#[derive(Debug, Clone, Copy)]
pub struct PodRequest<'a> {
    pub id: &'a SandboxId,
    /// For people: `namespace/name`.
    pub name: &'a str,
    pub ports: &'a [PortMapping],
    pub bandwidth: Option<Bandwidth>,
}

/// What a pod was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub host_interface: String,
    pub bridge: String,
    /// First the primary.
    pub ips: Vec<IpAddr>,
    /// One for each address.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// The interface that what the pod sends waits at, where there is a limit to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifb: Option<String>,
    /// For people: `namespace/name`.
    #[serde(default)]
    pub pod: String,
}

/// A pod in the table.
#[derive(Debug, Clone)]
struct Connected {
    name: String,
    host_ports: Vec<HostPort>,
    rules: nft::Pod,
}

impl Holds for Connected {
    fn host_ports(&self) -> &[HostPort] {
        &self.host_ports
    }
}

/// One instance's network.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    table: String,
    tables: nft::Tables,
    mtu: u32,
    config: NetworkConfig,
    settings: Settings,
    here: Here,
    addresses: Mutex<Addresses>,
    /// The subnets are those that the kubelet named.
    by_kubelet: AtomicBool,
    pods: Mutex<Pods<SandboxId, Connected>>,
    /// Held while the table is changed, so that a table made anew has what is added or removed meanwhile.
    made: Mutex<Made>,
}

/// How it stands with bridge and table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Not looked at since the start, or not as they were left.
    Doubtful,
    Good,
    /// By a reset: they are made for the next pod, not sooner.
    Removed,
}

impl Made {
    fn doubt(&mut self) {
        if *self == Self::Good {
            *self = Self::Doubtful;
        }
    }
}

fn step(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let doing = doing.into();
    move |source| NetworkError::Kernel { doing, source }
}

impl Network {
    fn rules(&self, ips: &[IpAddr], ports: &[HostPort]) -> Result<nft::Pod, NetworkError> {
        let mut forwards = Vec::new();
        for port in ports {
            forwards.extend(port.forwards(ips, names::loopback6(&self.config.instance))?);
        }
        Ok(nft::Pod { addresses: ips.to_vec(), masquerade: true, forwards })
    }

    /// Chooses the subnets, or takes up those chosen before. Makes nothing yet.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let bridge = config.bridge.clone().unwrap_or_else(|| names::bridge(&config.instance));
        let table = names::table(&config.instance);
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        let mtu = match config.mtu {
            Some(given) => given,
            None => host::uplink_mtu(&routes).map_err(step("read the uplink's MTU"))?,
        };
        let (subnets, by_kubelet) = pod_cidr::at_start(&config, &routes)?;
        let addresses = Mutex::new(Addresses::new(&subnets));
        Saved::change(&config.state, |saved| saved.subnets = subnets)?;
        let by_kubelet = AtomicBool::new(by_kubelet);
        let (pods, made) = (Mutex::default(), Mutex::new(Made::Doubtful));
        let (tables, settings) = (nft::Tables::default(), Settings::open());
        let here = Here::open().map_err(step("open the host's network namespace"))?;
        Ok(Self { bridge, table, tables, mtu, config, settings, here, addresses, by_kubelet, pods, made })
    }

    pub fn subnets(&self) -> Vec<Subnet> {
        self.addresses.lock().subnets()
    }

    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Connects a pod. On failure nothing of it is left.
    pub fn attach(&self, pod: PodRequest<'_>, netns: BorrowedFd<'_>) -> Result<Attachment, NetworkError> {
        let id = pod.id;
        let routes = self.here.routes().map_err(step("open a netlink socket"))?;
        let ports = host_ports::wanted(pod.ports);
        let limits = pod.bandwidth.as_ref().map(Limits::new).transpose();
        let limits = limits.map_err(|why| NetworkError::Limits { why })?.flatten();
        for port in &ports {
            port.is_free()?;
        }
        let ips = self.take(id, &routes)?;
        // Held before anything is made, so that a reset sees that the network is in use.
        let made = self
            .hold(pod, &ips, ports)
            .and_then(|()| self.ensure(&routes))
            .and_then(|master| self.connect(pod, &routes, master, &ips, netns))
            .and_then(|attachment| self.limit(pod.id, &routes, limits, attachment))
            .and_then(|attachment| self.publish(id).map(|()| attachment));
        if made.is_err() {
            self.detach(id, None);
            shaping::remove(&routes, &names::ifb(&self.config.instance, id));
            if let Ok(Some(index)) = routes.index(&names::interface(id))
                && let Err(error) = routes.delete_link(index)
            {
                tracing::warn!(sandbox = %id, %error, "a half-made interface stays until the next start");
            }
        }
        self.here.give_back(routes);
        made
    }

    /// Frees addresses of so many pods that have ended where the kernel has cleared them. False: there are none.
    fn look_after(&self, most: usize, routes: &Routes) -> bool {
        let leaving = self.addresses.lock().leaving(most);
        let any = !leaving.is_empty();
        for one in leaving {
            let there = routes.index(&one.interface).map(|index| index.is_some());
            self.addresses.lock().seen(one, there.unwrap_or(true));
        }
        any
    }

    /// Addresses for a pod. Where only those of pods that have ended are left, it waits for the kernel to clear them.
    fn take(&self, id: &SandboxId, routes: &Routes) -> Result<Vec<IpAddr>, NetworkError> {
        let end = Instant::now() + CLEARED;
        let mut most = LOOKED_AFTER;
        loop {
            let waiting = self.look_after(most, routes);
            match self.addresses.lock().take(id) {
                Err(NetworkError::Exhausted { .. }) if waiting && Instant::now() < end => {}
                done => return done,
            }
            if most == usize::MAX {
                std::thread::sleep(CLEARING);
            }
            most = usize::MAX;
        }
    }

    /// Reserves the pod's place and ports: refused when another pod has one of them, or when there are as many as there can be.
    fn hold(&self, pod: PodRequest<'_>, ips: &[IpAddr], ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let rules = self.rules(ips, &ports)?;
        let mut pods = self.pods.lock();
        if pods.len() >= port::PODS && !pods.contains_key(pod.id) {
            return Err(NetworkError::Full { bridge: self.bridge.clone(), pods: port::PODS });
        }
        for port in &ports {
            if let Some((_, holder)) = pods.holder(pod.id, *port) {
                return Err(NetworkError::Taken { port: *port, holder: holder.name.clone() });
            }
            if ports.iter().any(|other| other != port && other.conflicts(*port)) {
                return Err(NetworkError::Taken { port: *port, holder: pod.name.to_owned() });
            }
        }
        let connected = Connected { name: pod.name.to_owned(), host_ports: ports, rules };
        pods.insert(pod.id.clone(), connected);
        Ok(())
    }

    fn connect(
        &self,
        pod: PodRequest<'_>,
        routes: &Routes,
        master: u32,
        ips: &[IpAddr],
        netns: BorrowedFd<'_>,
    ) -> Result<Attachment, NetworkError> {
        let name = names::interface(pod.id);
        let veth = Veth {
            name: &name,
            up: false,
            master: Some(master),
            mac: None,
            peer: POD_INTERFACE,
            peer_netns: netns,
            peer_mac: Some(names::pod_mac(ips)),
            mtu: self.mtu,
        };
        // The host asks nobody for a pod, and no pod for the host: a thousand that do are more than the kernel remembers.
        let neighbours = ips.iter().map(|ip| Change::neighbour(master, *ip, names::pod_mac(ips)));
        // With br_netfilter a pod that asks for its own port of the host is answered by the port it asks by.
        let hairpin = PortSettings { hairpin: Some(true), ..PortSettings::default() };
        port::make(routes, &veth, &self.settings).map_err(|error| match port::is_full(&error) {
            true => NetworkError::Full { bridge: self.bridge.clone(), pods: port::PORTS },
            false => step(format!("make interface {name}"))(error),
        })?;
        let subnets = self.subnets();
        let of = |ip: &IpAddr| subnets.iter().copied().find(|subnet| subnet.contains(*ip));
        let given: Vec<(IpAddr, Subnet)> =
            ips.iter().filter_map(|ip| of(ip).map(|subnet| (*ip, subnet))).collect();
        if given.len() != ips.len() {
            return Err(NetworkError::Gone { what: format!("the network of {ips:?}") });
        }
        let (inside, bridge) = (given.clone(), self.bridge_mac(routes)?);
        let inside = self
            .here
            .visit(netns, || configure(&inside, bridge, &self.settings))
            .map_err(step(format!("configure {POD_INTERFACE} with {ips:?}")))?;
        port::raise(routes, &name, hairpin, neighbours)
            .and_then(|()| port::carry(routes, &name, &inside))
            .map_err(step(format!("set up interface {name}")))?;
        let held = self.pods.lock().get(pod.id).map(|pod| pod.host_ports.clone()).unwrap_or_default();
        Ok(Attachment {
            host_interface: name,
            bridge: self.bridge.clone(),
            ips: ips.to_vec(),
            gateways: given.iter().map(|(_, subnet)| subnet.gateway()).collect(),
            host_ports: held,
            ifb: None,
            pod: pod.name.to_owned(),
        })
    }

    fn limit(
        &self,
        id: &SandboxId,
        routes: &Routes,
        limits: Option<Limits>,
        attachment: Attachment,
    ) -> Result<Attachment, NetworkError> {
        let Some(limits) = limits else { return Ok(attachment) };
        let name = &attachment.host_interface;
        let limiting = || step(format!("limit what {name} sends and receives"));
        let gone = || NetworkError::Gone { what: name.clone() };
        let host = routes.link(name).map_err(limiting())?.ok_or_else(gone)?;
        let ifb = shaping::apply(routes, &host, &limits, &names::ifb(&self.config.instance, id))
            .map_err(limiting())?;
        Ok(Attachment { ifb: ifb.map(|link| link.name), ..attachment })
    }

    /// Puts a pod that is held into the table. A table that somebody flushed is made anew.
    fn publish(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let Some(pod) = self.pods.lock().get(id).cloned() else { return Ok(()) };
        let added = {
            let _changing = self.made.lock();
            self.tables.add(&self.table, &pod.rules)
        };
        if let Err(error) = added {
            tracing::warn!(%error, table = self.table, "the table is not as it was left; it is made anew");
            self.made.lock().doubt();
            self.ensure(&Routes::open().map_err(step("open a netlink socket"))?)?;
        }
        host_ports::forget_flows(&pod.name, &pod.rules.addresses, &pod.host_ports);
        Ok(())
    }

    /// Gives back what a pod was given; `attachment` is for one that is not known any more. The interfaces go with the
    /// pod's namespace, which is about to end: deleting them would wait for the kernel. Idempotent, and never in the way of
    /// a pod's end: a table that refuses is made anew for the next pod.
    pub fn detach(&self, id: &SandboxId, attachment: Option<&Attachment>) {
        let held = self.pods.lock().remove(id);
        if let Some(pod) = held.or_else(|| self.only_recorded(id, attachment?)) {
            let mut made = self.made.lock();
            if let Err(error) = self.tables.remove(&self.table, &pod.rules) {
                tracing::warn!(sandbox = %id, %error, table = self.table, "the table is made anew");
                made.doubt();
            }
            drop(made);
            host_ports::forget_flows(&pod.name, &pod.rules.addresses, &pod.host_ports);
        }
        if let Some(ifb) = attachment.and_then(|attachment| attachment.ifb.as_ref())
            && let Ok(routes) = Routes::open()
        {
            shaping::remove(&routes, ifb);
        }
        self.forget_neighbours(id);
        self.addresses.lock().give_back(id, names::interface(id));
    }

    /// What may still be there of a pod that is not known; its addresses and ports may be another's by now.
    fn only_recorded(&self, id: &SandboxId, attachment: &Attachment) -> Option<Connected> {
        let pods = self.pods.lock();
        let held = |ip: &IpAddr| pods.values().any(|other| other.rules.addresses.contains(ip));
        if attachment.ips.iter().any(held) {
            return None;
        }
        let taken = |port: &HostPort| pods.holder(id, *port).is_some();
        let host_ports: Vec<HostPort> =
            attachment.host_ports.iter().filter(|port| !taken(port)).copied().collect();
        let rules = self.rules(&attachment.ips, &host_ports).ok()?;
        Some(Connected { name: attachment.pod.clone(), host_ports, rules })
    }

    /// Where the bridge is for good: one that somebody else made may have another address tomorrow.
    fn bridge_mac(&self, routes: &Routes) -> Result<Option<[u8; 6]>, NetworkError> {
        let found = routes.glance(&self.bridge).map_err(step("look for the bridge"))?;
        let ours = names::bridge_mac(&self.bridge);
        Ok(found.is_some_and(|link| link.mac == ours).then_some(ours))
    }

    /// What the host knows of where the pod is.
    fn forget_neighbours(&self, id: &SandboxId) {
        let ips = self.addresses.lock().of(id);
        if ips.is_empty() {
            return;
        }
        let forgotten = self.here.routes().and_then(|routes| {
            if let Some(bridge) = routes.glance(&self.bridge)? {
                routes.apply(ips.iter().map(|ip| Change::no_neighbour(bridge.index, *ip)))?;
            }
            self.here.give_back(routes);
            Ok(())
        });
        match forgotten {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(sandbox = %id, %error, "the host still knows where the pod was");
            }
            _ => {}
        }
    }

    /// At start: these pods live and have their addresses and ports; interfaces of others go, and the table has exactly
    /// these, in one transaction.
    pub fn restore(&self, live: &[(SandboxId, Attachment)]) -> Result<(), NetworkError> {
        for (id, attachment) in live {
            self.addresses.lock().mark(id, &attachment.ips);
            match self.rules(&attachment.ips, &attachment.host_ports) {
                Ok(rules) => {
                    let host_ports = attachment.host_ports.clone();
                    let connected = Connected { name: attachment.pod.clone(), host_ports, rules };
                    self.pods.lock().insert(id.clone(), connected);
                }
                Err(error) => tracing::warn!(sandbox = %id, %error, "its host ports are not restored"),
            }
        }
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        let master = self.ensure(&routes)?;
        let known: HashSet<&str> = live.iter().map(|(_, a)| a.host_interface.as_str()).collect();
        let kept: HashSet<&str> = live.iter().filter_map(|(_, a)| a.ifb.as_deref()).collect();
        let found = self.links(&routes, master)?;
        self.remove_links(
            &routes,
            found.iter().filter(|name| !known.contains(name.as_str()) && !kept.contains(name.as_str())),
        );
        let held: HashSet<&IpAddr> = live.iter().flat_map(|(_, a)| &a.ips).collect();
        let neighbours = routes.neighbours(master).map_err(step("read whom the host knows on the bridge"))?;
        let strangers = neighbours.iter().filter(|ip| !held.contains(ip));
        routes
            .apply(strangers.map(|ip| Change::no_neighbour(master, *ip)))
            .map_err(step("forget where pods were that are no more"))
    }
}

/// Inside the pod's namespace.
fn configure(
    given: &[(IpAddr, Subnet)],
    bridge: Option<[u8; 6]>,
    settings: &Settings,
) -> std::io::Result<Inside<'static>> {
    let inside = Routes::open()?;
    let pod = inside.glance(POD_INTERFACE)?.ok_or(std::io::ErrorKind::NotFound)?.index;
    // Before it is up: no other pod tells this one its routes (CVE-2020-10749), and nobody has its addresses.
    for key in ["accept_ra", "accept_dad"] {
        match settings.write("ipv6", POD_INTERFACE, key, "0") {
            Err(error) if given.iter().any(|(ip, _)| ip.is_ipv6()) => return Err(error),
            _ => {}
        }
    }
    let addresses = given.iter().map(|(address, subnet)| Change::address(pod, *address, subnet.prefix()));
    let routes = given.iter().map(|(_, subnet)| Change::default_route(subnet.gateway(), pod));
    let up = [Change::up(LOOPBACK), Change::up(pod)];
    let gateways =
        given.iter().filter_map(|(_, subnet)| Some(Change::neighbour(pod, subnet.gateway(), bridge?)));
    // Up first: the routes of addresses that are there before are made in atomic context, and where many namespaces come at once
    // the kernel may have no memory of each processor's for that (Linux: addrconf_permanent_addr, pcpu_alloc). The address is
    // there then, the way to its network is not.
    inside.apply(up.into_iter().chain(addresses).chain(routes).chain(gateways))?;
    Ok(Inside { routes: inside, interface: POD_INTERFACE, index: pod })
}

#[cfg(test)]
mod tests;
