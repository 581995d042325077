//! The plugin `firewall`: what one bridge's pods reach of another's, and others who drop what is passed on.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::kind::{Kind, NETWORK, taken};
use super::machine::{Machine, OWN, tool};
use super::pods::Served;
use super::restarts::{CLEARED, empty};
use super::traffic::{answers, ask};
use crate::checks::Checks;
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// Comes before the lane's own by its name.
fn file(daemon: &Daemon) -> PathBuf {
    daemon.path("cni/00-other.conflist")
}

fn other(daemon: &Daemon) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "other",
        "plugins": [
            {
                "type": "bridge", "bridge": "lane1", "isDefaultGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": daemon.path("ipam"),
                    "ranges": [[{ "subnet": "10.78.0.0/24" }], [{ "subnet": "fd00:78::/64" }]],
                },
            },
            { "type": "firewall", "ingressPolicy": "same-bridge" },
        ],
    })
}

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &Daemon, kind: Kind) -> Result<()> {
    let here = Served::new(daemon, "here", &[]).await?;
    std::fs::write(file(daemon), other(daemon).to_string())?;
    in_use(daemon, |shown| shown["network"] == "other" && shown["problem"].is_null()).await?;
    let (there, beside) =
        (Served::new(daemon, "there", &[]).await?, Served::new(daemon, "beside", &[]).await?);
    for (version, v6) in [("IPv4", false), ("IPv6", true)] {
        let (to_there, to_here) = (there.at(v6)?, here.at(v6)?);
        let reached = thread::scope(|scope| {
            let one = scope.spawn(|| ask(&here.netns, to_there).is_ok());
            let back = scope.spawn(|| ask(&there.netns, to_here).is_ok());
            [one.join().unwrap_or(true), back.join().unwrap_or(true)]
        });
        checks.that(
            &format!("pods of closed bridges do not reach each other, {version}"),
            reached == [false, false],
            format!("{reached:?}"),
        );
        checks.note("  pods of the same do", answers(&beside.netns, to_there, "there"));
        checks.note("  the machine does", answers(&machine.own, to_there, "there"));
        let seen = ask(&there.netns, Machine::mirror(v6)).unwrap_or_else(|error| error.to_string());
        checks.that("  and they reach the outside", seen == OWN[usize::from(v6)], seen);
    }
    // Those of both networks are seen, else that none is left would say nothing.
    let (taken, has) = (taken(daemon), empty(daemon, Duration::ZERO).await.is_err());
    let counted = has
        && [&here, &there, &beside]
            .iter()
            .all(|pod| pod.ips.iter().all(|ip| taken.contains(&ip.to_string())));
    checks.that("what pods of both bridges have is seen", counted, taken.join(" "));
    for pod in [here, there, beside] {
        pod.gone(daemon).await?;
    }
    checks.note("  all gone: no interface, rule or address is left", empty(daemon, CLEARED).await);
    std::fs::remove_file(file(daemon))?;
    kind.ready(daemon).await?;
    if kind == Kind::InProcess {
        dropped(checks, daemon).await?;
    }
    Ok(())
}

fn by_program(shown: &Value) -> Option<bool> {
    let plugins = shown["plugins"].as_array()?;
    let firewall = plugins.iter().find(|one| one["conf"]["type"] == "firewall")?;
    Some(shown["network"] == NETWORK && shown["problem"].is_null() && firewall["in_process"] == false)
}

/// As Docker does it. What accepts there is the program's, which is asked as long as it is so.
async fn dropped(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    checks.that(
        "nobody drops what is passed on: firewall needs no program",
        by_program(&crate::conflist::shown(daemon).await?) == Some(false),
        "its program",
    );
    for program in ["iptables", "ip6tables"] {
        tool(&format!("{program} -P FORWARD DROP"))?;
    }
    in_use(daemon, |shown| by_program(shown) == Some(true)).await?;
    let pod = Served::new(daemon, "passed", &[]).await?;
    for v6 in [false, true] {
        let seen = ask(&pod.netns, Machine::mirror(v6)).unwrap_or_else(|error| error.to_string());
        let what = format!("somebody drops it: a new pod reaches {} all the same", Machine::mirror(v6));
        checks.that(&what, seen == OWN[usize::from(v6)], seen);
    }
    pod.gone(daemon).await?;
    for family in ["ip", "ip6"] {
        tool(&format!("nft delete table {family} filter"))?;
    }
    let back = in_use(daemon, |shown| by_program(shown) == Some(false)).await;
    checks.note("  and no program again, once nobody does", back);
    Ok(())
}
