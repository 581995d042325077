//! A disk that is full, and one that fails: a small tmpfs, and an ext4 whose device has no room behind it, so that writing
//! back gives EIO. (A device mapper target would be the usual way; not every kernel has one.)

use anyhow::Result;
use nix::mount::{MsFlags, mount};

use super::{layers, whole, write_big};
use crate::checks::Checks;
use crate::daemon::Daemon;
use crate::disk::{Mounted, ext4};
use crate::registry::Registry;

pub(super) async fn run(checks: &mut Checks, registry: &Registry) -> Result<()> {
    let home = tempfile::Builder::new().prefix("berth-disks-").tempdir()?;
    let archive = home.path().join("large.tar");
    write_big(&archive, "lane/large:1", 40 << 20, 200)?;
    registry.push_as(&archive, "lane/large:1", &["--dest-compress-format", "gzip"])?;
    let name = format!("{}/lane/large:1", registry.host());

    let full = Mounted::tmpfs(&home.path().join("full/root"), "24m")?;
    let mut daemon = Daemon::bare(home.path().join("full"), &format!("f{}", std::process::id())).await?;
    let done = on_a_full_disk(checks, &mut daemon, &name).await;
    daemon.finish(done).await?;
    drop(daemon);
    drop(full);

    let below = Mounted::tmpfs(&home.path().join("below"), "30m")?;
    let disk = below.path().join("disk");
    ext4(&disk, 300 << 20, &["-E", "nodiscard", "-O", "^has_journal"])?;
    let broken = Mounted::image(&disk, &home.path().join("broken/root/images"))?;
    let mut daemon = Daemon::bare(home.path().join("broken"), &format!("b{}", std::process::id())).await?;
    let done = on_a_broken_disk(checks, &mut daemon, &name, broken, &below).await;
    daemon.finish(done).await
}

async fn on_a_full_disk(checks: &mut Checks, daemon: &mut Daemon, name: &str) -> Result<()> {
    let mut client = crate::client::Client::connect(&daemon.socket()).await?;
    let told = client.pull(name).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    checks.that("a full disk: the pull says so", told.contains("No space left"), &told);
    checks.that(
        "  nothing is left, the space is back",
        layers(daemon)?.len() <= 1,
        layers(daemon)?.join(" "),
    );
    checks.that("  nothing is visible", client.images().await? == 0, "an image is listed");
    let status = crate::layers::said(&mut daemon.typed(&["status"])?)?;
    checks.that("  the daemon lives", status.ok, &status.err);
    nix::mount::mount(
        Some("lane"),
        &daemon.path("root"),
        Some("tmpfs"),
        MsFlags::MS_REMOUNT,
        Some("size=200m,mode=0700"),
    )?;
    client.pull(name).await?;
    checks.note("  with more room the next pull heals", whole(daemon));
    client.remove_image(name).await
}

async fn on_a_broken_disk(
    checks: &mut Checks,
    daemon: &mut Daemon,
    name: &str,
    broken: Mounted,
    below: &Mounted,
) -> Result<()> {
    let mut client = crate::client::Client::connect(&daemon.socket()).await?;
    let told = client.pull(name).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    let failed = told.contains("Input/output error") || told.contains("No space left");
    checks.that("a disk that fails to write: the pull says so", failed, &told);
    checks.that("  nothing is visible", client.images().await? == 0, "an image is listed");
    daemon.kill()?;
    drop(broken);
    mount(Some("lane"), below.path(), Some("tmpfs"), MsFlags::MS_REMOUNT, Some("size=300m,mode=0700"))?;
    let disk = below.path().join("disk");
    ext4(&disk, 300 << 20, &["-F", "-E", "nodiscard"])?;
    let _mended = Mounted::image(&disk, &daemon.path("root/images"))?;
    let mut client = daemon.start().await?;
    client.pull(name).await?;
    checks.note("  on a new disk the next pull heals", whole(daemon));
    client.remove_image(name).await?;
    daemon.kill()
}
