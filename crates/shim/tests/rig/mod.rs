//! A shim of the built binary, driven as the daemon drives it, with the host's programs as the container's.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Standard};
use std::time::{Duration, Instant};

use berth_shim_wire::*;
use berth_sys::mount::{self, Layer, Overlay};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Pod {
    pub(crate) directory: PathBuf,
    shim: Child,
    daemon: Daemon,
}

struct Daemon {
    socket: UnixStream,
    sequence: u32,
    events: VecDeque<Event>,
}

impl Daemon {
    fn connect(directory: &Path) -> Self {
        let socket = berth_sys::fd::connect_seqpacket(&directory.join("shim.sock")).unwrap();
        berth_sys::fd::set_nonblocking(socket.as_fd(), false).unwrap();
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, sequence: 0, events: VecDeque::new() }
    }

    fn next(&self) -> (Incoming, Vec<OwnedFd>) {
        let mut buffer = vec![0; MAX_PACKET];
        let (length, fds) =
            berth_sys::fd::recv_packet(self.socket.as_fd(), &mut buffer).expect("an answer in time");
        (decode_incoming(&buffer[..length]).unwrap(), fds)
    }

    fn call(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        self.sequence += 1;
        let frame = encode_request(request, self.sequence);
        berth_sys::fd::send_packet(self.socket.as_fd(), &frame, fds).unwrap();
        loop {
            match self.next() {
                (Incoming::Reply(sequence, reply), fds) if sequence == self.sequence => return (reply, fds),
                (Incoming::Event(event), _) => self.events.push_back(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

impl Pod {
    pub(crate) fn new(name: &str, plan: SandboxPlan) -> Self {
        let directory = std::env::temp_dir().join(format!("berth-shim-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let listener = berth_sys::fd::listen_seqpacket(&directory.join("shim.sock")).unwrap();
        let shim = Command::new(env!("CARGO_BIN_EXE_berth-shim"))
            .arg("a".repeat(64))
            .stdin(Standard::from(listener))
            .stdout(Standard::from(File::open(&directory).unwrap()))
            .stderr(Standard::from(File::create(directory.join("shim.log")).unwrap()))
            .spawn()
            .unwrap();
        let daemon = Daemon::connect(&directory);
        let mut pod = Self { directory, shim, daemon };
        let (hello, _) = pod.call(&Request::Hello { version: PROTOCOL_VERSION }, &[]);
        assert!(matches!(hello, Reply::Hello { version: PROTOCOL_VERSION, .. }), "{hello:?}");
        let (ready, fds) = pod.call(&Request::SetUp(plan), &[]);
        assert_eq!((ready, fds.len()), (Reply::Ready { netns: FdIndex(0) }, 1));
        pod
    }

    pub(crate) fn call(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        self.daemon.call(request, fds)
    }

    /// What a daemon killed and started again does.
    pub(crate) fn reconnect(&mut self) -> ShimSnapshot {
        self.daemon = Daemon::connect(&self.directory);
        self.call(&Request::Hello { version: PROTOCOL_VERSION }, &[]);
        match self.call(&Request::Snapshot, &[]).0 {
            Reply::Snapshot(snapshot) => snapshot,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Of the shim.
    pub(crate) fn pid(&self) -> u32 {
        self.shim.id()
    }

    pub(crate) fn container(&self, id: &str) -> Launch {
        Launch::new(&self.directory, id)
    }

    /// Waits for the event that this matches.
    pub(crate) fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.daemon.events.iter().find_map(&wanted) {
                return found;
            }
            match self.daemon.next() {
                (Incoming::Event(event), _) => self.daemon.events.push_back(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub(crate) fn exit_of(&mut self, id: &str) -> ExitStatus {
        self.event(|event| match event {
            Event::ContainerExited { container_id, status } if container_id == id => Some(*status),
            _ => None,
        })
    }

    pub(crate) fn exec(&mut self, plan: ExecPlan, fds: &[BorrowedFd<'_>]) -> ExitStatus {
        let wanted = plan.exec_id;
        let (reply, _) = self.call(&Request::Exec(Box::new(plan)), fds);
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        self.event(|event| match event {
            Event::ExecExited { exec_id, status } if *exec_id == wanted => Some(*status),
            _ => None,
        })
    }

    /// Starts a shell script, waits for its end, and gives its code and output lines (stream, tag, text).
    pub(crate) fn run(&mut self, launch: Launch) -> (i32, Vec<(String, String, String)>) {
        let id = launch.plan.container_id.clone();
        launch.start(self);
        let status = self.exit_of(&id);
        (status.code, lines(&self.log(&id)))
    }

    /// [`Pod::run`] for scripts that succeed; the text of standard output.
    pub(crate) fn output(&mut self, launch: Launch) -> String {
        let (code, lines) = self.run(launch);
        assert_eq!(code, 0, "{lines:?}");
        let text = lines.into_iter().filter(|line| line.0 == "stdout").map(|line| line.2);
        text.collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let ended = if std::thread::panicking() { None } else { Some(self.call(&Request::Shutdown, &[]).0) };
        if ended.is_none() {
            let _ = self.shim.kill();
        }
        let status = self.shim.wait();
        let said = fs::read_to_string(self.directory.join("shim.log")).unwrap_or_default();
        let _ = fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            assert_eq!(ended, Some(Reply::Done));
            assert!(status.is_ok_and(|status| status.success()), "{said}");
        }
    }
}

/// The lines of a CRI log; the time of each is checked for its shape.
pub(crate) fn lines(log: &Path) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let parse = |line: &str| {
        let mut parts = line.splitn(4, ' ').map(str::to_owned);
        let time = parts.next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z') && time.contains('T'), "{line}");
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    };
    text.lines().map(parse).collect()
}

/// Waits until this holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub(crate) fn step(target: &str, kind: MountKind) -> MountStep {
    let attrs = MountAttrs::default();
    MountStep { target: c(target), kind, attrs, propagation: Propagation::Private }
}

pub(crate) fn root() -> Identity {
    // All that this machine lets root have.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let all = u64::from_str_radix(all, 16).unwrap();
    let caps = CapSets { bounding: all, permitted: all, effective: all, ..CapSets::default() };
    Identity {
        uid: 0,
        gid: 0,
        groups: vec![],
        umask: 0o022,
        caps,
        no_new_privs: false,
        seccomp: vec![],
        seccomp_flags: 0,
    }
}

const PATH: &str = "PATH=/nowhere:/usr/bin:/usr/sbin";

/// A plan being put together, and its descriptors.
pub(crate) struct Launch {
    pub(crate) plan: LaunchPlan,
    pub(crate) fds: Vec<OwnedFd>,
    /// The one lower layer of the root filesystem.
    pub(crate) layer: PathBuf,
    top: PathBuf,
}

impl Launch {
    fn new(directory: &Path, id: &str) -> Self {
        let (layer, top) = (directory.join(format!("{id}-layer")), directory.join(format!("{id}-top")));
        for path in [layer.join("usr"), layer.join("tmp"), top.join("upper"), top.join("work")] {
            fs::create_dir_all(path).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), layer.join(name)).unwrap();
        }
        let path = directory.join(format!("{id}.log"));
        let log = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path).unwrap();
        let dev = MountKind::Tmpfs { size: 65536, mode: 0o755, inodes: 0 };
        let mut launch = Self { plan: plan(id), fds: vec![log.into()], layer, top };
        let usr = launch.bind("/usr", "/usr");
        let mounts = [
            usr,
            step("/proc", MountKind::Proc),
            step("/dev", dev),
            step("/dev/pts", MountKind::Devpts),
            step("/dev/shm", MountKind::PodShm),
        ];
        launch.plan.mounts.extend(mounts);
        launch
    }

    pub(crate) fn script(mut self, text: &str) -> Self {
        self.plan.argv = ["sh", "-c", text].map(c).into();
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut LaunchPlan)) -> Self {
        change(&mut self.plan);
        self
    }

    pub(crate) fn bind(&mut self, source: impl AsRef<Path>, target: &str) -> MountStep {
        let source = mount::clone_path(&c(source.as_ref().to_str().unwrap()), false).unwrap();
        step(target, MountKind::Bind(self.add(source)))
    }

    pub(crate) fn add(&mut self, fd: OwnedFd) -> FdIndex {
        self.fds.push(fd);
        FdIndex(u16::try_from(self.fds.len() - 1).unwrap())
    }

    pub(crate) fn try_start(mut self, pod: &mut Pod) -> (Reply, Vec<OwnedFd>) {
        let (upper, work) = (self.top.join("upper"), self.top.join("work"));
        let upper = Some((Layer::Path(&upper), Layer::Path(&work)));
        let lowers = [Layer::Path(&self.layer)];
        let rootfs = mount::overlay(&Overlay { lowers: &lowers, upper, volatile: true }).unwrap();
        self.plan.rootfs = self.add(rootfs);
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(|fd| fd.as_fd()).collect();
        pod.call(&Request::Launch(Box::new(self.plan.clone())), &fds)
    }

    pub(crate) fn start(self, pod: &mut Pod) -> OwnedFd {
        match self.try_start(pod) {
            (Reply::Started { pid, started_at, .. }, mut fds) => {
                assert!(pid > 1 && started_at > 0 && fds.len() == 1);
                fds.remove(0)
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn plan(id: &str) -> LaunchPlan {
    let null = |path: &str, minor| DeviceNode {
        path: c(path),
        character: true,
        major: 1,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let link = |target, link| Symlink { target: c(target), link: c(link) };
    LaunchPlan {
        container_id: id.into(),
        argv: vec![c("true")],
        env: vec![c(PATH)],
        cwd: c("/"),
        identity: root(),
        rlimits: vec![],
        oom_score_adj: Some(0),
        pid_namespace: PidNamespace::New,
        cgroup_procs: vec![],
        cgroup_dir: None,
        oom_counter: None,
        rootfs: FdIndex(0),
        rootfs_readonly: false,
        rootfs_propagation: Propagation::Private,
        mounts: vec![],
        devices: vec![null("/dev/null", 3), null("/dev/zero", 5)],
        symlinks: vec![link("/proc/self/fd/1", "/dev/stdout"), link("pts/ptmx", "/dev/ptmx")],
        masked_paths: vec![],
        readonly_paths: vec![],
        stdio: Stdio { tty: false, stdin: false, log: LogTarget::File(FdIndex(0)), held: false },
    }
}

pub(crate) fn exec(container: &str, exec_id: u64, script: &str) -> ExecPlan {
    ExecPlan {
        container_id: container.into(),
        exec_id,
        argv: ["sh", "-c", script].map(c).into(),
        env: vec![c(PATH)],
        cwd: c("/"),
        identity: root(),
        rlimits: vec![],
        oom_score_adj: None,
        cgroup_procs: vec![],
        cgroup_dir: None,
        stdio: [None; 3],
        tty: false,
        die_with_daemon: false,
        cgroup_kill: None,
    }
}
