//! A pull that is cut, killed or lied to at any point: a clear error, nothing visible, nothing left, and the next one heals.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::proxy::Proxy;
use super::{killed, layers, whole, write_big};
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::Daemon;
use crate::registry::Registry;

/// The layer has 6 MiB: in the manifest, the small layer, at three places of the large one.
const POINTS: [u64; 6] = [0, 700, 4 << 10, 300 << 10, 3 << 20, 6 << 20];

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    let archive = daemon.path("faults.tar");
    write_big(&archive, "lane/faults:1", 6 << 20, 300)?;
    registry.push_as(&archive, "lane/faults:1", &["--dest-compress-format", "gzip"])?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = layers(daemon)?;
    let images = client.images().await?;

    for bytes in POINTS {
        let proxy = Proxy::start(&registry.host(), bytes, false)?;
        let error = client.pull(&format!("{}/lane/faults:1", proxy.host())).await.err();
        let told = error.map(|error| format!("{error:#}")).unwrap_or_default();
        checks.that(
            &format!("cut after {bytes} bytes: an error that names the host"),
            told.contains(&proxy.host()),
            &told,
        );
        clean(checks, daemon, &mut client, images).await?;
    }
    daemon.kill()?;
    client = started(checks, daemon, &before, images).await?;
    for bytes in POINTS {
        let proxy = Proxy::start(&registry.host(), bytes, true)?;
        let failed = killed(daemon, client, proxy, "lane/faults:1").await?;
        checks.that(&format!("killed after {bytes} bytes"), failed, "the pull ended well");
        client = started(checks, daemon, &before, images).await?;
    }

    let name = format!("{}/lane/faults:1", registry.host());
    let blobs = Blobs { data: registry.data() };
    let large = blobs.largest()?;
    for (what, harm) in [
        ("a blob of other bytes", Harm::Flip),
        ("a blob that is cut", Harm::Cut),
        ("a blob of nothing", Harm::Empty),
    ] {
        let good = std::fs::read(&large)?;
        std::fs::write(&large, harm.done(&good))?;
        let told = client.pull(&name).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        std::fs::write(&large, &good)?;
        checks.that(&format!("{what}: an error"), told.contains("layer"), &told);
        clean(checks, daemon, &mut client, images).await?;
    }
    let manifest = blobs.manifest()?;
    let good = std::fs::read(&manifest)?;
    std::fs::write(&manifest, Harm::Flip.done(&good))?;
    let digest =
        manifest.parent().and_then(Path::file_name).context("a digest")?.to_string_lossy().into_owned();
    let pinned = format!("{}/lane/faults@sha256:{digest}", registry.host());
    let told = client.pull(&pinned).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    std::fs::write(&manifest, &good)?;
    // Debian's registry looks at manifests itself; one that does not is among the lane's own, see `images`.
    let holds = told.contains("answered 500") && told.contains(&digest);
    checks.that("a manifest that is not what its digest says: an error", holds, &told);
    clean(checks, daemon, &mut client, images).await?;
    daemon.kill()?;
    let mut client = started(checks, daemon, &before, images).await?;

    client.pull(&name).await?;
    checks.note("the next pull heals: it is whole", whole(daemon));
    client.remove_image(&name).await?;
    checks.that("  and its space is given back", layers(daemon)? == before, layers(daemon)?.join(" "));
    Ok(())
}

/// Nothing is visible, and of layers only whole ones are left: the next attempt need not fetch those again.
async fn clean(checks: &mut Checks, daemon: &Daemon, client: &mut Client, images: usize) -> Result<()> {
    let listed = client.images().await?;
    let settled = until("what was begun to be gone", || {
        let now = layers(daemon);
        async move { Ok((!now?.iter().any(|name| name.starts_with('.'))).then_some(())) }
    })
    .await;
    let good = listed == images && settled.is_ok();
    checks.that(
        "  nothing is visible, no part is left",
        good,
        format!("{listed} {}", layers(daemon)?.join(" ")),
    );
    Ok(())
}

/// After the next start nothing at all is left.
async fn started(
    checks: &mut Checks,
    daemon: &mut Daemon,
    before: &[String],
    images: usize,
) -> Result<Client> {
    let mut client = daemon.start().await?;
    let now = layers(daemon)?;
    let good = client.images().await? == images && now == before;
    checks.that("  after the next start nothing is visible, nothing is left", good, now.join(" "));
    Ok(client)
}

enum Harm {
    Flip,
    Cut,
    Empty,
}

impl Harm {
    fn done(&self, good: &[u8]) -> Vec<u8> {
        let mut bad = good.to_vec();
        match self {
            Self::Flip => bad[good.len() / 2] ^= 0x20,
            Self::Cut => bad.truncate(good.len() * 2 / 3),
            Self::Empty => bad.clear(),
        }
        bad
    }
}

/// A registry's blobs on disk.
struct Blobs {
    data: PathBuf,
}

impl Blobs {
    fn all(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for group in std::fs::read_dir(self.data.join("docker/registry/v2/blobs/sha256"))? {
            for blob in std::fs::read_dir(group?.path())? {
                found.push(blob?.path().join("data"));
            }
        }
        Ok(found)
    }

    fn largest(&self) -> Result<PathBuf> {
        let all = self.all()?;
        all.into_iter().max_by_key(|path| path.metadata().map_or(0, |m| m.len())).context("no blob")
    }

    /// The manifest of the lane's image: the one that names the largest blob.
    fn manifest(&self) -> Result<PathBuf> {
        let largest = self.largest()?;
        let hex =
            largest.parent().and_then(Path::file_name).context("a digest")?.to_string_lossy().into_owned();
        let names = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.len() < 1 << 20)
                && std::fs::read_to_string(path).is_ok_and(|text| text.contains(&hex))
        };
        self.all()?.into_iter().find(names).context("no manifest")
    }
}
