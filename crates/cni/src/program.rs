//! Plugins as programs (CNI 1.1, section 2): found, started, bounded in time and output.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_ids::{Classify, ErrorClass};
use berth_sys::{fd as sysfd, process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::turns::Cut;
use crate::{PluginError, Version};

/// Bytes of an answer. A result is about 1 KiB.
const ANSWER_MAX: usize = 1 << 20;
/// Bytes of what a plugin said last on stderr that are told.
const STDERR_MAX: usize = 4096;
/// How long programs of an earlier daemon have to end: ten times what a standard one takes.
const SETTLE: Duration = Duration::from_secs(1);

/// What the standard programs say where a bound was reached: `bridge` of a bridge without a free port (EXFULL, as Go calls
/// it), `host-local` of its ranges. They have no code for it.
const EXHAUSTED: [&str; 2] = ["exchange full", "no IP addresses available in range set"];

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("there is no program {kind:?} in {looked}")]
    Missing { kind: String, looked: String },
    #[error("{} does not start", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("write its configuration to {}", path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("did not end within {after:?} and was killed{}", said(stderr))]
    TimedOut { after: Duration, stderr: String },
    #[error("wrote more than {ANSWER_MAX} bytes and was killed{}", said(stderr))]
    Flood { stderr: String },
    #[error("{error}{}", said(stderr))]
    Refused { error: PluginError, stderr: String },
    #[error("ended with {status} and no word of CNI{}", said(stderr))]
    Died { status: ExitStatus, stderr: String },
    #[error("its answer is not understood: {problem}: {answer}{}", said(stderr))]
    Garbled { problem: String, answer: String, stderr: String },
    #[error("watch it")]
    Watch { source: io::Error },
    #[error("was ended for a pod that comes; it is asked again")]
    Cut,
}

/// Of the daemon's environment: what is no plugin's business, by its beginning. Of the protocol's own variables a call has what
/// it is told and nothing else (with `CNI_NETNS_OVERRIDE` a plugin would take its own namespace for a pod's); the others are
/// addressed to the daemon by whom it was started, systemd among them (sd_notify(3), sd_listen_fds(3)).
const OURS: [&str; 5] = ["CNI_", "BERTH_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"];

fn is_ours(name: &std::ffi::OsStr) -> bool {
    OURS.iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()))
}

fn said(stderr: &str) -> String {
    match stderr.is_empty() {
        true => String::new(),
        false => format!("; on stderr: {stderr}"),
    }
}

impl Classify for ProgramError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Cut => ErrorClass::Unavailable,
            Self::TimedOut { .. } => ErrorClass::DeadlineExceeded,
            Self::Refused { error, .. } if error.code == PluginError::TRY_AGAIN => ErrorClass::Unavailable,
            Self::Refused { error: PluginError { msg, details, .. }, .. }
                if EXHAUSTED.iter().any(|words| msg.contains(words) || details.contains(words)) =>
            {
                ErrorClass::ResourceExhausted
            }
            _ => ErrorClass::Internal,
        }
    }
}

/// The environment of a call. `None` is not told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Environment<'a> {
    pub(crate) container: Option<&'a str>,
    /// Empty: the namespace is gone.
    pub(crate) netns: Option<&'a str>,
    pub(crate) interface: Option<&'a str>,
    pub(crate) args: Option<&'a str>,
}

/// Where programs are, and how long they may take.
#[derive(Debug)]
pub struct Programs {
    /// Searched in their order.
    pub directories: Vec<PathBuf>,
    /// For each call a file with its standard input, locked as long as the program has it.
    pub calls: PathBuf,
    pub timeout: Duration,
    number: AtomicU64,
    /// What programs said they speak, as long as each is the same file.
    spoken: Mutex<HashMap<PathBuf, (Identity, Vec<Version>)>>,
}

/// Device, inode, bytes, and the time of its last change: whoever installs another one changes them.
type Identity = (u64, u64, u64, i64, i64);

/// When a program is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) timeout: Duration,
    /// Sooner, when somebody wants that.
    pub(crate) cut: Option<&'a Cut>,
}

impl From<Duration> for Bounds<'_> {
    fn from(timeout: Duration) -> Self {
        Self { timeout, cut: None }
    }
}

/// What a program wrote.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Programs {
    pub fn new(directories: Vec<PathBuf>, calls: PathBuf, timeout: Duration) -> Self {
        Self { directories, calls, timeout, number: AtomicU64::new(0), spoken: Mutex::default() }
    }

    /// The versions that a program speaks, by `ask` unless it said so before.
    pub(crate) fn spoken(
        &self,
        kind: &str,
        ask: impl FnOnce() -> Result<Option<Vec<Version>>, ProgramError>,
    ) -> Result<Option<Vec<Version>>, ProgramError> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.find(kind)?;
        let identity = std::fs::metadata(&path).ok();
        let identity = identity.map(|f| (f.dev(), f.ino(), f.size(), f.ctime(), f.ctime_nsec()));
        if let Some((of, versions)) = self.spoken.lock().get(&path)
            && Some(*of) == identity
        {
            return Ok(Some(versions.clone()));
        }
        let told = ask()?;
        if let (Some(versions), Some(identity)) = (&told, identity) {
            self.spoken.lock().insert(path, (identity, versions.clone()));
        }
        Ok(told)
    }

    /// The first executable file of this name.
    pub fn find(&self, kind: &str) -> Result<PathBuf, ProgramError> {
        let executable = |path: &PathBuf| {
            let mode = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
            Some(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o111 != 0)
        };
        let places = self.directories.iter().map(|directory| directory.join(kind));
        places.into_iter().find(|path| executable(path) == Some(true)).ok_or_else(|| {
            let looked =
                self.directories.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ");
            ProgramError::Missing { kind: kind.to_owned(), looked }
        })
    }

    /// Runs a plugin to its end.
    pub(crate) fn run(
        &self,
        kind: &str,
        verb: &str,
        environment: Environment<'_>,
        input: &[u8],
        bounds: Bounds<'_>,
    ) -> Result<Answer, ProgramError> {
        let path = self.find(kind)?;
        let (file, _given) = self.input(kind, verb, input)?;
        let paths: Vec<String> = self.directories.iter().map(|d| d.display().to_string()).collect();
        let mut command = Command::new(&path);
        // A group of its own, so that what it starts can be killed with it. No hook between fork and exec: the library
        // spawns with posix_spawn(3), and a daemon of many threads is never copied.
        command.process_group(0).stdin(Stdio::from(file)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let told = [
            ("CNI_COMMAND", Some(verb)),
            ("CNI_CONTAINERID", environment.container),
            ("CNI_NETNS", environment.netns),
            ("CNI_IFNAME", environment.interface),
            ("CNI_ARGS", environment.args),
            ("CNI_PATH", Some(&paths.join(":"))),
        ];
        // The rest is passed on, as by libcni: administrators configure plugins by it (PATH, proxies, what add-ons name).
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        for (name, value) in told {
            value.map(|value| command.env(name, value));
        }
        let child = command.spawn().map_err(|source| ProgramError::Start { path, source })?;
        // Ours closes: the lock is the program's alone.
        drop(command);
        Running { child }.finish(bounds)
    }

    /// The file that becomes its standard input, and what removes it again. Should the daemon die meanwhile, the next one
    /// sees by the lock that somebody still runs with it ([`Programs::settle`]).
    fn input(&self, kind: &str, verb: &str, input: &[u8]) -> Result<(File, Given), ProgramError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let path = self.calls.join(format!("{}-{number}-{verb}-{kind}", std::process::id()));
        let fail = |source| ProgramError::Input { path: path.clone(), source };
        std::fs::create_dir_all(&self.calls).map_err(fail)?;
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(fail)?;
        let given = Given(path.clone());
        file.write_all(input).and_then(|()| file.rewind()).and_then(|()| file.lock_shared()).map_err(fail)?;
        Ok((file, given))
    }

    /// At start: waits a moment for the programs that an earlier daemon left running, then ends those that go on, with their
    /// groups. What they were doing is undone by whoever has the records; one that is stopped half-way may keep what it
    /// would not find again.
    pub fn settle(&self) -> io::Result<usize> {
        let entries = match std::fs::read_dir(&self.calls) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let patient = Instant::now() + SETTLE;
        let mut ended = 0;
        for entry in entries {
            let path = entry?.path();
            if File::open(&path).is_ok_and(|file| file.try_lock().is_err()) {
                ended += end_readers(&path, patient)?;
            }
            std::fs::remove_file(&path)?;
        }
        Ok(ended)
    }
}

/// Kills whoever has the file as standard input and does not end by itself.
fn end_readers(path: &Path, patient: Instant) -> io::Result<usize> {
    let mut ended = 0;
    let reads = |pid: i32| std::fs::read_link(format!("/proc/{pid}/fd/0")).is_ok_and(|found| found == path);
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !reads(pid) {
            continue;
        }
        let Ok(pidfd) = process::open_pidfd(pid) else { continue };
        // Once more, now that the number cannot become another's.
        if reads(pid) && !wait(pidfd.as_fd(), &[], None, patient.saturating_duration_since(Instant::now()))? {
            // Its children may have it too; they are of its group, or found by themselves.
            if process::kill_group(pidfd.as_fd()).is_err() {
                process::send_signal(pidfd.as_fd(), nix::libc::SIGKILL)?;
            }
            ended += 1;
        }
    }
    Ok(ended)
}

/// Goes with the call.
struct Given(PathBuf);

impl Drop for Given {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not reaped yet, so the number still is its own.
        if let Ok(None) = self.child.try_wait() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

impl Running {
    fn kill(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        if nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).is_err() {
            let _ = self.child.kill();
        }
    }

    fn finish(mut self, Bounds { timeout, cut }: Bounds<'_>) -> Result<Answer, ProgramError> {
        let watch = |source| ProgramError::Watch { source };
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(watch(io::ErrorKind::BrokenPipe.into()));
        };
        for pipe in [stdout.as_fd(), stderr.as_fd()] {
            sysfd::set_nonblocking(pipe, true).map_err(watch)?;
        }
        let pidfd = process::open_pidfd(self.child.id().cast_signed()).map_err(watch)?;
        let (mut stdout, mut stderr) = (Pipe::new(stdout), Pipe::new(stderr));
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill();
                return Err(ProgramError::TimedOut { after: timeout, stderr: stderr.text() });
            }
            if cut.is_some_and(Cut::is_cut) {
                self.kill();
                return Err(ProgramError::Cut);
            }
            let gone = wait(pidfd.as_fd(), &[&stdout, &stderr], cut, left).map_err(watch)?;
            // After its end, what it wrote is in the pipes: a child of its own that keeps them open is not waited for.
            stdout.take(ANSWER_MAX, false).map_err(watch)?;
            stderr.take(STDERR_MAX, true).map_err(watch)?;
            if stdout.flooded {
                self.kill();
                return Err(ProgramError::Flood { stderr: stderr.text() });
            }
            if gone {
                break;
            }
        }
        let status = self.child.wait().map_err(watch)?;
        judge(status, stdout.bytes.into(), stderr.text())
    }
}

/// Whether the process has ended; else something is to be read, it is to be cut short, or time is up.
fn wait(
    pidfd: BorrowedFd<'_>,
    pipes: &[&Pipe<dyn Source>],
    cut: Option<&Cut>,
    left: Duration,
) -> io::Result<bool> {
    let mut polled = vec![PollFd::new(pidfd, PollFlags::POLLIN)];
    polled.extend(cut.map(|cut| PollFd::new(cut.as_fd(), PollFlags::POLLIN)));
    for pipe in pipes.iter().filter(|pipe| !pipe.ended) {
        polled.push(PollFd::new(pipe.source.as_fd(), PollFlags::POLLIN));
    }
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled[0].any() == Some(true)),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

trait Source: Read + AsFd {}
impl<T: Read + AsFd> Source for T {}

struct Pipe<S: ?Sized> {
    bytes: VecDeque<u8>,
    flooded: bool,
    ended: bool,
    source: S,
}

impl<S: Read> Pipe<S> {
    fn new(source: S) -> Self {
        Self { bytes: VecDeque::new(), flooded: false, ended: false, source }
    }

    /// Reads what is there. Of more than `most` bytes the last are kept, or it is a flood.
    fn take(&mut self, most: usize, last: bool) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        // A writer that is as fast as we must not keep us from looking at the clock.
        for _ in 0..64 {
            if self.ended || self.flooded {
                break;
            }
            match self.source.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.bytes.len() > most {
                if last {
                    self.bytes.drain(..self.bytes.len() - most);
                } else {
                    self.flooded = true;
                }
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

fn judge(status: ExitStatus, stdout: Vec<u8>, stderr: String) -> Result<Answer, ProgramError> {
    if status.success() {
        return Ok(Answer { stdout, stderr });
    }
    match serde_json::from_slice::<PluginError>(&stdout) {
        Ok(error) if status.signal().is_none() => Err(ProgramError::Refused { error, stderr }),
        _ => Err(ProgramError::Died { status, stderr }),
    }
}

/// The beginning of an answer, for a message.
pub(crate) fn beginning(answer: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(answer).trim().chars().take(300).collect();
    if text.is_empty() { "it wrote nothing".into() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests;
