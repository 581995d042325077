//! Many pods come and go.

use std::time::Duration;

use anyhow::Result;
use berth_cri_api::v1::*;
use tokio::task::JoinSet;

use super::kind::{Kind, own_in_use, taken};
use super::pods::Served;
use super::ports::tcp;
use super::restarts::{CLEARED, empty};
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// Pods that come and go.
fn pods(kind: Kind) -> usize {
    match kind {
        Kind::Embedded | Kind::InProcess => 300,
        // Each takes some 14 programs, half a second of a core: as many as a minute has.
        Kind::Programs => 150,
    }
}

const AT_ONCE: usize = 8;

pub(super) async fn all(checks: &mut Checks, daemon: &Daemon, kind: Kind) -> Result<()> {
    let pods = pods(kind);
    let before = Footprint::take(daemon)?;
    seen(checks, daemon, kind).await?;
    let mut work = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (socket, logs) = (daemon.socket(), daemon.path("logs"));
        work.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            for number in (lane..pods).step_by(AT_ONCE) {
                let ports = vec![tcp(i32::try_from(20_000 + number)?)];
                let config =
                    PodSandboxConfig { port_mappings: ports, ..pod(&format!("churn-{number}"), &logs) };
                let id = client.run_pod(&config).await?;
                let ips = client.pod_ips(&id).await?;
                holds!(ips.len() == 2, "pod {number} has {ips:?}");
                client.remove_pod(&id).await?;
            }
            anyhow::Ok(())
        });
    }
    let mut done = Ok(());
    while let Some(one) = work.join_next().await {
        done = done.and(one?);
    }
    checks.note(&format!("{pods} pods with ports come and go, {AT_ONCE} at a time"), done);
    checks.note("  no interface, no rule and no address of theirs is left", empty(daemon, CLEARED).await);
    checks.note("  nor a directory, a row or a descriptor", given_back(daemon, &before).await);
    Ok(())
}

/// What a pod has is seen, else that none is left would say nothing.
async fn seen(checks: &mut Checks, daemon: &Daemon, kind: Kind) -> Result<()> {
    let one = Served::new(daemon, "seen", &[]).await?;
    let (own, given) = (own_in_use(daemon)?, taken(daemon));
    let counted = match kind {
        Kind::Embedded => {
            own.len() == 2 && own.iter().all(|used| used.starts_with("1 of ")) && given.is_empty()
        }
        _ => own.is_empty() && one.ips.iter().all(|ip| given.contains(&ip.to_string())),
    };
    let has = empty(daemon, Duration::ZERO).await.is_err();
    checks.that("addresses of a pod are counted as taken", counted && has, format!("{own:?} {given:?}"));
    one.gone(daemon).await
}
