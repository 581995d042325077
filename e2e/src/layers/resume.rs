//! A slow transfer that is cut, with the daemon's death or without, goes on where it was.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use super::proxy::{Proxy, Ways};
use super::{killed, layers, whole, write_big};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::disk::Mounted;
use crate::registry::Registry;

/// Of the larger layer.
const SIZE: u64 = 8 << 20;
/// So slow that it is plain from the first half megabyte on.
const RATE: u64 = 1200 << 10;
const SLOW: Ways = Ways { stall: false, rate: Some(RATE), asked_rate: None, whole: false };
/// Where it is cut.
const CUT: u64 = 5 << 20;
/// Where it is cut first, when what is left is cut once more.
const FIRST: u64 = 2 << 20;
/// What of that need not come again, at least.
const KEPT: u64 = 4 << 20;
/// For answers beside the layer, and their heads.
const BESIDE: u64 = 64 << 10;

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    let archive = daemon.path("resume.tar");
    write_big(&archive, "lane/resume:1", usize::try_from(SIZE)?, 20)?;
    registry.push_as(&archive, "lane/resume:1", &["--dest-compress-format", "gzip"])?;
    // On a disk of its own: what is free of the machine's decides whether anything is kept.
    daemon.kill()?;
    let disk = Mounted::tmpfs(&daemon.path("root/images/partial"), "64m")?;
    let mut client = daemon.start().await?;
    let before = layers(daemon)?;

    client = cut(daemon, client, registry).await?;
    let kept = size(daemon)?;
    checks.that("killed in a slow transfer: what came late of it is kept", (KEPT..CUT).contains(&kept), kept);
    let open = Proxy::start(&registry.host(), u64::MAX, false)?;
    go_on(checks, daemon, &mut client, &open, Some(SIZE + BESIDE - kept)).await?;

    let cutting = Proxy::with(&registry.host(), FIRST, SLOW)?;
    let name = format!("{}/lane/resume:1", cutting.host());
    checks.that("cut for good in a slow transfer: an error", client.pull(&name).await.is_err(), "it came");
    let first = size(daemon)?;
    client = cut(daemon, client, registry).await?;
    let second = size(daemon)?;
    checks.that(
        "  a second cut adds to what is kept",
        first >= FIRST / 2 && second > first,
        format!("{first} {second}"),
    );
    let open = Proxy::start(&registry.host(), u64::MAX, false)?;
    go_on(checks, daemon, &mut client, &open, Some(SIZE + BESIDE - second)).await?;

    client = cut(daemon, client, registry).await?;
    let ignorant = Proxy::with(&registry.host(), u64::MAX, Ways { whole: true, ..Ways::default() })?;
    checks.that(
        "killed in a transfer of a registry that knows no ranges",
        size(daemon)? >= KEPT,
        size(daemon)?,
    );
    go_on(checks, daemon, &mut client, &ignorant, None).await?;

    client = cut(daemon, client, registry).await?;
    let part = parts(daemon)?.pop().context("nothing is kept")?;
    let mut bytes = std::fs::read(&part)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes)?;
    let open = Proxy::start(&registry.host(), u64::MAX, false)?;
    go_on(checks, daemon, &mut client, &open, None).await?;
    let passed = open.passed();
    checks.that("what is kept and damaged is found out: all of it is fetched", passed > SIZE, passed);

    std::fs::write(disk.path().join("filler"), vec![1; 60 << 20])?;
    client = cut(daemon, client, registry).await?;
    checks.that("on a disk that is nearly full nothing is kept", parts(daemon)?.is_empty(), size(daemon)?);

    cut(daemon, client, registry).await?;
    let part = parts(daemon)?.pop().context("nothing is kept")?;
    let old = SystemTime::now() - Duration::from_secs(25 * 3600);
    std::fs::File::options().write(true).open(&part)?.set_modified(old)?;
    daemon.kill()?;
    client = daemon.start().await?;
    checks.that("after a day nothing is kept", parts(daemon)?.is_empty(), size(daemon)?);
    let listed = client.images().await?;
    checks.that(
        "  and no layer more than before",
        layers(daemon)? == before,
        format!("{listed} {:?}", layers(daemon)?),
    );
    Ok(())
}

/// A pull up to [`CUT`], and the daemon killed there and back.
async fn cut(daemon: &mut Daemon, client: Client, registry: &Registry) -> Result<Client> {
    let proxy = Proxy::with(&registry.host(), CUT, Ways { stall: true, ..SLOW })?;
    anyhow::ensure!(killed(daemon, client, proxy, "lane/resume:1").await?, "the pull ended well");
    daemon.start().await
}

/// The next pull brings it, with so many bytes at most, and keeps nothing beside.
async fn go_on(
    checks: &mut Checks,
    daemon: &Daemon,
    client: &mut Client,
    through: &Proxy,
    most: Option<u64>,
) -> Result<()> {
    let name = format!("{}/lane/resume:1", through.host());
    client.pull(&name).await?;
    if let Some(most) = most {
        let passed = through.passed();
        let told = format!("{passed} bytes, at most {most}");
        checks.that("  the next pull goes on from there", passed <= most, told);
    }
    checks.note("  it comes whole", whole(daemon));
    checks.that("  and nothing is kept any more", parts(daemon)?.is_empty(), size(daemon)?);
    client.remove_image(&name).await
}

fn parts(daemon: &Daemon) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(daemon.path("root/images/partial"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Bytes that are kept.
fn size(daemon: &Daemon) -> Result<u64> {
    Ok(parts(daemon)?.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum())
}
