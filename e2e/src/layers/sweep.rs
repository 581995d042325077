//! kill -9 at moments spread over a pull, an import and a repair: after the next start the image is whole or was never there,
//! and nothing is left.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{layers, said, whole, write_big};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::registry::Registry;

const MOMENTS: u32 = 12;

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    let archive = daemon.path("sweep.tar");
    write_big(&archive, "lane/sweep:1", 8 << 20, 400)?;
    registry.push_as(&archive, "lane/sweep:1", &["--dest-compress-format", "gzip"])?;
    let archive = archive.to_string_lossy().into_owned();
    let name = format!("{}/lane/sweep:1", registry.host());
    let mut lane =
        Sweep { before: layers(daemon)?, images: Client::connect(&daemon.socket()).await?.images().await? };
    for (what, words) in [("a pull", ["pull", &name]), ("an import", ["import", &archive])] {
        lane.adding(checks, daemon, what, &words).await?;
    }
    lane.repairing(checks, daemon, &name).await
}

struct Sweep {
    before: Vec<String>,
    images: usize,
}

/// Begins `berth image …` beside the lane.
fn begin(daemon: &Daemon, words: &[&str]) -> Result<Child> {
    let mut command = daemon.typed(&["image"])?;
    Ok(command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

impl Sweep {
    async fn adding(
        &mut self,
        checks: &mut Checks,
        daemon: &mut Daemon,
        what: &str,
        words: &[&str],
    ) -> Result<()> {
        let since = Instant::now();
        ensure!(begin(daemon, words)?.wait()?.success(), "{what} fails");
        let took = since.elapsed();
        self.remove_all(daemon).await?;
        let mut came = 0;
        for moment in 0..MOMENTS {
            let at = took * 3 * moment / (2 * (MOMENTS - 1));
            came += usize::from(
                self.killed(daemon, words, at)
                    .await
                    .with_context(|| format!("{what} killed after {at:?}"))?,
            );
        }
        let some = came < MOMENTS as usize;
        checks.that(
            &format!("{what} killed at {MOMENTS} moments of one and a half times {took:?}: all or nothing, {came} came"),
            some,
            "none was cut",
        );
        Ok(())
    }

    /// Whether it came.
    async fn killed(&mut self, daemon: &mut Daemon, words: &[&str], at: Duration) -> Result<bool> {
        let mut child = begin(daemon, words)?;
        tokio::time::sleep(at).await;
        daemon.kill()?;
        child.wait()?;
        let mut client = daemon.start().await?;
        let came = client.images().await? > self.images;
        let now = layers(daemon)?;
        ensure!(!now.iter().any(|name| name.starts_with('.')), "parts are left: {now:?}");
        if came {
            whole(daemon).map_err(anyhow::Error::msg)?;
            self.remove_all(daemon).await?;
        } else {
            ensure!(now == self.before, "layers of no image are left: {now:?}");
        }
        Ok(came)
    }

    /// All that came since the sweep began.
    async fn remove_all(&self, daemon: &Daemon) -> Result<()> {
        let mut client = Client::connect(&daemon.socket()).await?;
        let listed = said(&mut daemon.typed(&["image", "list", "--json"])?)?;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.out)?;
        for image in listed {
            let names = image["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
            for name in names.filter(|name| name.contains("lane/sweep")) {
                client.remove_image(name).await?;
            }
        }
        let now = layers(daemon)?;
        ensure!(client.images().await? == self.images && now == self.before, "left: {now:?}");
        Ok(())
    }

    async fn repairing(&mut self, checks: &mut Checks, daemon: &mut Daemon, name: &str) -> Result<()> {
        Client::connect(&daemon.socket()).await?.pull(name).await?;
        let all = layers(daemon)?;
        let repair = ["verify", "--repair", name];
        damage(daemon)?;
        let since = Instant::now();
        ensure!(begin(daemon, &repair)?.wait()?.success(), "the repair fails");
        let took = since.elapsed();
        let mut healed = 0;
        for moment in 0..MOMENTS {
            let at = took * 3 * moment / (2 * (MOMENTS - 1));
            damage(daemon)?;
            let mut child = begin(daemon, &repair)?;
            tokio::time::sleep(at).await;
            daemon.kill()?;
            child.wait()?;
            let mut client = daemon.start().await?;
            ensure!(client.images().await? == self.images + 1, "killed after {at:?}: the image is gone");
            let now = layers(daemon)?;
            ensure!(now == all, "killed after {at:?}: {now:?}");
            if whole(daemon).is_ok() {
                healed += 1;
                continue;
            }
            let again = said(daemon.typed(&["image"])?.args(repair))?;
            ensure!(
                again.ok && again.out.contains("repaired"),
                "killed after {at:?}: {} {}",
                again.out,
                again.err
            );
            whole(daemon).map_err(anyhow::Error::msg)?;
        }
        checks.that(
            &format!("a repair killed at {MOMENTS} moments of one and a half times {took:?}: {healed} healed, the others can be"),
            healed < MOMENTS,
            "none was cut",
        );
        self.remove_all(daemon).await
    }
}

/// Another content in one file of the larger layer.
fn damage(daemon: &Daemon) -> Result<()> {
    let all = std::fs::read_dir(daemon.path("root/images/layers"))?;
    let mut files = all.filter_map(Result::ok).map(|layer| layer.path().join("fs/d/large3"));
    let file = files.find(|path| path.exists()).context("the larger layer")?;
    Ok(std::fs::write(file, "no content of this file")?)
}
