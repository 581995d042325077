//! A daemon of the lane's own: private root, state, name; gone with the lane, also when it fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::checks::until;
use crate::client::Client;
use crate::image;

pub(crate) const IMAGE: &str = "berth.test/guest:1";

pub(crate) struct Daemon {
    home: PathBuf,
    /// Goes with the daemon, after it.
    _temporary: Option<tempfile::TempDir>,
    name: String,
    child: Option<Child>,
    /// Flags beside those that make it private.
    pub(crate) flags: Vec<String>,
    /// Variables beside the lane's own.
    pub(crate) environment: Vec<(String, String)>,
    is_reset: bool,
}

impl Daemon {
    /// Started, with the test image imported.
    pub(crate) async fn new() -> Result<Self> {
        let daemon = Self::empty().await?;
        daemon.import(IMAGE, "hello").await?;
        Ok(daemon)
    }

    /// Started, without any image.
    pub(crate) async fn empty() -> Result<Self> {
        Self::empty_with(&[]).await
    }

    /// The same, with more flags.
    pub(crate) async fn empty_with(flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::over(|_| Ok(flags)).await
    }

    /// Over what `prepare` puts into its directory, with the flags that it gives and the test image.
    pub(crate) async fn prepared(prepare: impl FnOnce(&Path) -> Result<Vec<String>>) -> Result<Self> {
        let daemon = Self::over(prepare).await?;
        daemon.import(IMAGE, "hello").await?;
        Ok(daemon)
    }

    async fn over(prepare: impl FnOnce(&Path) -> Result<Vec<String>>) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("berth-").tempdir()?;
        let home = temporary.path().to_owned();
        let name = format!("t{}", std::process::id());
        let flags = prepare(&home)?;
        let _temporary = Some(temporary);
        let mut daemon =
            Self { home, _temporary, name, child: None, flags, environment: Vec::new(), is_reset: false };
        daemon.start().await?;
        Ok(daemon)
    }

    /// Started in a directory that stays, with the test image imported.
    pub(crate) async fn at(home: PathBuf, name: &str) -> Result<Self> {
        let mut daemon = Self {
            home,
            _temporary: None,
            name: name.to_owned(),
            child: None,
            flags: Vec::new(),
            environment: Vec::new(),
            is_reset: false,
        };
        daemon.start().await?;
        daemon.import(IMAGE, "hello").await?;
        Ok(daemon)
    }

    /// Started in a directory that is there, without any image.
    pub(crate) async fn bare(home: PathBuf, name: &str) -> Result<Self> {
        let name = name.to_owned();
        let mut daemon = Self {
            home,
            _temporary: None,
            name,
            child: None,
            flags: Vec::new(),
            environment: Vec::new(),
            is_reset: false,
        };
        daemon.start().await?;
        Ok(daemon)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("state").join("berth.sock")
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Of the daemon that runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
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

    /// As a person types it: settings first, since what follows some verbs is not for berth.
    pub(crate) fn typed(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(Self::program()?);
        let (root, state) = (self.path("root"), self.path("state"));
        command.args(["--name", &self.name, "--root"]).arg(root).arg("--state").arg(state).args(words);
        Ok(command)
    }

    /// Exit code and what is said, by standard output and then by the other, when a person types this.
    pub(crate) fn says(&self, words: &[&str]) -> Result<(i32, String)> {
        let done = self.typed(words)?.output()?;
        let text = [done.stdout, done.stderr].concat();
        Ok((done.status.code().unwrap_or(-1), String::from_utf8(text)?))
    }

    pub(crate) async fn start(&mut self) -> Result<Client> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let mut serve = self.berth(&["serve"])?;
        serve.arg("--registry-certs-d").arg(self.path("certs.d")).args(&self.flags);
        serve.envs(self.environment.iter().cloned());
        // Not the machine's: what a lane puts there is in use at once.
        if !self.flags.iter().any(|flag| flag == "--network-cni-conf-dir") {
            serve.arg("--network-cni-conf-dir").arg(self.path("cni"));
        }
        let child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
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

    /// SIGTERM, as a service manager sends it; an end with a failure is an error.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(child.id().try_into()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let ended = tokio::task::spawn_blocking(move || child.wait()).await??;
        anyhow::ensure!(ended.success(), "the daemon ended with {ended}: {}", self.log_tail());
        Ok(())
    }

    /// kill -9 of every shim of this instance.
    pub(crate) fn kill_shims(&self) -> Result<()> {
        let shims = self.shims()?;
        anyhow::ensure!(!shims.is_empty(), "no shim of this instance runs");
        for pid in shims {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// The instance's shims, known by their pods' ids, which are on the command line.
    pub(crate) fn shims(&self) -> Result<Vec<i32>> {
        let mut ids = Vec::new();
        for pod in std::fs::read_dir(self.path("state/pods"))? {
            ids.push(pod?.file_name().to_string_lossy().into_owned());
        }
        processes(|words| {
            words[0].ends_with("berth-shim") && words.iter().any(|word| ids.iter().any(|id| id == word))
        })
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

    /// The same by standard input, as after a pipe.
    pub(crate) fn import_stdin(&self, archive: &Path) -> Result<()> {
        let done = self.berth(&["image", "import", "-"])?.stdin(std::fs::File::open(archive)?).output()?;
        if !done.status.success() {
            bail!("berth image import -: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// The last lines of its log, for a failure's message.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.path("log"))
    }

    /// A lane's end: the log's last lines where it failed, and nothing left of the instance in either case.
    pub(crate) async fn finish(&mut self, done: Result<()>) -> Result<()> {
        if done.is_err() {
            eprintln!("{}", self.log_tail());
        }
        done.and(self.reset().await)
    }

    /// Removes every pod, network and cgroup of the instance; the daemon ends with it. A dead daemon is started once more
    /// for that.
    pub(crate) async fn reset(&mut self) -> Result<()> {
        if self.child.is_none() {
            self.start().await?;
        }
        let done = self.berth(&["reset", "--yes"])?.output()?;
        if !done.status.success() {
            bail!("berth reset: {}", String::from_utf8_lossy(&done.stderr));
        }
        if let Some(mut child) = self.child.take() {
            tokio::task::spawn_blocking(move || child.wait()).await??;
        }
        self.is_reset = true;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_reset {
            return;
        }
        if self.child.is_none()
            && let Ok(mut serve) = self.berth(&["serve"])
        {
            self.child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
        }
        let answered = (0..100).any(|_| {
            let reset = self.berth(&["reset", "--yes"]).and_then(|mut reset| Ok(reset.output()?));
            let done = reset.is_ok_and(|done| done.status.success());
            if !done {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            done
        });
        if !answered {
            eprintln!("instance {} could not be reset; its pods may be left", self.name);
        }
        let _ = self.kill();
    }
}

/// Processes by the words of their command line.
pub(crate) fn processes(wanted: impl Fn(&[&str]) -> bool) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if wanted(&line.trim_end_matches('\0').split('\0').collect::<Vec<_>>()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A log's last lines.
pub(crate) fn tail(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
