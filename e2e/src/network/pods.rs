//! Pods among each other, with the machine and with the outside.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use super::kind::Kind;
use super::machine::{Machine, OWN, ip};
use super::traffic::{answers, ask};
use crate::checks::{Checks, until};
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;

/// A pod whose container answers on port 80 with its name.
pub(super) struct Served {
    pub(super) id: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) netns: OwnedFd,
}

impl Served {
    pub(super) async fn new(daemon: &Daemon, name: &str, ports: &[PortMapping]) -> Result<Self> {
        let config = PodSandboxConfig { port_mappings: ports.to_vec(), ..pod(name, &daemon.path("logs")) };
        Self::of(daemon, name, config).await
    }

    pub(super) async fn of(daemon: &Daemon, name: &str, config: PodSandboxConfig) -> Result<Self> {
        let mut client = Client::connect(&daemon.socket()).await?;
        let id = client.run_pod(&config).await?;
        let container = client.run(&id, &config, "web", args(&["http", "80", name])).await?;
        let pid = client.info(&container).await?["pid"].as_u64().context("no pid in the verbose status")?;
        let netns = std::fs::File::open(format!("/proc/{pid}/ns/net"))?.into();
        let ips = client.pod_ips(&id).await?;
        let served = Self { id, ips, netns };
        until("the pod's server", || async { Ok(ask(&served.netns, "127.0.0.1:80".parse()?).ok()) }).await?;
        Ok(served)
    }

    pub(super) fn at(&self, v6: bool) -> Result<SocketAddr> {
        let found = self.ips.iter().find(|ip| ip.is_ipv6() == v6);
        Ok(SocketAddr::new(*found.with_context(|| format!("{:?} lacks a version", self.ips))?, 80))
    }

    /// Removed; its namespace is not held any longer.
    pub(super) async fn gone(self, daemon: &Daemon) -> Result<()> {
        Client::connect(&daemon.socket()).await?.remove_pod(&self.id).await
    }
}

pub(super) async fn all(
    checks: &mut Checks,
    machine: &Machine,
    daemon: &mut Daemon,
    kind: Kind,
) -> Result<()> {
    let (a, b) = (Served::new(daemon, "a", &[]).await?, Served::new(daemon, "b", &[]).await?);
    checks.that("a pod has an address of each IP version", a.ips.len() == 2, format!("{:?}", a.ips));
    let different = a.ips.iter().all(|ip| !b.ips.contains(ip));
    checks.that("two pods have different ones", different, format!("{:?} {:?}", a.ips, b.ips));
    checks.note("a pod's verbose status has its network namespace's path", named(daemon, &a).await);
    checks.note("  of the other pod another one", named(daemon, &b).await);
    for (version, v6) in [("IPv4", false), ("IPv6", true)] {
        let own = ip(OWN[usize::from(v6)]);
        checks.note(&format!("the machine reaches both on port 80, {version}"), {
            answers(&machine.own, a.at(v6)?, "a").and(answers(&machine.own, b.at(v6)?, "b"))
        });
        checks.note(&format!("a pod reaches the other, {version}"), answers(&a.netns, b.at(v6)?, "b"));
        let itself = answers(&a.netns, a.at(v6)?, "a");
        checks.note(&format!("a pod reaches itself by its address, {version}"), itself);
        let server = Own::serve(machine, own)?;
        checks
            .note(&format!("a pod reaches the machine, {version}"), answers(&a.netns, server.at, "machine"));
        let seen = ask(&a.netns, Machine::mirror(v6)).unwrap_or_else(|error| error.to_string());
        let what = format!("a pod reaches the outside, which sees the machine's address, {version}");
        kind.that(checks, &what, seen == own.to_string(), seen);
    }
    closed(checks, daemon, &a).await?;
    a.gone(daemon).await?;
    b.gone(daemon).await
}

/// The paths in the verbose status are of the namespace that the pod's container is in.
pub(super) async fn named(daemon: &Daemon, served: &Served) -> Result<()> {
    let info = Client::connect(&daemon.socket()).await?.pod_info(&served.id).await?;
    let inode = std::fs::File::from(served.netns.try_clone()?).metadata()?.ino();
    let spaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let network = spaces.iter().find(|space| space["type"] == "network").context("no network namespace")?;
    for path in [&info["netns"], &network["path"]] {
        let text = path.as_str().with_context(|| format!("{path} is no path"))?;
        let found = std::fs::metadata(text).with_context(|| text.to_owned())?.ino();
        holds!(found == inode, "{text} is {found} and not {inode}");
    }
    holds!(info["netNSClosed"] == false, "it is closed: {}", info["netNSClosed"]);
    Ok(())
}

/// A pod that was stopped has none.
async fn closed(checks: &mut Checks, daemon: &Daemon, served: &Served) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: served.id.clone() }).await?;
    let info = client.pod_info(&served.id).await?;
    let said = (&info["netns"], &info["netNSClosed"], &info["runtimeSpec"]["linux"]["namespaces"][0]["path"]);
    let none = *said.0 == "" && *said.1 == true && said.2.is_null();
    checks.that("a stopped pod's has no path, and says that it is closed", none, format!("{said:?}"));
    Ok(())
}

/// A server on the machine itself, for one answer.
struct Own {
    at: SocketAddr,
}

impl Own {
    fn serve(machine: &Machine, own: IpAddr) -> Result<Self> {
        use std::io::Write as _;
        use std::os::fd::AsFd as _;
        let bind = || std::net::TcpListener::bind((own, 0));
        let listener = berth_sys::netns::run_in(machine.own.as_fd(), bind)?;
        let at = listener.local_addr()?;
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            // Read before the end, else what was sent is answered by a reset.
            let _ = std::io::Read::read(&mut stream, &mut [0; 64]);
            stream.write_all(b"machine")
        });
        Ok(Self { at })
    }
}
