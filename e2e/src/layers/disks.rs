//! A disk that is full, and one that fails: a small tmpfs, and an ext4 whose device has no room behind it, so that writing
//! back gives EIO. (A device mapper target would be the usual way; not every kernel has one.)

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount, umount};

use super::{layers, whole, write_big};
use crate::checks::Checks;
use crate::daemon::Daemon;
use crate::registry::Registry;

/// Unmounted at the end, also when the lane fails.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let options = format!("size={size},mode=0700");
        mount(Some("lane"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(at.to_owned()))
    }

    fn image(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let done = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at).output()?;
        if !done.status.success() {
            bail!("mount -o loop: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if umount(&self.0).is_err() {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

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
    let disk = below.0.join("disk");
    std::fs::File::create(&disk)?.set_len(300 << 20)?;
    let made = Command::new("/usr/sbin/mkfs.ext4")
        .args(["-q", "-E", "nodiscard", "-O", "^has_journal"])
        .arg(&disk)
        .output();
    let made = made.context("mkfs.ext4 (package e2fsprogs)")?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
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
    mount(Some("lane"), &below.0, Some("tmpfs"), MsFlags::MS_REMOUNT, Some("size=300m,mode=0700"))?;
    let disk = below.0.join("disk");
    let made =
        Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F", "-E", "nodiscard"]).arg(&disk).output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let _mended = Mounted::image(&disk, &daemon.path("root/images"))?;
    let mut client = daemon.start().await?;
    client.pull(name).await?;
    checks.note("  on a new disk the next pull heals", whole(daemon));
    client.remove_image(name).await?;
    daemon.kill()
}
