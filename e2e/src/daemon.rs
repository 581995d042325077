//! A daemon of the lane's own: private root, state, name; gone with the lane, also when it fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::checks::until;
use crate::client::Client;
use crate::image;

pub(crate) const IMAGE: &str = "berth.test/guest:1";

pub(crate) struct Daemon {
    home: tempfile::TempDir,
    name: String,
    child: Option<Child>,
}

impl Daemon {
    /// Started, with the test image imported.
    pub(crate) async fn new() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("berth-").tempdir()?;
        let mut daemon = Self { home, name: format!("t{}", std::process::id()), child: None };
        daemon.start().await?;
        daemon.import(IMAGE, "hello").await?;
        Ok(daemon)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("state").join("berth.sock")
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn program() -> Result<PathBuf> {
        std::env::var_os("BERTH_E2E_BERTH")
            .map(PathBuf::from)
            .context("BERTH_E2E_BERTH names the daemon's program")
    }

    fn berth(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(Self::program()?);
        let (root, state) = (self.path("root"), self.path("state"));
        command.args(words).args(["--name", &self.name, "--root"]).arg(root).arg("--state").arg(state);
        Ok(command)
    }

    pub(crate) async fn start(&mut self) -> Result<Client> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let child = self.berth(&["serve"])?.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        self.child = Some(child);
        let socket = self.socket();
        until("the daemon to answer", || {
            let socket = socket.clone();
            async move { Ok(Client::connect(&socket).await.ok()) }
        })
        .await
        .with_context(|| self.log_tail())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) async fn import(&self, name: &str, greeting: &str) -> Result<()> {
        let archive = self.path("image.tar");
        image::write(&archive, name, greeting)?;
        self.import_file(&archive)
    }

    pub(crate) fn import_file(&self, archive: &Path) -> Result<()> {
        let done = self.berth(&["image", "import"])?.arg(archive).output()?;
        if !done.status.success() {
            bail!("berth image import: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// The last lines of its log, for a failure's message.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Removes every pod, network and cgroup of the instance; the daemon ends with it.
    pub(crate) async fn reset(&mut self) -> Result<()> {
        let done = self.berth(&["reset", "--yes"])?.output()?;
        if !done.status.success() {
            bail!("berth reset: {}", String::from_utf8_lossy(&done.stderr));
        }
        if let Some(mut child) = self.child.take() {
            tokio::task::spawn_blocking(move || child.wait()).await??;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            if let Ok(mut reset) = self.berth(&["reset", "--yes"]) {
                let _ = reset.output();
            }
            let _ = self.kill();
        }
    }
}
