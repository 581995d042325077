//! What the host's side of the network is made of: bridge, table, forwarding.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use berth_netlink::{Routes, nft};

use crate::subnet::{Forwards, Saved};
use crate::{Made, Network, NetworkError, names, step};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const LEARNING: &str = "/proc/sys/net/ipv6/conf";
const USUAL_MTU: u32 = 1500;

/// Whether the kernel does IPv6 here at all.
pub(crate) fn has_ipv6() -> bool {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    off.is_ok_and(|text| text.trim() == "0")
}

/// That of the interface the default route leaves by: larger packets of pods would be cut or lost there.
pub(crate) fn uplink_mtu(routes: &Routes) -> io::Result<u32> {
    for v6 in [false, true] {
        let default = routes.paths(v6)?.into_iter().find(|path| path.prefix == 0 && path.interface != 0);
        if let Some(route) = default
            && let Some(mtu) = routes.mtu(route.interface)?
        {
            // An uplink of 64 KiB is a loopback or a tunnel that cuts by itself.
            return Ok(mtu.clamp(1280, 65_535));
        }
    }
    Ok(USUAL_MTU)
}

fn is(path: &str, value: &str) -> io::Result<bool> {
    Ok(std::fs::read_to_string(path)?.trim() == value)
}

/// Whether the host passes packets for others on. A host without IPv6 has no file of it.
///
/// Open, since the way there takes the kernel longer with each network namespace that ever went it: they all have this name.
#[derive(Debug)]
pub(crate) struct Forwarding([Option<File>; 2]);

impl Forwarding {
    /// On the host that the calling thread is on.
    pub(crate) fn open() -> Self {
        Self([FORWARD, FORWARD6].map(|path| File::open(path).ok()))
    }

    /// IPv4 and IPv6, at this moment.
    pub(crate) fn is_on(&self) -> [bool; 2] {
        self.0.each_ref().map(|file| {
            let mut value = [0];
            let read = file.as_ref().map(|file| file.read_at(&mut value, 0));
            matches!(read, Some(Ok(1))) && value != *b"0"
        })
    }
}

impl Network {
    /// Bridge with the gateways' addresses, table, forwarding: made where missing. Gives the bridge's index.
    pub(crate) fn ensure(&self, routes: &Routes) -> Result<u32, NetworkError> {
        self.ensure_locked(routes, &mut self.made.lock())
    }

    fn ensure_locked(&self, routes: &Routes, made: &mut Made) -> Result<u32, NetworkError> {
        let looking = || step("look for the bridge");
        if *made == Made::Good
            && let Some(there) = routes.glance(&self.bridge).map_err(looking())?
        {
            return Ok(there.index);
        }
        let found = routes.index(&self.bridge).map_err(looking())?;
        let subnets = self.subnets();
        if *made == Made::Removed {
            // A restart shall find the networks of the pods that come now.
            let state = &self.config.state;
            Saved::change(state, |saved| {
                saved.subnets.clone_from(&subnets);
                saved.by_kubelet = self.by_kubelet.load(Ordering::Relaxed);
            })?;
        }
        let index = match found {
            Some(index) => index,
            None => {
                let made = routes.add_bridge(&self.bridge, self.mtu, names::bridge_mac(&self.bridge));
                made.map_err(step(format!("make bridge {}", self.bridge)))?;
                let made = routes.index(&self.bridge).map_err(step("look for the bridge"))?;
                made.ok_or_else(|| NetworkError::Gone { what: self.bridge.clone() })?
            }
        };
        let setting = |version: &str, key: &str, value: &str| {
            let written = self.settings.write(version, &self.bridge, key, value);
            written.map_err(step(format!("write {value} to {key} of {}", self.bridge)))
        };
        // See `nft::Tables::install`: ports of the host on 127.0.0.1.
        setting("ipv4", "route_localnet", "1")?;
        if has_ipv6() {
            // No pod tells the host its routes.
            setting("ipv6", "accept_ra", "0")?;
            setting("ipv6", "accept_dad", "0")?;
        }
        for subnet in &subnets {
            match routes.add_address(index, subnet.gateway(), subnet.prefix()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                added => {
                    added.map_err(step(format!("give {} to bridge {}", subnet.gateway(), self.bridge)))?
                }
            }
        }
        let loopback6 = subnets.iter().any(|s| s.is_ipv6()).then(|| names::loopback6(&self.config.instance));
        if let Some(stand_in) = loopback6 {
            match routes.add_address(index, stand_in.into(), 128) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                added => added.map_err(step(format!("give {stand_in} to bridge {}", self.bridge)))?,
            }
        }
        routes.set_up(index).map_err(step(format!("set bridge {} up", self.bridge)))?;
        let pods: Vec<nft::Pod> = self.pods.lock().values().map(|pod| pod.rules.clone()).collect();
        self.tables
            .install(&nft::Table {
                name: &self.table,
                links: std::slice::from_ref(&self.bridge),
                closed: &[],
                isolated: self.config.isolate_host,
                loopback6,
                pods: &pods,
            })
            .map_err(step(format!("make nf_tables table {}", self.table)))?;
        forward(&self.config.state, Forwards::Own, true, subnets.iter().any(|subnet| subnet.is_ipv6()))?;
        *made = Made::Good;
        Ok(index)
    }

    /// Whether a pod could be connected: bridge and table are made, or found, for real. After a reset nothing is made. A table
    /// that somebody flushed is made anew: pods that run have no way out without it.
    pub fn probe(&self) -> Result<(), NetworkError> {
        let mut made = self.made.lock();
        if *made == Made::Removed {
            return Ok(());
        }
        if *made == Made::Good && !has_rules(&self.table)? {
            tracing::warn!(table = self.table, "somebody flushed the table; it is made anew");
            made.doubt();
        }
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        self.ensure_locked(&routes, &mut made).map(drop)
    }

    /// Removes everything of the instance from the host's network, unless a pod uses it.
    pub fn reset_unused(&self) -> Result<(), NetworkError> {
        let mut made = self.made.lock();
        let pods: Vec<String> = self.pods.lock().values().map(|pod| pod.name.clone()).collect();
        match pods.is_empty() {
            true => self.remove(&mut made),
            false => Err(NetworkError::Used { pods }),
        }
    }

    /// The same, whoever uses it.
    pub fn reset(&self) -> Result<(), NetworkError> {
        self.remove(&mut self.made.lock())
    }

    fn remove(&self, made: &mut Made) -> Result<(), NetworkError> {
        *made = Made::Removed;
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        self.remove_links(&routes, self.shaping_links(&routes)?.iter());
        if let Some(index) = routes.index(&self.bridge).map_err(step("look for the bridge"))? {
            routes.delete_link(index).map_err(step(format!("remove bridge {}", self.bridge)))?;
        }
        self.tables.delete(&self.table).map_err(step(format!("remove nf_tables table {}", self.table)))?;
        stop_forwarding(&self.config.state, Forwards::Own)?;
        Saved::change(&self.config.state, |saved| {
            saved.subnets.clear();
            saved.by_kubelet = false;
        })
    }
}

pub(crate) fn has_rules(table: &str) -> Result<bool, NetworkError> {
    let looked = nft::Reader::open().and_then(|reader| reader.has_rules(table));
    looked.map_err(step(format!("look at nf_tables table {table}")))
}

/// Pods reach the outside through the host. What it was before is kept for the reset.
pub(crate) fn forward(state: &Path, who: Forwards, v4: bool, v6: bool) -> Result<(), NetworkError> {
    Saved::exclusively(state, |saved| {
        let v4_off = v4 && is(FORWARD, "0").map_err(step("read ip_forward"))?;
        let v6_off = v6 && is(FORWARD6, "0").map_err(step("read IPv6's forwarding"))?;
        let value = saved.value();
        value.forward_was_off |= v4_off;
        if v6_off {
            // A host that forwards stops to learn its default route, unless told otherwise (ip-sysctl, accept_ra).
            for interface in learning(Path::new(LEARNING)).map_err(step("read who learns routes"))? {
                if !value.learning.contains(&interface) {
                    value.learning.push(interface);
                }
            }
            value.forward6_was_off = true;
        }
        // Who comes later counts on it too.
        if value.forward_was_off || value.forward6_was_off {
            value.forwards.insert(who);
        }
        // Before it is changed.
        saved.keep()?;
        if v4_off {
            std::fs::write(FORWARD, "1").map_err(step("turn ip_forward on"))?;
        }
        if v6_off {
            for interface in &saved.value().learning {
                // It may have gone meanwhile.
                let _ = std::fs::write(format!("{LEARNING}/{interface}/accept_ra"), "2");
            }
            std::fs::write(FORWARD6, "1").map_err(step("turn IPv6's forwarding on"))?;
        }
        Ok(())
    })
}

/// As it was before, unless somebody else needs it. Idempotent.
pub(crate) fn stop_forwarding(state: &Path, who: Forwards) -> Result<(), NetworkError> {
    Saved::exclusively(state, |saved| {
        let value = saved.value();
        value.forwards.remove(&who);
        if !value.forwards.is_empty() {
            return Ok(());
        }
        if value.forward_was_off {
            std::fs::write(FORWARD, "0").map_err(step("turn ip_forward off again"))?;
        }
        if value.forward6_was_off {
            std::fs::write(FORWARD6, "0").map_err(step("turn IPv6's forwarding off again"))?;
            for interface in &value.learning {
                let _ = std::fs::write(format!("{LEARNING}/{interface}/accept_ra"), "1");
            }
        }
        (value.forward_was_off, value.forward6_was_off) = (false, false);
        value.learning.clear();
        Ok(())
    })
}

fn learning(conf: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(conf)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let set = std::fs::read_to_string(conf.join(&name).join("accept_ra")).unwrap_or_default();
        if set.trim() == "1" && name != "lo" && name != "all" {
            found.push(name);
        }
    }
    Ok(found)
}
