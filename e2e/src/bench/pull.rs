//! The pull of a large image from a registry on loopback, beside containerd's, by turns and into fresh directories of a disk
//! of the bench's own. What was unpacked stays until the end: ext4 is slow to give out inodes again that were freed a
//! minute ago, by whomever.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::big::{Big, NAMES, floor};
use super::figures::{Report, Series, ticks};
use super::images;
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::disk::used;
use crate::disk::{Mounted, ext4};
use crate::image;
use crate::peer::Peer;
use crate::registry::Registry;

const ROUNDS: usize = 5;
/// Bytes: the image two and twenty times, and room.
const DISK: u64 = 22 << 30;
/// Of it that is written.
const ROOM: u64 = 17 << 30;
/// Of containerd's time, and of the floor's.
const OF_PEER: f64 = 0.55;
const OF_FLOOR: f64 = 1.25;

pub(crate) async fn run(checks: &mut Checks) -> Result<()> {
    let home = std::env::var_os("BERTH_E2E_HOME").context("BERTH_E2E_HOME names a directory that stays")?;
    let big = Big::made(home.as_ref()).await?;
    let registry = Registry::over(&big.data()).await?;
    let at = tempfile::Builder::new().prefix("berth-pull-").tempdir()?;
    let room = nix::sys::statvfs::statvfs(at.path())?;
    let room = room.blocks_available() * room.fragment_size();
    anyhow::ensure!(room >= ROOM, "the pulls take {} GiB in {}", ROOM >> 30, at.path().display());
    let disk = at.path().join("disk");
    // Nothing is to be made ready in the background while somebody is measured.
    ext4(&disk, DISK, &["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"])?;
    let kept = Mounted::image(&disk, &at.path().join("kept"))?;
    let blobs = big.blobs()?;
    let (mut ours, mut theirs, mut least) = (Series::default(), Series::default(), Series::default());
    let (mut our_work, mut their_work, mut least_work) =
        (Series::default(), Series::default(), Series::default());
    let (mut peak, mut disk, mut moved, mut shares) = (0, 0, 0, Vec::new());
    let mut daemons = Vec::new();
    let mut peers = Vec::new();
    for round in 0..ROUNDS {
        let before_us = least_of(&blobs, kept.path().join(format!("floor-{round}-0"))).await?;

        let mut daemon = fresh(kept.path(), round).await?;
        rest();
        let before = received()?;
        let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok()).context("no daemon runs")?;
        let worked = ticks(pid)?;
        let took = pull(&daemon.socket(), &registry).await?;
        ours.push(took);
        our_work.push(ticks(pid)? - worked);
        moved = received()? - before;
        peak = peak.max(peak_memory(pid)?);
        disk = used(&daemon.path("root"))?.0;
        daemon.reset().await?;
        daemons.push(daemon);
        let after_us = least_of(&blobs, kept.path().join(format!("floor-{round}-1"))).await?;
        // A disk is not as fast now as a moment ago: what is just before and just after counts.
        let around = (before_us.0 + after_us.0) / 2;
        shares.push(took.as_secs_f64() / around.as_secs_f64());
        for (took, worked) in [before_us, after_us] {
            least.push(took);
            least_work.push(worked);
        }

        let small = kept.path().join("small.tar");
        image::write(&small, crate::daemon::IMAGE, "bench")?;
        let peer = Peer::start_in(kept.path(), &small).await?;
        rest();
        let worked = ticks(peer.pid())?;
        theirs.push(pull(&peer.socket(), &registry).await?);
        their_work.push(ticks(peer.pid())? - worked);
        peers.push(peer);
    }
    let mut daemon = fresh(kept.path(), ROUNDS).await?;
    rest();
    let before = received()?;
    let (one, all) = together(&daemon, &registry).await?;
    let shared = received()? - before;
    let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok()).context("no daemon runs")?;
    let crowded = peak_memory(pid)?;
    let (mut asked, told) = images::asked(&daemon).await?;
    let on_disk = used(&daemon.path("root/images/layers"))?.0;
    daemon.reset().await?;
    let mut daemon = fresh(kept.path(), ROUNDS + 1).await?;
    let [mut unary, mut streamed] = images::listed(&daemon).await?;
    daemon.reset().await?;

    let mut report = Report::new(checks);
    report.times("pull of 360 MB, 8 layers", &mut ours, &mut theirs, None);
    let (took, peer, least) = (ours.quantile(0.5), theirs.quantile(0.5), least.quantile(0.5));
    report.line("  as a share of containerd's time", took / peer, 1.0, "", Some(OF_PEER));
    shares.sort_by(f64::total_cmp);
    report.line("  as a share of the floor", shares[ROUNDS / 2], peer / least, "", Some(OF_FLOOR));
    report.line("  the floor", least, least, "ms", None);
    report.times("  processor time", &mut our_work, &mut their_work, None);
    let least_work = least_work.quantile(0.5);
    report.line("  the floor's processor time", least_work, least_work, "ms", None);
    report.line("  peak memory of the daemon", peak as f64 / 1024.0, f64::NAN, "KiB", Some(65536.0));
    report.line(
        "  disk, as a share of the tree",
        disk as f64 / big.unpacked()? as f64,
        f64::NAN,
        "",
        Some(1.02),
    );
    report.line(&format!("{NAMES} names of it at once"), all, f64::NAN, "ms", None);
    report.line("  as a share of one pull", all / one.min(took), f64::NAN, "", Some(1.25));
    report.line("  bytes, as a share of one pull's", shared as f64 / moved as f64, f64::NAN, "", Some(1.05));
    report.line("  peak memory of the daemon", crowded as f64 / 1024.0, f64::NAN, "KiB", Some(65536.0));
    report.line("ImageFsInfo with it", asked.quantile(0.5), f64::NAN, "ms", Some(5.0));
    let apart = (told as f64 / on_disk as f64 - 1.0).abs();
    report.line("  what it says is apart from the disk by a share of", apart, f64::NAN, "", Some(0.02));
    let unary = [unary.quantile(0.5), streamed.quantile(0.5)];
    report.line(&format!("ListImages of {} images", images::IMAGES), unary[0], f64::NAN, "ms", Some(5.0));
    report.line(&format!("StreamImages of {}", images::IMAGES), unary[1], f64::NAN, "ms", Some(5.0));
    drop((daemons, peers));
    drop(kept);
    Ok(())
}

/// How long the floor takes at this moment, and its processor time.
async fn least_of(blobs: &[PathBuf], into: PathBuf) -> Result<(Duration, Duration)> {
    rest();
    let (blobs, own) = (blobs.to_vec(), i32::try_from(std::process::id())?);
    tokio::task::spawn_blocking(move || {
        let (since, worked) = (Instant::now(), ticks(own)?);
        floor(&blobs, &into)?;
        Ok((since.elapsed(), ticks(own)? - worked))
    })
    .await?
}

async fn fresh(at: &Path, round: usize) -> Result<Daemon> {
    let home = at.join(format!("berth-{round}"));
    std::fs::create_dir(&home)?;
    Daemon::bare(home, &format!("p{}", std::process::id())).await
}

/// What earlier work still writes is not this one's time.
fn rest() {
    nix::unistd::sync();
}

async fn pull(socket: &Path, registry: &Registry) -> Result<Duration> {
    let mut client = Client::connect(socket).await?;
    let since = Instant::now();
    client.pull(&format!("{}/{}", registry.host(), Big::name(0))).await?;
    Ok(since.elapsed())
}

/// Every name at once on a daemon that has none: the first and the last to be there, in milliseconds.
async fn together(daemon: &Daemon, registry: &Registry) -> Result<(f64, f64)> {
    let client = Client::connect(&daemon.socket()).await?;
    let since = Instant::now();
    let mut work = JoinSet::new();
    for n in 0..NAMES {
        let (mut client, name) = (client.clone(), format!("{}/{}", registry.host(), Big::name(n)));
        work.spawn(async move { client.pull(&name).await.map(|_| since.elapsed()) });
    }
    let mut series = Series::default();
    while let Some(done) = work.join_next().await {
        series.push(done??);
    }
    Ok((series.quantile(0.0), series.quantile(1.0)))
}

/// Bytes that came over loopback: the bench has a network namespace of its own.
fn received() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no lo in /proc/net/dev")?;
    Ok(line.split_whitespace().next().context("/proc/net/dev is short")?.parse()?)
}

/// The most that was ever resident, in bytes (proc(5), status, VmHWM).
fn peak_memory(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("status has no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
