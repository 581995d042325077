//! The pods' network without a plugin: one bridge, a pair of interfaces and an address for each pod, masquerade.
//!
//! Blocking. What a pod was given is in its [`Attachment`], which the caller keeps and gives back: tear-down needs
//! nothing else, and a restart learns from it which addresses are taken.

mod addresses;
mod counters;
mod error;
mod names;
mod subnet;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use berth_ids::SandboxId;
use berth_netlink::{Routes, Veth, nft};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use counters::counters;
pub use error::NetworkError;
pub use subnet::Subnet;

use crate::addresses::Addresses;
use crate::subnet::Saved;

/// The name of a pod's interface inside the pod, as CNI has it.
const POD_INTERFACE: &str = "eth0";

/// What an instance's network is made of.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Part of every name, so that instances share nothing.
    pub instance: String,
    /// `None`: derived from the instance.
    pub bridge: Option<String>,
    /// `None`: the first of our own that the host has no route to.
    pub subnet: Option<Subnet>,
    /// `None`: that of the interface the default route leaves by is not looked up yet; 1500.
    pub mtu: Option<u32>,
    pub state: PathBuf,
}

/// What a pod was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub host_interface: String,
    pub bridge: String,
    pub ips: Vec<IpAddr>,
    pub prefix: u8,
    pub gateway: IpAddr,
}

/// One instance's network.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    table: String,
    mtu: u32,
    config: NetworkConfig,
    addresses: Mutex<Addresses>,
    /// Whether bridge and table were made or found since the start.
    ready: Mutex<bool>,
}

const DEFAULT_MTU: u32 = 1500;
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

fn step(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let doing = doing.into();
    move |source| NetworkError::Kernel { doing, source }
}

impl Network {
    /// Chooses the subnet, or takes up the one chosen before. Makes nothing yet.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let bridge = config.bridge.clone().unwrap_or_else(|| names::bridge(&config.instance));
        let table = names::table(&config.instance);
        let mtu = config.mtu.unwrap_or(DEFAULT_MTU);
        let saved = Saved::load(&config.state);
        let subnet = match (config.subnet, saved.subnet) {
            (Some(given), _) => given,
            (None, Some(before)) => before,
            (None, None) => {
                let routes = Routes::open().map_err(step("open a netlink socket"))?;
                let taken = routes.networks().map_err(step("read the host's routes"))?;
                subnet::choose(&config.instance, &taken)?
            }
        };
        Saved { subnet: Some(subnet), ..saved }.store(&config.state)?;
        let addresses = Mutex::new(Addresses::new(subnet));
        Ok(Self { bridge, table, mtu, config, addresses, ready: Mutex::new(false) })
    }

    pub fn subnet(&self) -> Subnet {
        self.addresses.lock().subnet()
    }

    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Bridge with the gateway's address, masquerade, forwarding: made where missing. Gives the bridge's index.
    fn ensure(&self, routes: &Routes) -> Result<u32, NetworkError> {
        let mut ready = self.ready.lock();
        let found = routes.index(&self.bridge).map_err(step("look for the bridge"))?;
        if let (Some(index), true) = (found, *ready) {
            return Ok(index);
        }
        let subnet = self.subnet();
        let index = match found {
            Some(index) => index,
            None => {
                routes
                    .add_bridge(&self.bridge, self.mtu)
                    .map_err(step(format!("make bridge {}", self.bridge)))?;
                let made = routes.index(&self.bridge).map_err(step("look for the bridge"))?;
                made.ok_or_else(|| NetworkError::Gone { what: self.bridge.clone() })?
            }
        };
        match routes.add_address(index, subnet.gateway(), subnet.prefix()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            added => added.map_err(step(format!("give {} to bridge {}", subnet.gateway(), self.bridge)))?,
        }
        routes.set_up(index).map_err(step(format!("set bridge {} up", self.bridge)))?;
        nft::masquerade(&self.table, subnet.network(), subnet.prefix())
            .map_err(step(format!("make nf_tables table {}", self.table)))?;
        self.forward()?;
        *ready = true;
        Ok(index)
    }

    /// Pods reach the outside through the host. What it was before is kept for the reset.
    fn forward(&self) -> Result<(), NetworkError> {
        let on = std::fs::read_to_string(FORWARD).map_err(step("read ip_forward"))?;
        if on.trim() == "0" {
            let saved = Saved::load(&self.config.state);
            Saved { forward_was_off: true, ..saved }.store(&self.config.state)?;
            std::fs::write(FORWARD, "1").map_err(step("turn ip_forward on"))?;
        }
        Ok(())
    }

    /// Connects a pod. On failure nothing of it is left.
    pub fn attach(&self, id: &SandboxId, netns: BorrowedFd<'_>) -> Result<Attachment, NetworkError> {
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        let master = self.ensure(&routes)?;
        let address = self.addresses.lock().take(id)?;
        let made = self.connect(id, &routes, master, address, netns);
        if made.is_err() {
            self.addresses.lock().give_back(id);
            if let Ok(Some(index)) = routes.index(&names::interface(id))
                && let Err(error) = routes.delete_link(index)
            {
                tracing::warn!(sandbox = %id, %error, "a half-made interface stays until the next start");
            }
        }
        made
    }

    fn connect(
        &self,
        id: &SandboxId,
        routes: &Routes,
        master: u32,
        address: Ipv4Addr,
        netns: BorrowedFd<'_>,
    ) -> Result<Attachment, NetworkError> {
        let subnet = self.subnet();
        let name = names::interface(id);
        let veth = Veth { name: &name, master, peer: POD_INTERFACE, peer_netns: netns, mtu: self.mtu };
        routes.add_veth(&veth).map_err(step(format!("make interface {name}")))?;
        let gateway = subnet.gateway();
        berth_sys::netns::run_in(netns, move || {
            let inside = Routes::open()?;
            let index =
                |name| inside.index(name)?.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound));
            inside.set_up(index("lo")?)?;
            let pod = index(POD_INTERFACE)?;
            inside.add_address(pod, address, subnet.prefix())?;
            inside.set_up(pod)?;
            inside.add_default_route(gateway, pod)
        })
        .map_err(step(format!("configure {POD_INTERFACE} with {address}")))?;
        Ok(Attachment {
            host_interface: name,
            bridge: self.bridge.clone(),
            ips: vec![address.into()],
            prefix: subnet.prefix(),
            gateway: gateway.into(),
        })
    }

    /// Gives back what a pod was given. The interfaces go with the pod's namespace, which is about to end: deleting them
    /// would wait for the kernel. Idempotent.
    pub fn detach(&self, id: &SandboxId) {
        self.addresses.lock().give_back(id);
    }

    /// At start: these pods live and have their addresses; interfaces of others go.
    pub fn restore(&self, live: &[(SandboxId, Attachment)]) -> Result<(), NetworkError> {
        {
            let mut addresses = self.addresses.lock();
            for (id, attachment) in live {
                for ip in &attachment.ips {
                    if let IpAddr::V4(address) = ip {
                        addresses.mark(id, *address);
                    }
                }
            }
        }
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        let Some(master) = routes.index(&self.bridge).map_err(step("look for the bridge"))? else {
            return Ok(());
        };
        let known: HashSet<&str> = live.iter().map(|(_, a)| a.host_interface.as_str()).collect();
        for (index, name) in routes.ports(master).map_err(step("read the bridge's ports"))? {
            if names::is_ours(&name) && !known.contains(name.as_str()) {
                tracing::info!(interface = name, "an interface of no pod is removed");
                // It may go by itself meanwhile, with its namespace.
                if let Err(error) = routes.delete_link(index) {
                    tracing::debug!(interface = name, %error, "not removed");
                }
            }
        }
        Ok(())
    }

    /// New pods get addresses of this network; those that run keep theirs. The bridge gets another gateway address.
    pub fn set_pod_cidr(&self, text: &str) -> Result<(), NetworkError> {
        let first = text.split(',').map(str::trim).find_map(|one| one.parse::<Subnet>().ok());
        let subnet = first.ok_or_else(|| NetworkError::Cidr { text: text.chars().take(200).collect() })?;
        if subnet == self.subnet() {
            return Ok(());
        }
        let saved = Saved::load(&self.config.state);
        Saved { subnet: Some(subnet), ..saved }.store(&self.config.state)?;
        self.addresses.lock().move_to(subnet);
        *self.ready.lock() = false;
        tracing::info!(%subnet, "new pods get addresses of this network");
        Ok(())
    }

    /// Removes everything of the instance from the host's network.
    pub fn reset(&self) -> Result<(), NetworkError> {
        let routes = Routes::open().map_err(step("open a netlink socket"))?;
        if let Some(index) = routes.index(&self.bridge).map_err(step("look for the bridge"))? {
            routes.delete_link(index).map_err(step(format!("remove bridge {}", self.bridge)))?;
        }
        nft::delete(&self.table).map_err(step(format!("remove nf_tables table {}", self.table)))?;
        if Saved::load(&self.config.state).forward_was_off {
            std::fs::write(FORWARD, "0").map_err(step("turn ip_forward off again"))?;
        }
        *self.ready.lock() = false;
        Saved::remove(&self.config.state)
    }
}

#[cfg(test)]
mod tests;
