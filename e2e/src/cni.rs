//! CNI: configurations and plugins that are programs. A recorder of the lane's own says what every plugin was told; Debian's
//! plugins connect pods for real. The lane has a network namespace and mounts of its own.

/// That something holds of what was found, or an error that shows it.
macro_rules! holds {
    ($condition:expr, $($found:tt)+) => { anyhow::ensure!($condition, $($found)+) };
}

mod check;
mod cuts;
mod debian;
mod environment;
mod failures;
mod hangs;
mod owed;
mod protocol;
mod recorder;
mod versions;
mod watched;
mod wishes;

use anyhow::Result;

use self::recorder::Recorder;
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::daemon::Daemon;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = all(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn all(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let recorder = Recorder::new(daemon)?;
    daemon.kill()?;
    daemon.flags = recorder.flags();
    environment::prepare(daemon);
    daemon.start().await?;
    recorder.configure(&recorder::chain("1.1.0"))?;
    recorder.ready(daemon).await?;
    let before = Footprint::take(daemon)?;
    protocol::all(checks, daemon, &recorder).await?;
    versions::all(checks, daemon, &recorder).await?;
    failures::all(checks, daemon, &recorder).await?;
    hangs::all(checks, daemon, &recorder).await?;
    owed::all(checks, daemon, &recorder).await?;
    watched::all(checks, daemon, &recorder).await?;
    check::all(checks, daemon, &recorder).await?;
    cuts::all(checks, daemon, &recorder).await?;
    debian::all(checks, daemon, &recorder).await?;
    wishes::all(checks, daemon, &recorder).await?;
    environment::all(checks, &recorder)?;
    checks.note("no directory, row or descriptor is left", given_back(daemon, &before).await);
    let left = recorder.left(daemon)?;
    let counted = recorder.path("ipam/debian").is_dir();
    checks.that("Debian's plugins had addresses to give back", counted, "no directory of theirs");
    checks.that("no record, bound namespace or address is left", left.is_empty(), left.join("; "));
    Ok(())
}
