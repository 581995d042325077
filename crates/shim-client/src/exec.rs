//! Processes born into a container: run to their end, or connected to somebody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::{CgroupPath, Cgroups, ExecLeaf};
use berth_model::ExecOutput;
use berth_shim_wire::{ExecPlan, ExitStatus, FdIndex, Request};
use berth_sys::{fd as sysfd, process, tty};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::output::Stream;
use crate::pod::{Desk, KILL_PATIENCE, START_PATIENCE, ShimPod, born, patient};
use crate::{ShimError, Wanted};

/// Room in the pipes of a connected exec, in bytes.
const PIPE_SIZE: usize = 256 * 1024;
/// How long processes have after a hang-up to end by themselves.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);

/// Why an exec gave no output.
#[derive(Debug, thiserror::Error)]
pub enum ExecFailure {
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// execve(2) refused the command: not there, not a program, not allowed.
    #[error("{0}")]
    Command(ShimError),
    #[error(transparent)]
    Shim(ShimError),
}

impl From<ShimError> for ExecFailure {
    /// A refusal of execve(2) is told apart: it is the command's fault.
    fn from(error: ShimError) -> Self {
        match error {
            ShimError::Step(ref step) if step.step == "execve" => Self::Command(error),
            error => Self::Shim(error),
        }
    }
}

impl ExecFailure {
    /// For a refused command: its file is missing, as against not being executable.
    pub fn is_missing(&self) -> bool {
        use nix::libc::{ENOENT, ENOTDIR};
        matches!(self, Self::Command(ShimError::Step(step)) if matches!(step.errno, ENOENT | ENOTDIR))
    }
}

/// Our ends of a process's standard streams, non-blocking. Of a terminal `stdin` and `stdout` are its master.
#[derive(Debug, Default)]
pub struct Ends {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl ShimPod {
    /// Runs a process in a container to its end. A caller who goes away ends it too.
    pub async fn exec(
        &self,
        plan: ExecPlan,
        cgroup_path: &str,
        limit: Option<Duration>,
    ) -> Result<ExecOutput, ExecFailure> {
        let wanted = Wanted { tty: false, stdin: false, stdout: true, stderr: true };
        let (ends, guard, mut ended) = self.begin(plan, cgroup_path, wanted).await?;
        let (over, exited) = watch::channel(false);
        let collect = |pipe: Option<OwnedFd>| {
            let stream = pipe.map(Stream::new).transpose().map_err(ShimError::Socket)?;
            let exited = exited.clone();
            Ok::<_, ShimError>(async move {
                match stream {
                    Some(stream) => stream.collect(exited).await,
                    None => Ok(Vec::new()),
                }
            })
        };
        let (stdout, stderr) = (collect(ends.stdout)?, collect(ends.stderr)?);
        let wait = async {
            let status = end_of(&mut ended).await;
            over.send_replace(true);
            status
        };
        let all = async { tokio::join!(wait, stdout, stderr) };
        let (status, stdout, stderr) = match limit {
            None => all.await,
            // Dropping the guard kills the exec's own cgroup.
            Some(limit) => timeout(limit, all).await.map_err(|_| ExecFailure::TimedOut(limit))?,
        };
        let status = status?;
        guard.finish();
        Ok(ExecOutput {
            stdout: stdout.map_err(ShimError::Socket)?,
            stderr: stderr.map_err(ShimError::Socket)?,
            exit_code: status.code,
        })
    }

    /// A process in a container with somebody at the other end of its streams. Dropping the handle ends it.
    pub async fn exec_connected(
        self: &Arc<Self>,
        plan: ExecPlan,
        cgroup_path: &str,
        wanted: Wanted,
    ) -> Result<(Ends, Exec), ShimError> {
        let (ends, guard, ended) = self.begin(plan, cgroup_path, wanted).await?;
        let terminal = if wanted.tty { ends.stdout.as_ref() } else { None };
        let terminal = terminal.map(crate::spawn::duplicate).transpose().map_err(ShimError::Socket)?;
        let exec = Exec {
            pod: self.clone(),
            exec_id: guard.exec_id,
            ended,
            terminal: Mutex::new(terminal),
            guard: Mutex::new(Some(guard)),
        };
        Ok((wanted.of(ends), exec))
    }

    /// Gives birth. With a terminal all ends that there are come back, asked for or not.
    async fn begin(
        &self,
        mut plan: ExecPlan,
        cgroup_path: &str,
        wanted: Wanted,
    ) -> Result<(Ends, ExecGuard, watch::Receiver<Option<ExitStatus>>), ShimError> {
        let exec_id = self.number();
        plan.exec_id = exec_id;
        plan.tty = wanted.tty;
        plan.die_with_daemon = true;
        let (cgroups, path) = (self.cgroups.clone(), cgroup_path.to_owned());
        let prepared = crate::blocking(move || Prepared::new(&cgroups, &path, exec_id, wanted)).await?;
        let Prepared { mut leaf, mut fds, theirs, ours } = prepared;
        plan.cgroup_procs = (0..fds.len() as u16).map(FdIndex).collect();
        plan.stdio = theirs.map(|end| {
            end.map(|end| {
                fds.push(end);
                FdIndex(fds.len() as u16 - 1)
            })
        });
        let mut add = |fd: OwnedFd| {
            fds.push(fd);
            FdIndex(fds.len() as u16 - 1)
        };
        plan.cgroup_dir = leaf.dir_fd.take().map(&mut add);
        plan.cgroup_kill = leaf.kill_fd.take().map(&mut add);
        let (tell, ended) = watch::channel(None);
        self.desk.execs.lock().insert(exec_id, tell);
        let mut guard = ExecGuard { desk: self.desk.clone(), exec_id, leaf: Some(leaf), leader: None };
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let request = Request::Exec(Box::new(plan));
        let answer = patient(START_PATIENCE, self.connection.call(&request, &borrowed)).await;
        drop(fds);
        guard.leader = Some(born(answer?)?.1);
        Ok((ours.ends()?, guard, ended))
    }
}

async fn end_of(ended: &mut watch::Receiver<Option<ExitStatus>>) -> Result<ExitStatus, ShimError> {
    match ended.wait_for(Option::is_some).await {
        Ok(status) => (*status).ok_or(ShimError::Gone),
        // The sender goes without a word only with the connection.
        Err(_) => Err(ShimError::Gone),
    }
}

/// A process somebody is connected to.
#[derive(Debug)]
pub struct Exec {
    pod: Arc<ShimPod>,
    exec_id: u64,
    ended: watch::Receiver<Option<ExitStatus>>,
    terminal: Mutex<Option<OwnedFd>>,
    guard: Mutex<Option<ExecGuard>>,
}

impl Exec {
    /// Without a terminal nothing happens.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), ShimError> {
        match &*self.terminal.lock() {
            Some(terminal) => tty::resize(terminal.as_fd(), columns, rows).map_err(ShimError::Socket),
            None => Ok(()),
        }
    }

    /// How its first process ended. Its stragglers live on.
    pub async fn wait(&self) -> Result<ExitStatus, ShimError> {
        let status = end_of(&mut self.ended.clone()).await?;
        *self.terminal.lock() = None;
        if let Some(guard) = self.guard.lock().take() {
            guard.finish();
        }
        Ok(status)
    }

    /// SIGHUP, and after a while SIGKILL to all that is left of it.
    pub async fn hang_up(&self) {
        // The kernel hangs up a terminal with its last master (pty(7)): the foreground group hears of it too.
        *self.terminal.lock() = None;
        self.signal(nix::libc::SIGHUP).await;
        if timeout(HANG_UP_GRACE, end_of(&mut self.ended.clone())).await.is_err() {
            // On a host without a cgroup of the exec's own there is only the process.
            self.signal(nix::libc::SIGKILL).await;
        }
        let guard = self.guard.lock().take();
        drop(guard);
    }

    async fn signal(&self, signal: i32) {
        match self.pod.done(Request::SignalExec { exec_id: self.exec_id, signal }, &[]).await {
            // Ended by itself, or with the whole pod.
            Ok(()) | Err(ShimError::Step(_) | ShimError::Gone) => {}
            Err(error) => {
                tracing::debug!(
                    exec_id = self.exec_id,
                    error = &error as &dyn std::error::Error,
                    "no signal"
                );
            }
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.guard.get_mut().is_none() {
            return;
        }
        let (pod, exec_id) = (self.pod.clone(), self.exec_id);
        // With the guard goes the exec's cgroup and all in it; where there is none, at least the process.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let kill = Request::SignalExec { exec_id, signal: nix::libc::SIGKILL };
                let _ = pod.done(kill, &[]).await;
            });
        }
    }
}

/// What an exec needs before it is asked for.
struct Prepared {
    leaf: ExecLeaf,
    fds: Vec<OwnedFd>,
    theirs: [Option<OwnedFd>; 3],
    ours: Ours,
}

enum Ours {
    Pipes(Ends),
    /// Over which the master of the terminal comes.
    Terminal(OwnedFd),
}

impl Ours {
    fn ends(self) -> Result<Ends, ShimError> {
        let socket = match self {
            Self::Pipes(ends) => return Ok(ends),
            Self::Terminal(socket) => socket,
        };
        // Sent before the program was executed: it is there.
        let (_, mut masters) = sysfd::recv_packet(socket.as_fd(), &mut [0; 8]).map_err(ShimError::Socket)?;
        let master = masters.pop().ok_or(ShimError::Protocol)?;
        sysfd::set_nonblocking(master.as_fd(), true).map_err(ShimError::Socket)?;
        let stdin = Some(crate::spawn::duplicate(&master).map_err(ShimError::Socket)?);
        Ok(Ends { stdin, stdout: Some(master), stderr: None })
    }
}

impl Prepared {
    fn new(cgroups: &Cgroups, path: &str, exec_id: u64, wanted: Wanted) -> Result<Self, ShimError> {
        let fail = |source| ShimError::Cgroup { path: path.to_owned(), source };
        let (theirs, ours) = streams(wanted).map_err(ShimError::Socket)?;
        let cgroup = cgroups.open(&CgroupPath::new(path).map_err(fail)?);
        let mut leaf = cgroup.exec_leaf(&format!("exec-{exec_id}")).map_err(fail)?;
        let fds = std::mem::take(&mut leaf.procs_files);
        Ok(Self { leaf, fds, theirs, ours })
    }
}

fn streams(wanted: Wanted) -> io::Result<([Option<OwnedFd>; 3], Ours)> {
    if wanted.tty {
        let (ours, theirs) = sysfd::seqpacket_pair()?;
        sysfd::set_nonblocking(ours.as_fd(), true)?;
        return Ok(([Some(theirs), None, None], Ours::Terminal(ours)));
    }
    // Reading end, writing end; which one is ours and does not block is up to the stream.
    let pipe = |wanted: bool| wanted.then(|| sysfd::pipe(Some(PIPE_SIZE))).transpose();
    let ours = |end: &Option<OwnedFd>| match end {
        Some(end) => sysfd::set_nonblocking(end.as_fd(), true),
        None => Ok(()),
    };
    let (stdin_read, stdin) = pipe(wanted.stdin)?.unzip();
    let (stdout, stdout_write) = pipe(wanted.stdout)?.unzip();
    let (stderr, stderr_write) = pipe(wanted.stderr)?.unzip();
    for end in [&stdin, &stdout, &stderr] {
        ours(end)?;
    }
    Ok(([stdin_read, stdout_write, stderr_write], Ours::Pipes(Ends { stdin, stdout, stderr })))
}

/// Ends the exec when its caller stops waiting, by deadline or by going away.
#[derive(Debug)]
struct ExecGuard {
    desk: Arc<Desk>,
    exec_id: u64,
    leaf: Option<ExecLeaf>,
    /// Of its first process, which leads a group of its own.
    leader: Option<OwnedFd>,
}

impl ExecGuard {
    /// The leader ended by itself: only the empty cgroup goes. A straggler keeps it until the container's end.
    fn finish(mut self) {
        self.leader = None;
        if let Some(leaf) = self.leaf.take() {
            tokio::task::spawn_blocking(move || leaf.remove_if_empty());
        }
    }
}

impl Drop for ExecGuard {
    fn drop(&mut self) {
        self.desk.execs.lock().remove(&self.exec_id);
        // On a host without a cgroup of the exec's own its process group is all that is known of it.
        if let Some(leader) = self.leader.take() {
            let _ = process::kill_group(leader.as_fd());
        }
        // Without a runtime the daemon ends, and its shims kill the exec.
        if let (Some(leaf), Ok(runtime)) = (self.leaf.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || {
                if let Err(error) = leaf.kill_and_remove(KILL_PATIENCE) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an ended exec's cgroup stays");
                }
            });
        }
    }
}
