//! What pods of plugins have in the instance's second nf_tables table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_cni::{Cidr, InUse, IpConfig};
use berth_netlink::{AddressWatch, Link, Routes, nft};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::files::Files;
use crate::here::Here;
use crate::host_ports::forget_flows;
use crate::inspect::{self, PortHolder};
use crate::pods::{Holds, Pods};
use crate::settings::Settings;
use crate::subnet::Forwards;
use crate::{HostPort, NetworkError, host, names, step};

/// What one pod has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PodRules {
    pub(super) network: String,
    /// For people: `namespace/name`.
    pub(super) pod: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) masquerade: bool,
    pub(super) host_ports: Vec<HostPort>,
    /// The interface of its own that leads to it; that of a bridge is everybody's.
    pub(super) own_link: Option<String>,
}

impl Holds for PodRules {
    fn host_ports(&self) -> &[HostPort] {
        &self.host_ports
    }
}

#[derive(Debug, Default)]
struct Saved {
    pods: Pods<String, PodRules>,
    bridges: Bridges,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Bridges {
    /// That lead to pods.
    links: BTreeSet<String>,
    /// Those of them that were made here.
    made: BTreeSet<String>,
    /// Those whose pods are not reached by pods of another one of these.
    closed: BTreeSet<String>,
    /// What interfaces that stay at a reset were given.
    lent: BTreeMap<String, Lent>,
}

/// What an interface was given so that clients at 127.0.0.1 and ::1 are answered by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lent {
    /// `route_localnet`, which was off.
    pub(super) localnet: bool,
    /// The stand-in of ::1.
    pub(super) stand_in: bool,
}

/// One instance's. Written to disk before the kernel is told, so that what is in the table is never unknown: a file for each
/// pod, since one for all would cost each pod what all others have.
#[derive(Debug)]
pub(super) struct Rules {
    instance: String,
    table: String,
    state: PathBuf,
    files: Files,
    pub(super) settings: Settings,
    pub(super) here: Here,
    tables: nft::Tables,
    saved: Mutex<Saved>,
    /// Whether the table is as it should be. Held while it is changed.
    ready: Mutex<bool>,
    /// That they need forwarding is recorded.
    forwards: AtomicBool,
    /// Held while a bridge is made.
    making: Mutex<()>,
    forwarding: host::Forwarding,
    /// Bridges as they were found. What is known of them is not asked of the kernel again: where there are many interfaces, it
    /// is busy with the pod's own that has just come up.
    known: Mutex<HashMap<String, Link>>,
    /// Addresses of bridges, by their numbers, since somebody's address changed last.
    gateways: Mutex<HashSet<(u32, Cidr)>>,
    /// `None`: it is not to be had.
    addresses: Option<AddressWatch>,
    /// Those that answer clients at 127.0.0.1 and, where it says so, at ::1, by their numbers.
    answering: Mutex<HashMap<u32, bool>>,
}

impl Rules {
    pub(super) fn open(instance: &str, state: &Path) -> Result<Self, NetworkError> {
        let files = Files::new(state.join("plugins"));
        let saved = Mutex::new(Saved {
            pods: files.pods().into_iter().collect(),
            bridges: files.read(&files.bridges()).unwrap_or_default(),
        });
        let table = names::plugin_table(instance);
        let (instance, tables, ready) = (instance.to_owned(), nft::Tables::default(), Mutex::new(false));
        let (state, forwards, making) = (state.to_owned(), AtomicBool::new(false), Mutex::default());
        let (forwarding, known) = (host::Forwarding::open(), Mutex::default());
        let (gateways, answering) = (Mutex::default(), Mutex::default());
        let refused = |error: &_| tracing::debug!(%error, "bridges' addresses are looked at for each pod");
        let addresses = AddressWatch::open().inspect_err(refused).ok();
        Ok(Self {
            instance,
            table,
            state,
            files,
            settings: Settings::open(),
            here: Here::open().map_err(step("open the host's network namespace"))?,
            tables,
            saved,
            ready,
            forwards,
            making,
            forwarding,
            known,
            gateways,
            addresses,
            answering,
        })
    }

    fn elements(&self, pod: &PodRules) -> Result<nft::Pod, NetworkError> {
        let mut forwards = Vec::new();
        for port in &pod.host_ports {
            forwards.extend(port.forwards(&pod.addresses, self.loopback6())?);
        }
        Ok(nft::Pod { addresses: pod.addresses.clone(), masquerade: pod.masquerade, forwards })
    }

    /// Stands for ::1 on the way to a pod.
    pub(super) fn loopback6(&self) -> std::net::Ipv6Addr {
        names::loopback6(&self.instance)
    }

    fn install(&self, saved: &Saved) -> Result<(), NetworkError> {
        let pods: Vec<nft::Pod> = saved.pods.values().filter_map(|pod| self.elements(pod).ok()).collect();
        let own = saved.pods.values().filter_map(|pod| pod.own_link.clone());
        let links: Vec<String> = saved.bridges.links.iter().cloned().chain(own).collect();
        let closed: Vec<String> = saved.bridges.closed.iter().cloned().collect();
        self.tables
            .install(&nft::Table {
                name: &self.table,
                links: &links,
                closed: &closed,
                isolated: false,
                loopback6: Some(self.loopback6()),
                pods: &pods,
            })
            .map_err(step(format!("make nf_tables table {}", self.table)))
    }

    /// The table, made where it is not. One that nobody needs is not made.
    pub(super) fn restore(&self) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        let saved = self.saved.lock();
        if !saved.pods.is_empty() {
            self.install(&saved)?;
            *ready = true;
        }
        Ok(())
    }

    /// A table that somebody flushed is made anew: pods that run have no way out without it.
    pub(super) fn mend(&self) -> Result<(), NetworkError> {
        if *self.ready.lock() && !host::has_rules(&self.table)? {
            tracing::warn!(table = self.table, "somebody flushed the table; it is made anew");
            self.restore()?;
        }
        Ok(())
    }

    /// Packets to and from these are passed on by the host.
    pub(super) fn forward(&self, ips: &[IpConfig]) -> Result<(), NetworkError> {
        let [v4, v6] = [false, true].map(|v6| ips.iter().any(|ip| ip.address.is_ipv6() == v6));
        let on = self.forwarding.is_on();
        if self.forwards.load(Ordering::Relaxed) && (!v4 || on[0]) && (!v6 || on[1]) {
            return Ok(());
        }
        host::forward(&self.state, Forwards::Plugins, v4, v6)?;
        self.forwards.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn remember(&self, change: impl FnOnce(&mut Bridges) -> bool) -> Result<bool, NetworkError> {
        let mut saved = self.saved.lock();
        let mut bridges = saved.bridges.clone();
        let changed = change(&mut bridges);
        if changed {
            self.files.write(&self.files.bridges(), &bridges)?;
            saved.bridges = bridges;
        }
        Ok(changed)
    }

    /// Makes a bridge that is ours to remove at a reset: recorded before, since nobody knows of it after a daemon that was killed
    /// in the middle.
    pub(super) fn make(&self, name: &str, make: impl FnOnce() -> io::Result<()>) -> Result<(), NetworkError> {
        // Another pod's, at the same moment, would find it there and take it for somebody else's.
        let _one = self.making.lock();
        let new = self.remember(|bridges| bridges.made.insert(name.to_owned()))?;
        let made = make();
        if made.is_err() && new {
            self.remember(|bridges| bridges.made.remove(name))?;
        }
        match made {
            // Made by the pod that was here before, or by somebody else.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(step(format!("make bridge {name}"))),
        }
    }

    /// Whether a bridge was made here.
    pub(super) fn made(&self, name: &str) -> bool {
        self.saved.lock().bridges.made.contains(name)
    }

    /// Recorded before it is given.
    pub(super) fn lend(&self, name: &str, lent: Lent) -> Result<(), NetworkError> {
        let add = |bridges: &mut Bridges| {
            let of = bridges.lent.entry(name.to_owned()).or_default();
            let before = *of;
            *of = Lent { localnet: of.localnet | lent.localnet, stand_in: of.stand_in | lent.stand_in };
            *of != before
        };
        self.remember(add).map(drop)
    }

    /// Takes away what an interface was given, if it is still there.
    fn take_back(&self, routes: &Routes, name: &str, lent: Lent) -> Result<(), NetworkError> {
        let Some(index) = routes.index(name).map_err(step(format!("look for {name}")))? else {
            return Ok(());
        };
        if lent.localnet {
            let written = self.settings.write("ipv4", name, "route_localnet", "0");
            written.map_err(step(format!("write 0 to route_localnet of {name}")))?;
        }
        if lent.stand_in {
            match routes.remove_address(index, self.loopback6().into(), 128) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                done => done.map_err(step(format!("take the stand-in of ::1 from {name}")))?,
            }
        }
        Ok(())
    }

    /// A bridge that leads to pods.
    pub(super) fn link(&self, name: &str) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        let new = self.remember(|bridges| bridges.links.insert(name.to_owned()))?;
        if *ready && new && self.tables.add_link(&self.table, name).is_err() {
            *ready = false;
        }
        Ok(())
    }

    pub(super) fn known(&self, bridge: &str) -> Option<Link> {
        self.known.lock().get(bridge).cloned()
    }

    /// It is one, and recorded as leading to pods.
    pub(super) fn know(&self, bridge: &Link) {
        self.known.lock().insert(bridge.name.clone(), bridge.clone());
    }

    /// Whether the bridge of this number has this address for all that is known.
    pub(super) fn has_gateway(&self, bridge: u32, gateway: Cidr) -> bool {
        let mut gateways = self.gateways.lock();
        if self.addresses.as_ref().is_none_or(AddressWatch::has_changed) {
            gateways.clear();
        }
        gateways.contains(&(bridge, gateway))
    }

    /// It was looked at.
    pub(super) fn found_gateway(&self, bridge: u32, gateway: Cidr) {
        self.gateways.lock().insert((bridge, gateway));
    }

    /// Whether the interface of this number was told to answer clients at 127.0.0.1 and, if asked for, ::1.
    pub(super) fn answers(&self, index: u32, v6: bool) -> bool {
        self.answering.lock().get(&index).is_some_and(|knows_v6| *knows_v6 || !v6)
    }

    pub(super) fn answer(&self, index: u32, v6: bool) {
        *self.answering.lock().entry(index).or_default() |= v6;
    }

    /// Pods of the bridge and of others that are closed do not reach each other. It is so until a reset.
    pub(super) fn close(&self, bridge: &str) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        let mut saved = self.saved.lock();
        let mut bridges = saved.bridges.clone();
        if bridges.closed.insert(bridge.to_owned()) {
            self.files.write(&self.files.bridges(), &bridges)?;
            saved.bridges = bridges;
        } else if *ready {
            return Ok(());
        }
        self.install(&saved)?;
        *ready = true;
        Ok(())
    }

    pub(super) fn is_closed(&self, bridge: &str) -> bool {
        self.saved.lock().bridges.closed.contains(bridge)
    }

    /// Changes what a pod has, in memory, on disk and in the table; a refusal leaves all as it was.
    pub(super) fn change(
        &self,
        container: &str,
        change: impl FnOnce(&mut PodRules),
    ) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        let mut saved = self.saved.lock();
        let before = saved.pods.get(container).cloned();
        let mut after = before.clone().unwrap_or_default();
        change(&mut after);
        if before.as_ref() == Some(&after) && *ready || before.is_none() && after == PodRules::default() {
            return Ok(());
        }
        let elements = self.elements(&after)?;
        if let Some((port, holder)) = holder(&saved.pods, container, &after.host_ports) {
            return Err(NetworkError::Taken { port, holder });
        }
        saved.pods.insert(container.to_owned(), after.clone());
        let file = self.files.pod(container);
        let put_back = |saved: &mut Saved| match &before {
            Some(pod) => drop(saved.pods.insert(container.to_owned(), pod.clone())),
            None => drop(saved.pods.remove(container)),
        };
        if let Err(error) = self.files.write(&file, &after) {
            put_back(&mut saved);
            return Err(error);
        }
        let old = before.as_ref().and_then(|pod| self.elements(pod).ok());
        let changed = match *ready {
            true => self.exchange(old.as_ref(), &elements, after.own_link.as_deref()),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = changed {
            tracing::debug!(%error, table = self.table, "the table is made anew");
            if let Err(error) = self.install(&saved) {
                put_back(&mut saved);
                match &before {
                    Some(pod) => self.files.write(&file, pod)?,
                    None => self.files.remove(&file)?,
                }
                return Err(error);
            }
            *ready = true;
        }
        drop((saved, ready));
        let ports: Vec<HostPort> =
            before.into_iter().flat_map(|pod| pod.host_ports).chain(after.host_ports).collect();
        forget_flows(&after.pod, &elements.addresses, &ports);
        Ok(())
    }

    fn exchange(&self, old: Option<&nft::Pod>, new: &nft::Pod, link: Option<&str>) -> io::Result<()> {
        if let Some(link) = link {
            self.tables.add_link(&self.table, link)?;
        }
        self.tables.change(&self.table, old.unwrap_or(&nft::Pod::default()), new)
    }

    pub(super) fn of(&self, container: &str) -> Option<PodRules> {
        self.saved.lock().pods.get(container).cloned()
    }

    /// What the table should have of a pod.
    pub(super) fn recorded(&self, container: &str) -> inspect::Rules {
        let pod = self.of(container).unwrap_or_default();
        let elements = self.elements(&pod).unwrap_or_default();
        inspect::Rules { table: self.table.clone(), pod: elements, link: pod.own_link }
    }

    pub(super) fn port_holders(&self) -> Vec<PortHolder> {
        let saved = self.saved.lock();
        let of = |pod: &PodRules| {
            let holder = |port: &HostPort| PortHolder {
                port: port.to_string(),
                container_port: port.container_port,
                pod: pod.pod.clone(),
            };
            pod.host_ports.iter().map(holder).collect::<Vec<_>>()
        };
        saved.pods.values().flat_map(of).collect()
    }

    /// Removes what a pod has. Idempotent.
    pub(super) fn forget(&self, container: &str) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        let mut saved = self.saved.lock();
        if !saved.pods.contains_key(container) {
            return Ok(());
        }
        // While the file is there, so is the pod: whoever asks again goes on from here.
        self.files.remove(&self.files.pod(container))?;
        let Some(pod) = saved.pods.remove(container) else { return Ok(()) };
        drop(saved);
        let elements = self.elements(&pod).unwrap_or_default();
        let removed = self.tables.remove(&self.table, &elements).and_then(|()| match &pod.own_link {
            Some(link) => self.tables.remove_link(&self.table, link),
            None => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, table = self.table, "the table is made anew for the next pod");
            *ready = false;
        }
        drop(ready);
        forget_flows(&pod.pod, &elements.addresses, &pod.host_ports);
        Ok(())
    }

    /// Removes what is there of pods of the network that are not in use.
    pub(super) fn keep(&self, network: &str, in_use: &[InUse]) -> Result<(), NetworkError> {
        let gone: Vec<String> = {
            let saved = self.saved.lock();
            let of = saved.pods.iter().filter(|(_, pod)| pod.network == network);
            let unused = of.filter(|(id, _)| !in_use.iter().any(|used| used.container == **id));
            unused.map(|(id, _)| id.clone()).collect()
        };
        gone.iter().try_for_each(|container| self.forget(container))
    }

    pub(super) fn reset(&self) -> Result<(), NetworkError> {
        let mut ready = self.ready.lock();
        *ready = false;
        let mut saved = self.saved.lock();
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        for name in &saved.bridges.made {
            if let Some(index) = routes.index(name).map_err(step(format!("look for bridge {name}")))? {
                routes.delete_link(index).map_err(step(format!("remove bridge {name}")))?;
            }
        }
        for (name, lent) in &saved.bridges.lent {
            self.take_back(&routes, name, *lent)?;
        }
        self.tables.delete(&self.table).map_err(step(format!("remove nf_tables table {}", self.table)))?;
        self.forwards.store(false, Ordering::Relaxed);
        self.known.lock().clear();
        self.gateways.lock().clear();
        self.answering.lock().clear();
        host::stop_forwarding(&self.state, Forwards::Plugins)?;
        *saved = Saved::default();
        self.files.clear()
    }
}

/// The first of these ports that another pod has, and its name.
fn holder(pods: &Pods<String, PodRules>, container: &str, ports: &[HostPort]) -> Option<(HostPort, String)> {
    let held = |port: &HostPort| pods.holder(container, *port).map(|held| (*port, held));
    let (port, (other, pod)) = ports.iter().find_map(held)?;
    Some((port, if pod.pod.is_empty() { other.clone() } else { pod.pod.clone() }))
}
