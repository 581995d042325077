//! Those who read along and write to a container under a real shim.

#![expect(clippy::unwrap_used, reason = "the rig of tests fails by panicking, as tests do")]

mod rig;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::*;
use rig::*;

fn plain() -> SandboxPlan {
    SandboxPlan { new_net: true, new_ipc: true, new_uts: true, shm_size: 1 << 20, ..SandboxPlan::default() }
}

/// What an attach gave.
struct Attached {
    stdin: Option<File>,
    stdout: File,
    stderr: File,
    terminal: Option<OwnedFd>,
}

fn attach(pod: &mut Pod, id: &str, attach_id: u64, stdin_once: bool) -> Result<Attached, StepError> {
    attach_as(pod, id, attach_id, stdin_once, false)
}

fn attach_as(
    pod: &mut Pod,
    id: &str,
    attach_id: u64,
    stdin_once: bool,
    waits: bool,
) -> Result<Attached, StepError> {
    let (out_read, out_write) = berth_sys::fd::pipe(None).unwrap();
    let (err_read, err_write) = berth_sys::fd::pipe(None).unwrap();
    let plan = AttachPlan {
        container_id: id.into(),
        attach_id,
        stdin: true,
        stdin_once,
        stdout: Some(FdIndex(0)),
        stderr: Some(FdIndex(1)),
        waits,
    };
    match pod.call(&Request::Attach(plan), &[out_write.as_fd(), err_write.as_fd()]) {
        (Reply::Attached { stdin, terminal }, fds) => {
            let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
            let mut take =
                |index: Option<FdIndex>| index.map(|index| fds[usize::from(index.0)].take().unwrap());
            Ok(Attached {
                stdin: take(stdin).map(File::from),
                terminal: take(terminal),
                stdout: out_read.into(),
                stderr: err_read.into(),
            })
        }
        (Reply::Failed(error), _) => Err(error),
        other => panic!("unexpected {other:?}"),
    }
}

fn all(mut file: &File) -> String {
    let mut text = Vec::new();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Reads up to and with this text.
fn until(mut file: &File, text: &str) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(text.as_bytes()) {
        assert_eq!(file.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn everybody_reads_along_from_the_attach_on_to_the_last_byte() {
    let mut pod = Pod::new("attach", plain());
    let script = "echo before; read a; echo got $a; echo err >&2; read b; printf last-$b";
    pod.container("one").with(|plan| plan.stdio.stdin = true).script(script).start(&mut pod);
    wait_for("the first line", || !lines(&pod.log("one")).is_empty());
    let first = attach(&mut pod, "one", 1, false).unwrap();
    let second = attach(&mut pod, "one", 2, false).unwrap();
    first.stdin.as_ref().unwrap().write_all(b"1\n").unwrap();
    for attached in [&first, &second] {
        // Nothing of what came before.
        assert_eq!(until(&attached.stdout, "\n"), "got 1\n");
        assert_eq!(until(&attached.stderr, "\n"), "err\n");
    }
    // The one who leaves takes nothing with it.
    drop(first);
    second.stdin.as_ref().unwrap().write_all(b"2\n").unwrap();
    assert_eq!(pod.exit_of("one").code, 0);
    assert_eq!((all(&second.stdout), all(&second.stderr)), ("last-2".into(), String::new()));
    let logged: Vec<String> = lines(&pod.log("one")).into_iter().map(|line| line.2).collect();
    assert_eq!(
        logged.iter().filter(|line| *line != "err").collect::<Vec<_>>(),
        ["before", "got 1", "last-2"]
    );
    let late = attach(&mut pod, "one", 3, false).err().unwrap();
    assert_eq!(late.errno, libc::ESRCH);
}

#[test]
fn stdin_ends_with_the_first_who_had_it_where_that_was_asked() {
    let mut pod = Pod::new("once", plain());
    pod.container("one").with(|plan| plan.stdio.stdin = true).script("cat; echo over").start(&mut pod);
    let mut first = attach(&mut pod, "one", 1, true).unwrap();
    let second = attach(&mut pod, "one", 2, true).unwrap();
    assert!(second.stdin.is_none());
    first.stdin.as_ref().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(until(&first.stdout, "\n"), "hello\n");
    first.stdin = None;
    assert_eq!(pod.exit_of("one").code, 0);
    assert_eq!(all(&first.stdout), "over\n");
    assert_eq!(all(&second.stdout), "hello\nover\n");
}

#[test]
fn stdin_stays_open_for_others_where_it_was_not() {
    let mut pod = Pod::new("stays", plain());
    pod.container("one")
        .with(|plan| plan.stdio.stdin = true)
        .script("read a; read b; echo $a$b")
        .start(&mut pod);
    for (attach_id, text) in [(1, "x\n"), (2, "y\n")] {
        let attached = attach(&mut pod, "one", attach_id, false).unwrap();
        attached.stdin.unwrap().write_all(text.as_bytes()).unwrap();
    }
    assert_eq!(pod.exit_of("one").code, 0);
    assert_eq!(lines(&pod.log("one")).last().unwrap().2, "xy");
    // None was asked for at its birth: nothing to write to.
    pod.container("two").script("exec sleep 1000").start(&mut pod);
    assert!(attach(&mut pod, "two", 3, false).unwrap().stdin.is_none());
}

#[test]
fn a_reader_who_does_not_read_is_cut_and_slows_nobody() {
    let mut pod = Pod::new("slow", plain());
    let script = "read a; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last";
    pod.container("one").with(|plan| plan.stdio.stdin = true).script(script).start(&mut pod);
    let attached = attach(&mut pod, "one", 5, false).unwrap();
    attached.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    assert_eq!(pod.exit_of("one").code, 0);
    assert!(ended(&mut pod, 5));
    let logged = lines(&pod.log("one"));
    assert_eq!(logged.iter().map(|line| line.2.len()).sum::<usize>(), 3_000_004);
    assert_eq!(logged.last().unwrap().2, "last");
    // It still gets what fits into the pipe, without a gap, and its end.
    let got = all(&attached.stdout);
    assert!(!got.is_empty() && got.bytes().all(|b| b == b'x'), "{} bytes", got.len());
}

/// Waits for an attach's end: whether it was cut.
fn ended(pod: &mut Pod, id: u64) -> bool {
    pod.event(|event| match event {
        Event::AttachEnded { attach_id, cut } if *attach_id == id => Some(*cut),
        _ => None,
    })
}

#[test]
fn one_who_is_waited_for_loses_nothing_from_the_first_byte_on() {
    let mut pod = Pod::new("waits", plain());
    // More than all pipes and buffers on the way hold, then an end with as much in them as they take.
    let script = "echo first; head -c 6000000 /dev/zero | tr '\\0' x; echo; echo last";
    pod.container("one").with(|plan| plan.stdio.held = true).script(script).start(&mut pod);
    let attached = attach_as(&mut pod, "one", 1, false, true).unwrap();
    // The container cannot end: nobody reads what it has to write.
    assert_eq!(until(&attached.stdout, "first\n"), "first\n");
    let text = all(&attached.stdout);
    assert_eq!(text.len(), 6_000_000 + "\nlast\n".len());
    assert!(text.ends_with("x\nlast\n"));
    assert!(!ended(&mut pod, 1));
    assert_eq!(pod.exit_of("one").code, 0);
    let logged = lines(&pod.log("one"));
    assert_eq!(logged.iter().map(|line| line.2.len()).sum::<usize>(), 6_000_009);
}

#[test]
fn one_who_is_waited_for_gets_the_rest_after_the_containers_end() {
    let mut pod = Pod::new("rest", plain());
    // It is there to be attached to until it is told to write.
    let script = "read a; head -c 700000 /dev/zero | tr '\\0' x";
    let launch = pod.container("one").with(|plan| (plan.stdio.held, plan.stdio.stdin) = (true, true));
    launch.script(script).start(&mut pod);
    // Its pipe holds a tenth of that; the container's holds all of it, so it ends.
    let attached = attach_as(&mut pod, "one", 1, false, true).unwrap();
    attached.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    assert_eq!(pod.exit_of("one").code, 0);
    assert_eq!(all(&attached.stdout).len(), 700_000);
    assert!(!ended(&mut pod, 1));
}

#[test]
fn held_output_is_let_go_when_nobody_can_attach_any_more() {
    let mut pod = Pod::new("held", plain());
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last";
    pod.container("gone").with(|plan| plan.stdio.held = true).script(script).start(&mut pod);
    pod.container("left").with(|plan| plan.stdio.held = true).script(script).start(&mut pod);
    let attached = attach_as(&mut pod, "left", 1, false, true).unwrap();
    // The one waited for leaves without having read.
    drop(attached);
    assert_eq!(pod.exit_of("left").code, 0);
    assert_eq!(lines(&pod.log("gone")), []);
    // The daemon, and with it all who could have attached.
    pod.reconnect();
    assert_eq!(pod.exit_of("gone").code, 0);
    assert_eq!(lines(&pod.log("gone")).last().unwrap().2, "last");
}

#[test]
fn a_terminals_reader_misses_a_part_and_is_told() {
    let mut pod = Pod::new("skip", plain());
    let script = "stty -echo; echo ready; read a; head -c 300000 /dev/zero | tr '\\0' x; echo written > /tmp/done; \
                  read a; echo again; read a";
    let launch = pod.container("one").with(|plan| (plan.stdio.tty, plan.stdio.stdin) = (true, true));
    launch.script(script).start(&mut pod);
    let attached = attach(&mut pod, "one", 1, true).unwrap();
    assert!(attached.terminal.is_some());
    let mut stdin = attached.stdin.as_ref().unwrap();
    wait_for("the terminal to be set", || std::fs::read_to_string(pod.log("one")).unwrap().contains("ready"));
    stdin.write_all(b"\n").unwrap();
    wait_for("the log to have it all", || {
        lines(&pod.log("one")).iter().map(|line| line.2.matches('x').count()).sum::<usize>() >= 294_912
    });
    // Room for the notice comes with the reading; what follows is there again.
    let said = until(&attached.stdout, "read too slowly]\r\n");
    assert!(said.contains("bytes of output are left out"), "{}", said.len());
    stdin.write_all(b"\n").unwrap();
    assert!(until(&attached.stdout, "again\r\n").len() < 300_000);
    // Its end is no end of the container's terminal.
    drop(attached);
    let second = attach(&mut pod, "one", 2, true).unwrap();
    second.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    assert_eq!(pod.exit_of("one").code, 0);
}

#[test]
fn readers_are_bounded_and_leave_without_a_trace() {
    let mut pod = Pod::new("many", plain());
    pod.container("one").script("exec sleep 1000").start(&mut pod);
    let pid = pod.pid();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // What it kept for the birth is closed after that was answered, and before it reads the next request.
    assert!(matches!(pod.call(&Request::Snapshot, &[]).0, Reply::Snapshot(_)));
    let before = open();
    let mut all = Vec::new();
    let refused = loop {
        match attach(&mut pod, "one", all.len() as u64, false) {
            Ok(attached) => all.push(attached),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.errno, all.len()), (libc::EAGAIN, 64));
    drop(all);
    // The container is silent: the shim sees by itself that they left.
    wait_for("the shim to close their pipes", || open() == before);
    attach(&mut pod, "one", 99, false).unwrap();
}

#[test]
fn execs_end_with_their_container_also_in_a_shared_pid_namespace() {
    let mut pod = Pod::new("ends", SandboxPlan { shared_pid: true, ..plain() });
    let launch = pod.container("one").with(|plan| plan.pid_namespace = PidNamespace::Pod);
    launch.script("exec sleep 1000").start(&mut pod);
    let plan = exec("one", 1, "exec sleep 1000");
    assert!(matches!(pod.call(&Request::Exec(Box::new(plan)), &[]).0, Reply::Started { .. }));
    let kill = Request::Signal { container_id: "one".into(), signal: libc::SIGKILL };
    assert_eq!(pod.call(&kill, &[]).0, Reply::Done);
    let status = pod.event(|event| match event {
        Event::ExecExited { exec_id: 1, status } => Some(*status),
        _ => None,
    });
    assert_eq!(status.signal, libc::SIGKILL);
}

#[test]
fn sockets_are_of_the_pods_network() {
    let mut pod = Pod::new("socket", plain());
    for ipv6 in [false, true] {
        let (reply, mut fds) = pod.call(&Request::Socket { ipv6 }, &[]);
        assert_eq!((reply, fds.len()), (Reply::Socket { socket: FdIndex(0) }, 1));
        // The loopback of a new network is down; ours is up and refuses.
        let stream = std::net::UdpSocket::from(fds.remove(0));
        let address = if ipv6 { "[::1]:9" } else { "127.0.0.1:9" };
        let error = stream.connect(address).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL)), "{error}");
    }
}

/// A v2 cgroup that goes away with the test.
struct Leaf(std::path::PathBuf);

impl Leaf {
    /// `None` on a host with v1 alone.
    fn new(name: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
        let root = roots.iter().find(|root| root.join("cgroup.controllers").exists())?;
        let leaf = Self(root.join(format!("berth-test-{}-{name}", std::process::id())));
        std::fs::create_dir(&leaf.0).unwrap();
        Some(leaf)
    }

    fn pids(&self) -> usize {
        std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap().lines().count()
    }

    fn open(&self, name: &str) -> OwnedFd {
        File::options().write(true).open(self.0.join(name)).unwrap().into()
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        wait_for("the cgroup to be empty", || std::fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn an_execs_children_end_with_the_daemon_that_asked() {
    let Some(leaf) = Leaf::new("exec") else { return };
    let mut pod = Pod::new("orphans", plain());
    pod.container("one").script("exec sleep 1000").start(&mut pod);
    // Out of its session, where no hang-up reaches.
    let plan = exec("one", 1, "setsid sleep 1000 & sleep 1000");
    let plan = ExecPlan {
        cgroup_procs: vec![FdIndex(0)],
        cgroup_kill: Some(FdIndex(1)),
        die_with_daemon: true,
        ..plan
    };
    let (procs, kill) = (leaf.open("cgroup.procs"), leaf.open("cgroup.kill"));
    let (reply, _) = pod.call(&Request::Exec(Box::new(plan)), &[procs.as_fd(), kill.as_fd()]);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    wait_for("both sleepers", || leaf.pids() == 3 || leaf.pids() == 2);
    pod.reconnect();
    wait_for("their end", || leaf.pids() == 0);
}
