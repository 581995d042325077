//! A disk that is full, and one that fails: a small tmpfs, and an ext4 whose device is a file of another one, which is shut down.
//! (A device mapper target would be the usual way; not every kernel has one.)

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::mount::MsFlags;

use super::proxy::{Proxy, Ways};
use super::{layers, said, whole, write_big};
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::Daemon;
use crate::disk::{Mounted, ext4, shut_down};
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

    let below = Mounted::tmpfs(&home.path().join("below"), "400m")?;
    let disks = Disks::make(below.path(), &home.path().join("broken/root/images"))?;
    let mut daemon = Daemon::bare(home.path().join("broken"), &format!("b{}", std::process::id())).await?;
    let done = on_a_broken_disk(checks, &mut daemon, registry, disks).await;
    daemon.finish(done).await
}

/// What a pull that failed said, by the class that the kubelet shows in full.
fn told(pulled: Result<String>) -> (bool, String) {
    let Err(error) = pulled else { return (false, "it came".to_owned()) };
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    (code == Some(tonic::Code::Unknown), format!("{code:?} {error:#}"))
}

async fn on_a_full_disk(checks: &mut Checks, daemon: &mut Daemon, name: &str) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let (unknown, text) = told(client.pull(name).await);
    checks.that("a full disk: the pull says so", unknown && text.contains("No space left"), &text);
    let given_back = until("the layers of the failed pull to go", || {
        let now = layers(daemon);
        async move { Ok(now?.is_empty().then_some(())) }
    });
    checks.note("  nothing is left, the space is back", given_back.await);
    checks.that("  nothing is visible", client.images().await? == 0, "an image is listed");
    let status = said(&mut daemon.typed(&["status"])?)?;
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

/// An ext4 on a loop device over a file of another ext4, which is one over a file in memory. The lower is the disk.
struct Disks {
    upper: Option<Mounted>,
    lower: Option<Mounted>,
    memory: PathBuf,
    at: PathBuf,
}

const SIZE: u64 = 300 << 20;
const LOWER: u64 = 340 << 20;

impl Disks {
    fn make(memory: &Path, at: &Path) -> Result<Self> {
        let mut disks = Self { upper: None, lower: None, memory: memory.to_owned(), at: at.to_owned() };
        disks.renew()?;
        Ok(disks)
    }

    /// New ones.
    fn renew(&mut self) -> Result<()> {
        self.upper = None;
        self.lower = None;
        let disk = self.memory.join("disk");
        let _ = std::fs::remove_file(&disk);
        ext4(&disk, LOWER, &["-O", "^has_journal"])?;
        self.lower = Some(Mounted::image(&disk, &self.memory.join("lower"))?);
        ext4(&self.file(), SIZE, &["-E", "nodiscard"])?;
        self.mount()
    }

    fn file(&self) -> PathBuf {
        self.memory.join("lower/disk")
    }

    /// The same ones again, which have what was written.
    fn mount(&mut self) -> Result<()> {
        self.upper = None;
        self.upper = Some(Mounted::image(&self.file(), &self.at)?);
        Ok(())
    }
}

/// Slow enough to be in the middle when the disk fails.
const RATE: u64 = 20 << 20;

async fn on_a_broken_disk(
    checks: &mut Checks,
    daemon: &mut Daemon,
    registry: &Registry,
    mut disks: Disks,
) -> Result<()> {
    const EIO: &str = "Input/output error";
    let name = format!("{}/lane/large:1", registry.host());
    let mut client = Client::connect(&daemon.socket()).await?;
    client.pull(&name).await?;
    checks.note("on a disk that works: the image is whole", whole(daemon));
    nix::unistd::syncfs(std::fs::File::open(&disks.at)?)?;
    shut_down(&disks.at)?;
    let found = said(&mut daemon.typed(&["image", "verify"])?)?;
    let holds = found.code == Some(1) && found.out.contains(EIO);
    checks.that("a disk that fails to read: verify says so", holds, format!("{} {}", found.out, found.err));
    let out = daemon.path("out.tar");
    let to = out.to_string_lossy().into_owned();
    let found = said(&mut daemon.typed(&["image", "export", &name, "-o", &to])?)?;
    let left = out.exists() || daemon.path("out.tar.part").exists();
    checks.that(
        "  and export, of which nothing is left",
        !found.ok && found.err.contains(EIO) && !left,
        &found.err,
    );
    daemon.kill()?;
    disks.mount()?;
    let mut client = daemon.start().await?;
    checks.note("  what was on it is whole when it can be read again", whole(daemon));
    client.remove_image(&name).await?;

    let slow = Proxy::with(&registry.host(), u64::MAX, Ways { rate: Some(RATE), ..Ways::default() })?;
    let (mut asking, through) = (client.clone(), format!("{}/lane/large:1", slow.host()));
    let pull = tokio::spawn(async move { asking.pull(&through).await });
    until("the pull to be in the middle", || async { Ok((slow.passed() > 12 << 20).then_some(())) }).await?;
    shut_down(&disks.memory.join("lower"))?;
    let (unknown, text) = told(pull.await?);
    checks.that("a disk that fails to write: the pull says so", unknown && text.contains(EIO), &text);
    checks.that("  nothing is visible", client.images().await? == 0, "an image is listed");
    daemon.kill()?;
    disks.renew()?;
    let mut client = daemon.start().await?;
    client.pull(&name).await?;
    checks.note("  on a new disk the next pull heals", whole(daemon));
    client.remove_image(&name).await?;
    daemon.kill()
}
