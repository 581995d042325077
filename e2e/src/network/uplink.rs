//! How long a packet may be follows the machine's uplink, unless a configuration says otherwise.

use anyhow::{Context as _, Result};
use berth_netlink::Routes;
use berth_sys::netns::run_in;
use std::os::fd::AsFd as _;

use super::kind::Kind;
use super::machine::{Machine, tool};
use super::pods::Served;
use super::traffic::answers;
use crate::checks::Checks;
use crate::daemon::Daemon;

/// Of the uplink, while this is asked.
const SHORT: u32 = 1400;
/// What the lane's configuration has (`kind.rs`), and its uplink at other times.
const USUAL: u32 = 1450;

pub(super) async fn all(checks: &mut Checks, machine: &Machine, kind: Kind) -> Result<()> {
    tool(&format!("ip link set up0 mtu {SHORT}"))?;
    let done = with(checks, machine, kind).await;
    tool(&format!("ip link set up0 mtu {USUAL}"))?;
    done?;
    super::kind::clear(checks, |left| {
        kind == Kind::Programs && left.plugin != "firewall" && !left.away.contains("lane1")
    });
    let left = machine.left().await;
    checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
    Ok(())
}

async fn with(checks: &mut Checks, machine: &Machine, kind: Kind) -> Result<()> {
    let mut daemon = kind.daemon_without("firewall").await?;
    let done = lengths(checks, machine, &daemon, kind).await;
    daemon.finish(done).await
}

async fn lengths(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    let wanted = if kind == Kind::Embedded { SHORT } else { USUAL };
    let served = Served::new(daemon, "short", &[]).await?;
    let inside = run_in(served.netns.as_fd(), || {
        let routes = Routes::open()?;
        let eth0 = routes.index("eth0")?.ok_or(std::io::ErrorKind::NotFound)?;
        routes.mtu(eth0)
    })?;
    let routes = Routes::open()?;
    let bridges = tool("ip -o link show type bridge")?;
    let bridge = bridges.split(": ").nth(1).context("no bridge")?;
    let at = routes.index(bridge)?.context("the bridge has gone")?;
    let ports = routes.ports(at)?;
    let mut found = vec![("eth0".to_owned(), inside), (bridge.to_owned(), routes.mtu(at)?)];
    for (index, name) in &ports {
        found.push((name.clone(), routes.mtu(*index)?));
    }
    let same = ports.len() == 1 && found.iter().all(|(_, mtu)| *mtu == Some(wanted));
    let what = match kind {
        Kind::Embedded => {
            "the pod's interface, its other end and the bridge have the uplink's MTU".to_owned()
        }
        _ => format!("by a configuration with one of its own they have that, {}", kind.word()),
    };
    checks.that(&what, same, format!("{found:?}"));
    for v6 in [false, true] {
        checks.note("  and the machine reaches it", answers(&machine.own, served.at(v6)?, "short"));
    }
    served.gone(daemon).await
}
