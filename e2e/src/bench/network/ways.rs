//! The ways to connect a pod that are put beside each other.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cni::{Cni, CniPod, CniSettings, PodName, Record, RuntimeConfig};
use berth_ids::SandboxId;
use berth_model::PortMapping;
use berth_network::{Network, NetworkConfig, Plugins, PodRequest};
use serde_json::json;

use crate::disk::Mounted;

/// Where Debian has the programs.
const PROGRAMS: &str = "/usr/lib/cni";

/// What a pod asks for.
pub(super) struct Asked {
    id: SandboxId,
    name: String,
    ports: Vec<PortMapping>,
}

pub(super) fn asked(number: usize, ports: &[u16]) -> Asked {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let map = |port: &u16| PortMapping { host_port: *port, container_port: 80, ..Default::default() };
    let ports = ports.iter().map(map).collect();
    Asked { id: SandboxId::from_bytes(bytes), name: format!("bench/pod-{number}"), ports }
}

/// One of them.
pub(super) enum Way {
    Embedded(Box<Network>),
    /// Plugins in-process or as programs.
    Chain {
        cni: Arc<Cni>,
        plugins: Arc<Plugins>,
        /// What the daemon keeps of its pods.
        connected: Mutex<HashMap<SandboxId, Record>>,
    },
}

impl Way {
    /// First the primary address.
    pub(super) fn attach(&self, pod: &Asked, netns: BorrowedFd<'_>) -> Result<Vec<IpAddr>> {
        match self {
            Self::Embedded(network) => {
                let asked = PodRequest { id: &pod.id, name: &pod.name, ports: &pod.ports, bandwidth: None };
                Ok(network.attach(asked, netns)?.ips)
            }
            Self::Chain { cni, connected, .. } => {
                let port = |port: &PortMapping| berth_cni::PortMapping {
                    host_port: port.host_port,
                    container_port: port.container_port,
                    protocol: "tcp".into(),
                    host_ip: String::new(),
                };
                let ports: Vec<_> = pod.ports.iter().map(port).collect();
                let made = cni.attach(CniPod {
                    container: pod.id.as_str(),
                    name: PodName { namespace: "bench".into(), name: pod.name.clone(), uid: String::new() },
                    handler: "",
                    runtime: RuntimeConfig { port_mappings: Some(ports), ..Default::default() },
                    netns,
                    path: format!("/proc/self/fd/{}", netns.as_raw_fd()),
                })?;
                connected.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.id.clone(), made.record);
                Ok(made.ips)
            }
        }
    }

    /// That its going has left nothing: [`Way::detach`] never fails.
    pub(super) fn has_nothing_of(&self, pod: &Asked) -> Result<()> {
        let (differences, ports) = match self {
            Self::Embedded(network) => {
                let found = network.inspect()?;
                (found.differences, found.host_ports)
            }
            Self::Chain { cni, plugins, .. } => {
                let kept = cni.knows(pod.id.as_str()).then(|| "its record is kept".to_owned());
                (kept.into_iter().collect(), plugins.port_holders())
            }
        };
        anyhow::ensure!(differences.is_empty(), "{} is gone, and {}", pod.name, differences.join("; "));
        let port = ports.iter().find(|port| port.pod == pod.name);
        anyhow::ensure!(port.is_none(), "{} is gone, and {port:?} is held", pod.name);
        Ok(())
    }

    pub(super) fn detach(&self, pod: &Asked, netns: &OwnedFd) {
        match self {
            Self::Embedded(network) => network.detach(&pod.id, None),
            Self::Chain { cni, connected, .. } => {
                let record = connected.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.id);
                cni.detach(pod.id.as_str(), Some(netns.as_fd()), record);
            }
        }
    }
}

/// All of them.
pub(super) struct Ways {
    pub(super) embedded: Way,
    pub(super) conflist: Way,
    pub(super) programs: Way,
    _run: Mounted,
}

/// What the next boot does not need is in memory, as a node's /run is; the rest is on the disk. Below a directory of theirs.
pub(super) fn run_below(home: &Path) -> Result<Mounted> {
    Mounted::tmpfs(&home.join("run"), "64m")
}

impl Ways {
    /// In the network namespace of the calling thread, which is a host of the bench's own.
    pub(super) fn open(home: &Path) -> Result<Self> {
        let run = run_below(home)?;
        let programs = chain(home, "programs", false, 212)?;
        Ok(Self { embedded: Self::embedded(home)?, conflist: Self::conflist(home)?, programs, _run: run })
    }

    pub(super) fn embedded(home: &Path) -> Result<Way> {
        let state = home.join("run/embedded");
        std::fs::create_dir(&state)?;
        let subnets = ["10.210.0.0/16", "fd10:210::/64"].map(|text| text.parse().map_err(anyhow::Error::msg));
        let subnets = subnets.into_iter().collect::<Result<_>>()?;
        let embedded = Network::open(NetworkConfig {
            instance: "bench".into(),
            bridge: None,
            subnets,
            mtu: None,
            isolate_host: false,
            state,
        })?;
        Ok(Way::Embedded(Box::new(embedded)))
    }

    pub(super) fn conflist(home: &Path) -> Result<Way> {
        chain(home, "conflist", true, 211)
    }

    pub(super) fn all(&self) -> [&Way; 3] {
        [&self.embedded, &self.conflist, &self.programs]
    }

    /// What is left goes with the host.
    pub(super) fn reset(&self) -> Result<()> {
        for way in self.all() {
            match way {
                Way::Embedded(network) => network.reset()?,
                Way::Chain { cni, plugins, .. } => {
                    cni.reset();
                    plugins.reset()?;
                }
            }
        }
        Ok(())
    }
}

/// The chain that a runtime's usual configuration has; `net` is the second byte of its addresses.
fn chain(home: &Path, name: &str, in_process: bool, net: u8) -> Result<Way> {
    let (home, run) = (home.join(name), home.join("run").join(name));
    std::fs::create_dir(&run)?;
    let conf_dir = home.join("conf");
    std::fs::create_dir_all(&conf_dir)?;
    let conflist = json!({
        "cniVersion": "1.0.0", "name": format!("bench{net}"),
        "plugins": [
            {
                "type": "bridge", "bridge": format!("cni{net}"), "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": home.join("ipam"),
                    "ranges": [[{ "subnet": format!("10.{net}.0.0/16") }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "loopback" },
        ],
    });
    std::fs::write(conf_dir.join("10-bench.conflist"), conflist.to_string())?;
    let plugins = Arc::new(Plugins::open(&format!("bench{net}"), &run)?);
    let cni = Cni::new(
        CniSettings {
            instance: format!("bench{net}"),
            conf_dir: Some(conf_dir),
            handler_dirs: BTreeMap::new(),
            bin_dirs: vec![PROGRAMS.into()],
            netns_dir: run.join("netns"),
            state: run,
            root: home,
            timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(60),
            in_process,
        },
        plugins.clone(),
        Box::new(|| Ok(())),
    );
    plugins.restore()?;
    cni.restore(HashMap::new());
    anyhow::ensure!(cni.is_configured(""), "the bench's conflist is not read");
    let problem = cni.report().problem;
    let unasked = problem.as_ref().is_none_or(|text| text.contains("have not said"));
    anyhow::ensure!(unasked, "the bench's conflist: {}", problem.context("no reason")?);
    Ok(Way::Chain { cni: Arc::new(cni), plugins, connected: Mutex::default() })
}
