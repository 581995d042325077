//! What the daemon asks, one function each.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_launch::{Birth as LaunchBirth, ExecBirth, Outcome, Report, Streams, UserNamespace, clone_through};
use berth_shim_wire::{
    ExecPlan, FdIndex, LaunchPlan, LogTarget, PROTOCOL_VERSION, PidNamespace, Reply, Request, SandboxPlan,
    ShimSnapshot, StepError,
};
use berth_sys::fd as sysfd;
use berth_sys::process::{self, CloneFlags};

use crate::births::{Birth, Kind};
use crate::clock;
use crate::containers::{Container, Exec, Output, oom_kills};
use crate::host::{Host, NODES_PATH, NULL_PATH, ROOTFS, SHM_PATH, SYS_PATH};
use crate::log::{Log, Stream};
use crate::shim::Shim;
use crate::taps::Taps;

/// Room in the pipes of a container's output, so that a burst does not wait for us.
const PIPE_SIZE: usize = 1024 * 1024;

pub(crate) fn failed(step: &str, object: &str, error: &io::Error) -> StepError {
    StepError { step: step.into(), object: object.into(), errno: error.raw_os_error().unwrap_or(0) }
}

/// For steps of ours that answer a request.
pub(crate) trait At<T> {
    fn at(self, step: &str, object: &str) -> Result<T, StepError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: &str, object: &str) -> Result<T, StepError> {
        self.map_err(|error| failed(step, object, &error))
    }
}

pub(crate) fn pick(fds: &[OwnedFd], index: FdIndex) -> Result<&OwnedFd, StepError> {
    let missing = || failed("find a descriptor of the plan", "", &io::Error::from_raw_os_error(libc::EBADF));
    fds.get(usize::from(index.0)).ok_or_else(missing)
}

/// The two ends of what says how a birth went.
fn report_pipe() -> io::Result<(OwnedFd, Report)> {
    let (reader, writer) = sysfd::pipe(None)?;
    sysfd::set_nonblocking(reader.as_fd(), true)?;
    Ok((reader, Report(writer)))
}

impl Shim {
    pub(crate) fn request(&mut self, sequence: u32, request: Request, fds: Vec<OwnedFd>) {
        let answer = match request {
            Request::Hello { .. } => Ok(Reply::Hello {
                version: PROTOCOL_VERSION,
                pid: std::process::id(),
                sandbox_id: self.id.clone(),
            }),
            Request::SetUp(plan) => match self.set_up(&plan) {
                Ok(netns) => return self.answer(sequence, &Reply::Ready { netns: FdIndex(0) }, vec![netns]),
                Err(error) => Err(error),
            },
            // Answered when the report is complete.
            Request::Launch(plan) => match self.launch(sequence, &plan, &fds) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Exec(plan) => match self.exec(sequence, &plan, &fds) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Signal { container_id, signal } => {
                self.signal(&container_id, signal).map(|()| Reply::Done)
            }
            Request::SignalExec { exec_id, signal } => {
                let exec = self.execs.iter().find(|exec| exec.id == exec_id);
                let gone =
                    || failed("find exec", &exec_id.to_string(), &io::Error::from_raw_os_error(libc::ESRCH));
                exec.ok_or_else(gone)
                    .and_then(|exec| process::send_signal(exec.pidfd.as_fd(), signal).at("signal exec", ""))
                    .map(|()| Reply::Done)
            }
            Request::ReopenLog { container_id, file } => {
                self.reopen(&container_id, file, fds).map(|()| Reply::Done)
            }
            // An account given in the middle of a birth would deny the child: it waits for the birth's end.
            Request::Snapshot if !self.unborn.is_empty() => {
                self.asked.push((sequence, self.generation));
                return;
            }
            Request::Snapshot => Ok(self.account()),
            Request::Forget { container_id } => self.forget(&container_id).map(|()| Reply::Done),
            Request::Attach(plan) => match self.attach(&plan, &fds) {
                Ok((number, reply, given)) => {
                    self.answer(sequence, &reply, given);
                    self.release(number);
                    // An attach to what has ended already ends with its answer.
                    return self.settle(number);
                }
                Err(error) => Err(error),
            },
            // We live in the pod's network namespace, and so do the sockets we make.
            Request::Socket { ipv6 } => match berth_sys::net::tcp_socket(ipv6).at("make a socket", "") {
                Ok(made) => {
                    return self.answer(sequence, &Reply::Socket { socket: FdIndex(0) }, vec![made]);
                }
                Err(error) => Err(error),
            },
            Request::Shutdown => {
                self.end();
                // The last thing this shim says; see answer_end.
                self.end_sequence = sequence;
                return;
            }
        };
        self.answer(sequence, &answer.unwrap_or_else(Reply::Failed), Vec::new());
    }

    fn account(&self) -> Reply {
        Reply::Snapshot(ShimSnapshot {
            containers: self.containers.values().map(Container::snapshot).collect(),
        })
    }

    fn set_up(&mut self, plan: &SandboxPlan) -> Result<OwnedFd, StepError> {
        if self.is_set_up {
            return Err(failed("set up", "", &io::Error::from_raw_os_error(libc::EALREADY)));
        }
        let made = self.host.set_up(plan);
        let netns = made.map_err(|(step, object, error)| failed(step, &object, &error))?;
        self.is_set_up = true;
        Ok(netns)
    }

    pub(crate) fn running(&self, id: &str) -> Result<&Container, StepError> {
        let found = self.containers.values().find(|c| c.id == id && c.exit.is_none());
        found
            .ok_or_else(|| failed("find a running container", id, &io::Error::from_raw_os_error(libc::ESRCH)))
    }

    fn signal(&self, id: &str, signal: i32) -> Result<(), StepError> {
        process::send_signal(self.running(id)?.pidfd.as_fd(), signal).at("signal", id)
    }

    fn reopen(&mut self, id: &str, file: FdIndex, mut fds: Vec<OwnedFd>) -> Result<(), StepError> {
        self.running(id)?;
        pick(&fds, file)?;
        let file = fds.swap_remove(usize::from(file.0));
        if let Some(container) = self.containers.values_mut().find(|c| c.id == id) {
            container.log.reopen(file);
        }
        Ok(())
    }

    fn forget(&mut self, id: &str) -> Result<(), StepError> {
        if self.containers.values().any(|c| c.id == id && c.exit.is_none()) {
            return Err(failed("forget a running container", id, &io::Error::from_raw_os_error(libc::EBUSY)));
        }
        self.containers.retain(|_, c| c.id != id);
        self.remove_record(id);
        Ok(())
    }

    /// Kills everything; the loop ends when nothing is left.
    fn end(&mut self) {
        self.ending = true;
        let running = self.containers.values().filter(|c| c.exit.is_none()).map(|c| &c.pidfd);
        let execs = self.execs.iter().map(|exec| &exec.pidfd);
        let births = self.births.values().map(|birth| &birth.pidfd);
        let init = self.pod_init.iter().map(|(_, pidfd)| pidfd);
        for pidfd in running.chain(execs).chain(births).chain(init) {
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }

    pub(crate) fn answer_end(&mut self) {
        let sequence = self.end_sequence;
        if let Some(daemon) = &self.daemon {
            // Blocking from here: the process ends right after.
            let _ = sysfd::set_nonblocking(daemon.socket.as_fd(), false);
        }
        self.answer(sequence, &Reply::Done, Vec::new());
    }

    /// The pidfd of the namespace's process 1 that a birth is to happen in; `None`: none or a new one.
    fn pid_namespace(&mut self, wanted: PidNamespace, fds: &[OwnedFd]) -> Result<Option<OwnedFd>, StepError> {
        match wanted {
            PidNamespace::New | PidNamespace::Host => Ok(None),
            PidNamespace::Join(index) => {
                pick(fds, index)?.try_clone().map(Some).at("join the pid namespace", "")
            }
            PidNamespace::Pod => {
                if self.pod_init.is_none() {
                    self.pod_init = Some(start_init(&self.host).at("make the pod's pid namespace", "")?);
                }
                let init = self.pod_init.as_ref().map(|(_, pidfd)| pidfd.try_clone());
                init.transpose().at("join the pod's pid namespace", "")
            }
        }
    }

    fn launch(&mut self, sequence: u32, plan: &LaunchPlan, fds: &[OwnedFd]) -> Result<(), StepError> {
        let mut known = self.containers.values().chain(self.unborn.values());
        if self.ending || known.any(|c| c.id == plan.container_id) {
            return Err(failed(
                "launch twice",
                &plan.container_id,
                &io::Error::from_raw_os_error(libc::EEXIST),
            ));
        }
        let inside = self.pid_namespace(plan.pid_namespace, fds)?;
        let log = match plan.stdio.log {
            LogTarget::Discard => None,
            LogTarget::File(index) => Some(pick(fds, index)?.try_clone().at("open the log", "")?),
        };
        let oom = plan
            .oom_counter
            .map(|index| pick(fds, index)?.try_clone().at("open the oom counter", ""))
            .transpose()?;
        let wires = Wires::new(plan.stdio.tty, plan.stdio.stdin, &self.host.null)
            .at("make the standard streams", "")?;
        let (report, write_report) = report_pipe().at("make the report pipe", "")?;
        let gate = Gate::new(&plan.cgroup_procs, fds)?;
        let cgroup = plan.cgroup_dir.map(|index| pick(fds, index)).transpose()?;

        let userns = self.host.userns.as_ref();
        if userns.is_some() {
            self.host.nodes(&plan.devices).at("make the nodes of devices", "")?;
        }
        let flags = CloneFlags {
            // A namespace of the pod's user namespace is made from inside it.
            new_mount: userns.is_none(),
            new_pid: plan.pid_namespace == PidNamespace::New,
            ..CloneFlags::default()
        };
        let (gate, attached) = gate.split();
        let ours = LaunchBirth {
            plan,
            fds,
            streams: wires.child,
            report: write_report,
            attached,
            proc: self.host.proc.as_fd(),
            hierarchies: &self.host.hierarchies,
            rootfs: ROOTFS,
            shm: SHM_PATH,
            null: NULL_PATH,
            userns,
            nodes: NODES_PATH,
            sysfs: (userns.is_some() && !self.host.own_net).then_some(SYS_PATH),
        };
        let mut gate = Some(gate);
        let cgroup = cgroup.map(|c| c.as_fd());
        let mut child = |birth: LaunchBirth<'_>| {
            // The writing end closes here: with it open the child would wait for itself.
            drop(gate.take());
            berth_launch::launch(birth)
        };
        let cloned = match userns {
            None => self.clone_inside(flags, cgroup, inside.as_ref(), move || child(ours)).map(Some),
            Some(_) => {
                let inside = inside.as_ref().map(|pidfd| pidfd.as_fd());
                clone_through(flags, cgroup, inside, ours, berth_launch::enter_for, child)
            }
        };
        let Some((pid, pidfd)) = cloned.at("clone", "")? else { return Err(said(&report)) };
        let kind = Kind::Container;
        let mut birth = Birth::new(kind, pid, pidfd, sequence, self.generation, report);
        birth.failed = gate.take().and_then(|gate| gate.open(pid).err());
        let number = self.number();
        let before = oom.as_ref().map_or(0, oom_kills);
        self.unborn.insert(
            number,
            Container {
                id: plan.container_id.clone(),
                pid,
                pidfd: birth.pidfd.try_clone().at("keep the pidfd", "")?,
                started_at: 0,
                exit: None,
                log: Log::new(log),
                outputs: wires.outputs,
                held: plan.stdio.held,
                watched: false,
                taps: Taps::default(),
                terminal: plan.stdio.tty,
                takes_stdin: plan.stdio.stdin,
                stdin: wires.stdin,
                oom: oom.map(|file| (file, before)),
            },
        );
        self.pending_master(number, wires.terminal);
        self.watch_birth(number, birth).at("watch the birth", "")
    }

    fn exec(&mut self, sequence: u32, plan: &ExecPlan, fds: &[OwnedFd]) -> Result<(), StepError> {
        if self.ending {
            return Err(failed("exec", &plan.container_id, &io::Error::from_raw_os_error(libc::ESRCH)));
        }
        let container = self.running(&plan.container_id)?.pidfd.try_clone().at("find the container", "")?;
        let stream = |index: Option<FdIndex>| match index {
            Some(index) => pick(fds, index)?.try_clone().at("open a standard stream", ""),
            None => self.host.null.try_clone().at("open /dev/null", ""),
        };
        let [stdin, stdout, stderr] = plan.stdio;
        let streams = match plan.tty {
            true => Streams::Terminal { socket: stream(stdin)? },
            false => {
                Streams::Pipes { stdin: stream(stdin)?, stdout: stream(stdout)?, stderr: stream(stderr)? }
            }
        };
        let kill = plan.cgroup_kill.map(|index| pick(fds, index)?.try_clone().at("open cgroup.kill", ""));
        let kill = kill.transpose()?;
        let (report, write_report) = report_pipe().at("make the report pipe", "")?;
        let gate = Gate::new(&plan.cgroup_procs, fds)?;
        let cgroup = plan.cgroup_dir.map(|index| pick(fds, index)).transpose()?;
        let (gate, attached) = gate.split();
        let mut gate = Some(gate);
        let mut theirs = Some(ExecBirth {
            plan,
            streams,
            report: write_report,
            attached,
            container: container.as_fd(),
            proc: self.host.proc.as_fd(),
            userns: self.host.userns.as_ref(),
        });
        let cloned =
            self.clone_inside(CloneFlags::default(), cgroup.map(|c| c.as_fd()), Some(&container), || {
                drop(gate.take());
                if let Some(birth) = theirs.take() {
                    berth_launch::exec(birth);
                }
            });
        let (pid, pidfd) = cloned.at("clone", "")?;
        drop(theirs);
        let kind = Kind::Exec {
            id: plan.exec_id,
            container: plan.container_id.clone(),
            die_with_daemon: plan.die_with_daemon,
            kill,
        };
        let mut birth = Birth::new(kind, pid, pidfd, sequence, self.generation, report);
        birth.failed = gate.take().and_then(|gate| gate.open(pid).err());
        let number = self.number();
        self.watch_birth(number, birth).at("watch the birth", "")
    }

    pub(crate) fn number(&mut self) -> u32 {
        // Shifted left by one for outputs: 2^31 births in a pod's life are not reached.
        self.next = (self.next + 1) & 0x7fff_ffff;
        self.next
    }

    /// A child in the pid namespace of `inside`, or in our own.
    fn clone_inside(
        &self,
        flags: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
        inside: Option<&OwnedFd>,
        child: impl FnOnce(),
    ) -> io::Result<(i32, OwnedFd)> {
        if let Some(pidfd) = inside {
            process::enter(pidfd.as_fd(), libc::CLONE_NEWPID)?;
        }
        let cloned = berth_launch::clone_child(flags, cgroup, child);
        if inside.is_some() {
            process::enter(self.host.pid_namespace.as_fd(), libc::CLONE_NEWPID)?;
        }
        cloned
    }

    /// A terminal's master arrives while the child sets it up; it is taken when the birth is through.
    fn pending_master(&mut self, number: u32, terminal: Option<OwnedFd>) {
        if let (Some(socket), Some(container)) = (terminal, self.unborn.get_mut(&number)) {
            // In the place of its output until the master is there.
            container.outputs = vec![Output::new(Stream::Stdout, socket)];
        }
    }

    pub(crate) fn finish_birth(&mut self, number: u32, outcome: Outcome) {
        let Some(birth) = self.births.remove(&number) else { return };
        let _ = self.epoll.delete(&birth.report);
        let unborn = self.unborn.remove(&number);
        let (reply, fds) = match (outcome.failed, birth.pidfd.try_clone()) {
            (Some(error), _) => (Reply::Failed(error), Vec::new()),
            (None, Err(error)) => (Reply::Failed(failed("keep the pidfd", "", &error)), Vec::new()),
            (None, Ok(pidfd)) => {
                let started_at = clock::now();
                let pid = u32::try_from(birth.pid).unwrap_or(0);
                let warnings = outcome.warnings;
                (Reply::Started { pid, started_at, pidfd: FdIndex(0), warnings }, vec![pidfd])
            }
        };
        if let Reply::Started { started_at, .. } = reply {
            match (birth.kind, unborn) {
                (Kind::Container, Some(container)) => self.adopt(number, container, started_at),
                (Kind::Exec { id, container, die_with_daemon, kill }, _) => {
                    let (pid, pidfd) = (birth.pid, birth.pidfd);
                    self.execs.push(Exec { id, container, pid, pidfd, die_with_daemon, kill });
                }
                (Kind::Container, None) => {}
            }
        }
        if birth.generation == self.generation {
            self.answer(birth.sequence, &reply, fds);
        }
        if self.unborn.is_empty() {
            for (sequence, generation) in std::mem::take(&mut self.asked) {
                if generation == self.generation {
                    self.answer(sequence, &self.account(), Vec::new());
                }
            }
        }
    }

    fn adopt(&mut self, number: u32, mut container: Container, started_at: i64) {
        container.started_at = started_at;
        let terminal = container.outputs.first().map(|output| {
            let mut byte = [0; 8];
            sysfd::recv_packet(output.pipe.as_fd(), &mut byte)
        });
        if let Some(Ok((1, mut masters))) = terminal
            && masters.len() == 1
        {
            let master = masters.remove(0);
            container.stdin = master.try_clone().ok();
            container.outputs = vec![Output::new(Stream::Stdout, master)];
        }
        for output in &container.outputs {
            if let Err(error) = sysfd::set_nonblocking(output.pipe.as_fd(), true) {
                crate::note(&format!("the output of {} may block: {error}", container.id));
            }
        }
        self.containers.insert(number, container);
        self.settle(number);
    }
}

/// The standard streams of a container, both sides.
struct Wires {
    child: Streams,
    outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Wires {
    fn new(tty: bool, stdin: bool, null: &OwnedFd) -> io::Result<Self> {
        if tty {
            let (ours, theirs) = sysfd::seqpacket_pair()?;
            let child = Streams::Terminal { socket: theirs };
            return Ok(Self { child, outputs: Vec::new(), stdin: None, terminal: Some(ours) });
        }
        let (stdin_read, stdin_write) = match stdin {
            true => sysfd::pipe(None).map(|(reader, writer)| (reader, Some(writer)))?,
            false => (null.try_clone()?, None),
        };
        let ((out_read, out_write), (err_read, err_write)) =
            (sysfd::pipe(Some(PIPE_SIZE))?, sysfd::pipe(Some(PIPE_SIZE))?);
        Ok(Self {
            child: Streams::Pipes { stdin: stdin_read, stdout: out_write, stderr: err_write },
            outputs: vec![Output::new(Stream::Stdout, out_read), Output::new(Stream::Stderr, err_read)],
            stdin: stdin_write,
            terminal: None,
        })
    }
}

/// Holds a child back until it is in its cgroups.
struct Gate {
    procs: Vec<OwnedFd>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    writer: Option<OwnedFd>,
}

impl Gate {
    fn new(procs: &[FdIndex], fds: &[OwnedFd]) -> Result<Self, StepError> {
        let procs = procs.iter().map(|index| pick(fds, *index)?.try_clone().at("open cgroup.procs", ""));
        let procs = procs.collect::<Result<Vec<_>, _>>()?;
        let pipe = (!procs.is_empty()).then(|| sysfd::pipe(None)).transpose().at("make a pipe", "")?;
        Ok(Self { procs, pipe, writer: None })
    }

    /// The parent's side, and the end the child reads from.
    fn split(mut self) -> (Self, Option<OwnedFd>) {
        let reader = self.pipe.take().map(|(reader, writer)| {
            self.writer = Some(writer);
            reader
        });
        (self, reader)
    }

    /// The parent's: all hierarchies back to back, only the first pays for the kernel's lock. On failure the pipe
    /// closes without its byte and the child ends.
    fn open(self, pid: i32) -> Result<(), StepError> {
        let Some(writer) = self.writer else { return Ok(()) };
        for file in &self.procs {
            sysfd::write(file, pid.to_string().as_bytes()).at("join the cgroup", "")?;
        }
        match sysfd::write(&writer, b"a") {
            // The child failed before it came here, and says itself why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map(drop).at("join the cgroup", ""),
        }
    }
}

/// Process 1 of the pod's shared pid namespace: reaps, and ends when killed.
fn start_init(host: &Host) -> io::Result<(i32, OwnedFd)> {
    let flags = CloneFlags { new_pid: true, ..CloneFlags::default() };
    let Some(userns) = &host.userns else { return berth_launch::clone_child(flags, None, init) };
    let enter = |userns: &&UserNamespace| process::enter(userns.fd.as_fd(), libc::CLONE_NEWUSER).is_ok();
    let made = clone_through(flags, None, None, userns, enter, |_| init())?;
    made.ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))
}

/// Why a process that was to give birth did not: it wrote its report before it ended.
fn said(report: &OwnedFd) -> StepError {
    let mut bytes = vec![0; 4096];
    let length = sysfd::read(report, &mut bytes).unwrap_or(0);
    let unknown = || failed("enter the user namespace", "", &io::Error::from_raw_os_error(libc::EPERM));
    Outcome::parse(&bytes[..length]).failed.unwrap_or_else(unknown)
}

fn init() {
    // Dies with the shim, as everything in the pod. Signals from inside have no effect: process 1 takes only those it
    // has a handler for (pid_namespaces(7)).
    let _ = process::set_parent_death_signal(libc::SIGKILL);
    let _ = sysfd::close_from(0);
    let mut child = nix::sys::signal::SigSet::empty();
    child.add(nix::sys::signal::Signal::SIGCHLD);
    loop {
        // Blocked since the shim's start, so none is missed between the two calls.
        let _ = child.wait();
        while let Ok(Some(_)) = process::wait_any() {}
    }
}
