//! A daemon of the lane's own: private root, state, name; gone with the lane, also when it fails.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_seccomp::Profile;
use serde_json::json;

use crate::checks::until;
use crate::client::Client;
use crate::image;
use crate::pty::{self, ended, ended_within};

pub(crate) const IMAGE: &str = "berth.test/guest:1";

/// For `berth reset`, which ends every pod there is.
const RESET_MAX: Duration = Duration::from_secs(300);
/// For all its tries after a lane that failed.
const LAST_MAX: Duration = Duration::from_secs(60);

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
    /// System calls that the kernel refuses it, with EMFILE.
    pub(crate) refused: Vec<&'static str>,
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
        let mut daemon = Self::below(temporary.path().to_owned(), &format!("t{}", std::process::id()));
        daemon._temporary = Some(temporary);
        daemon.flags = prepare(&daemon.home)?;
        daemon.start().await?;
        Ok(daemon)
    }

    /// Not started: nothing of it is there yet.
    fn below(home: PathBuf, name: &str) -> Self {
        Self {
            home,
            _temporary: None,
            name: name.to_owned(),
            child: None,
            flags: Vec::new(),
            environment: Vec::new(),
            refused: Vec::new(),
            is_reset: true,
        }
    }

    /// Started in a directory that stays, with the test image imported.
    pub(crate) async fn at(home: PathBuf, name: &str) -> Result<Self> {
        let daemon = Self::bare(home, name).await?;
        daemon.import(IMAGE, "hello").await?;
        Ok(daemon)
    }

    /// Started in a directory that is there, without any image.
    pub(crate) async fn bare(home: PathBuf, name: &str) -> Result<Self> {
        let mut daemon = Self::below(home, name);
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

    /// By another name, a link to the program; variables say which daemon is meant.
    pub(crate) fn linked(&self, name: &str) -> Result<Command> {
        let link = self.path("called").join(name);
        if !link.exists() {
            std::fs::create_dir_all(self.path("called"))?;
            std::os::unix::fs::symlink(std::path::absolute(Self::program()?)?, &link)?;
        }
        let mut command = Command::new(link);
        command.env("BERTH_NAME", &self.name);
        command.env("BERTH_ROOT", self.path("root")).env("BERTH_STATE", self.path("state"));
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
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child =
            if self.refused.is_empty() { serve.spawn()? } else { without(&self.refused, &mut serve)? };
        self.child = Some(child);
        self.is_reset = false;
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

    /// SIGTERM, as a service manager sends it; an end with a failure, or none, is an error.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let code = self.gone().await?;
        anyhow::ensure!(code == Some(0), "the daemon ended with {code:?}: {}", self.log_tail());
        Ok(())
    }

    /// Waits for the end of the daemon's process. One that does not end is still there to be killed.
    async fn gone(&mut self) -> Result<Option<i32>> {
        let child = self.child.as_mut().context("no daemon runs")?;
        let code =
            ended(child).await.with_context(|| format!("the daemon: {}", tail(&self.home.join("log"))))?;
        self.child = None;
        Ok(code)
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
        imported(self.berth(&["image", "import"])?.arg(archive))
    }

    /// The same by standard input, as after a pipe.
    pub(crate) fn import_stdin(&self, archive: &Path) -> Result<()> {
        imported(self.berth(&["image", "import", "-"])?.stdin(std::fs::File::open(archive)?))
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
        let mut reset = self.resetting()?;
        let code = ended_within(&mut reset, RESET_MAX).await;
        let code = code.inspect_err(|_| pty::end(&mut reset)).context("berth reset")?;
        if code != Some(0) {
            let mut said = String::new();
            reset.stderr.take().context("its errors")?.read_to_string(&mut said)?;
            bail!("berth reset: {said}");
        }
        self.gone().await?;
        self.is_reset = true;
        Ok(())
    }

    /// `berth reset` on its way.
    fn resetting(&self) -> Result<Child> {
        let mut reset = self.berth(&["reset", "--yes"])?;
        Ok(reset.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
    }

    /// Whether one worked before `end`.
    fn was_reset(&self, end: Instant) -> Result<bool> {
        let mut reset = self.resetting()?;
        while Instant::now() < end {
            if let Some(status) = reset.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        pty::end(&mut reset);
        Ok(false)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_reset {
            return;
        }
        let end = Instant::now() + LAST_MAX;
        let mut done = false;
        while !done && Instant::now() < end {
            // It hears an interrupt at the terminal as the lane does.
            let ended = self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
            if ended && let Ok(mut serve) = self.berth(&["serve"]) {
                serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                self.child = serve.spawn().ok();
            }
            done = self.was_reset(end).unwrap_or_default();
            // It may not answer yet.
            std::thread::sleep(Duration::from_millis(50));
        }
        if !done {
            eprintln!("instance {} could not be reset; its pods may be left", self.name);
        }
        let _ = self.kill();
    }
}

/// Starts a program to which the kernel refuses system calls (seccomp(2)): on a thread that ends, since the filter is the
/// thread's as well as its children's.
fn without(calls: &[&str], program: &mut Command) -> Result<Child> {
    let rule = json!({ "names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EMFILE });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let filter = berth_seccomp::compile(&Profile::from_json(profile.to_string().as_bytes(), 0)?)?;
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            berth_sys::process::install_seccomp(&filter.bytes, filter.flags)?;
            program.spawn()
        });
        Ok(started.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??)
    })
}

fn imported(import: &mut Command) -> Result<()> {
    let done = import.output()?;
    if !done.status.success() {
        bail!("berth image import: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
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
