//! A client of older bindings that are not ours: what it sends is understood, what it gets makes sense to it. And clients of
//! other libraries.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::daemon::{Daemon, IMAGE};

pub(crate) async fn run(checks: &mut Checks) -> Result<()> {
    let program = std::env::var_os("BERTH_E2E_SKEW").context("BERTH_E2E_SKEW names the old client")?;
    let mut daemon = Daemon::new().await?;
    let before = Footprint::take(&daemon)?;
    let done = Command::new(program).arg(daemon.socket()).arg(IMAGE).arg(daemon.path("logs")).output()?;
    for line in String::from_utf8_lossy(&done.stdout).lines() {
        let (what, problem) = line.split_once('\t').unwrap_or((line, "the line has no tab"));
        checks.note(what, if problem.is_empty() { Ok(()) } else { Err(problem) });
    }
    checks.that(
        "the old client came to its end",
        done.status.success(),
        String::from_utf8_lossy(&done.stderr),
    );
    crate::clients::run(checks, &daemon).await?;
    checks.note("no directory, row or descriptor is left", given_back(&daemon, &before).await);
    daemon.reset().await
}
