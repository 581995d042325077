//! Lives of containers under a real shim on the real kernel.

#![expect(clippy::unwrap_used, reason = "the rig of tests fails by panicking, as tests do")]

mod rig;

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;

use berth_shim_wire::*;
use rig::*;

fn plain() -> SandboxPlan {
    SandboxPlan { new_net: true, new_ipc: true, new_uts: true, shm_size: 1 << 20, ..SandboxPlan::default() }
}

#[test]
fn output_becomes_log_lines_and_the_end_is_recorded() {
    let mut pod = Pod::new("log", plain());
    let launch = pod.container("one").script("echo out; echo err >&2; printf partial; exit 3");
    let (code, lines) = pod.run(launch);
    assert_eq!(code, 3);
    let has = |stream: &str, tag: &str, text: &str| {
        lines.contains(&(stream.to_owned(), tag.to_owned(), text.to_owned()))
    };
    assert!(
        has("stdout", "F", "out") && has("stderr", "F", "err") && has("stdout", "P", "partial"),
        "{lines:?}"
    );
    let record = fs::read(pod.directory.join("one.exit")).unwrap();
    assert_eq!(ExitRecord::parse(&record).unwrap().status.code, 3);
    assert_eq!(pod.call(&Request::Forget { container_id: "one".into() }, &[]).0, Reply::Done);
    assert!(!pod.directory.join("one.exit").exists());
}

#[test]
fn a_long_line_is_split_at_16_kib() {
    let mut pod = Pod::new("long", plain());
    let launch = pod.container("one").script("head -c 40000 /dev/zero | tr '\\0' x; echo; echo end");
    let (_, lines) = pod.run(launch);
    let shape: Vec<(&str, usize)> = lines.iter().map(|line| (line.1.as_str(), line.2.len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 3)]);
}

#[test]
fn a_rotated_log_is_reopened() {
    let mut pod = Pod::new("rotate", plain());
    let launch =
        pod.container("one").script("echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo second");
    launch.start(&mut pod);
    wait_for("the first line", || !lines(&pod.log("one")).is_empty());
    let new = pod.directory.join("new.log");
    let file = fs::OpenOptions::new().append(true).create(true).open(&new).unwrap();
    let reopen = Request::ReopenLog { container_id: "one".into(), file: FdIndex(0) };
    assert_eq!(pod.call(&reopen, &[file.as_fd()]).0, Reply::Done);
    pod.exec(exec("one", 1, ": > /tmp/go"), &[]);
    assert_eq!(pod.exit_of("one").code, 0);
    assert_eq!(lines(&new)[0].2, "second");
    assert_eq!(lines(&pod.log("one")).len(), 1);
}

#[test]
fn containers_share_the_pods_namespaces_but_not_processes() {
    let mut pod = Pod::new("share", SandboxPlan { hostname: Some(c("berth-pod")), ..plain() });
    let facts = "cat /proc/sys/kernel/hostname; echo $$; readlink /proc/self/ns/ipc /proc/self/ns/net";
    let first = pod.container("one").script(&format!("echo kept > /dev/shm/file; {facts}"));
    let first = pod.output(first);
    let second = pod.container("two").script(&format!("read x < /dev/shm/file; [ $x = kept ]; {facts}"));
    assert_eq!(first, pod.output(second));
    assert!(first.starts_with("berth-pod\n1\n"), "{first}");
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!first.contains(host.to_str().unwrap()));
}

#[test]
fn a_shared_and_a_joined_pid_namespace() {
    let mut pod = Pod::new("pids", SandboxPlan { shared_pid: true, ..plain() });
    let shared = |plan: &mut LaunchPlan| plan.pid_namespace = PidNamespace::Pod;
    let first = pod.container("one").with(shared).script("[ $$ != 1 ] && readlink /proc/self/ns/pid");
    let second = pod.container("two").with(shared).script("[ $$ != 1 ] && readlink /proc/self/ns/pid");
    assert_eq!(pod.output(first), pod.output(second));
    let target = pod.container("target").script("sleep 1000").start(&mut pod);
    let mut guest = pod.container("guest").script("tr '\\0' ' ' < /proc/1/cmdline");
    let index = guest.add(target);
    let guest = guest.with(|plan| plan.pid_namespace = PidNamespace::Join(index));
    assert!(pod.output(guest).contains("sleep 1000"));
}

#[test]
fn a_user_with_one_capability_and_nothing_else() {
    let mut pod = Pod::new("user", plain());
    let caps = CapSets { bounding: 1, permitted: 1, effective: 1, ..CapSets::default() };
    let identity = Identity { uid: 1000, gid: 1001, groups: vec![7, 8], caps, no_new_privs: true, ..root() };
    let script = "cat /proc/self/status; ls /proc/self/fd; echo by path > /dev/stdout";
    let launch = pod.container("one").with(|plan| plan.identity = identity).script(script);
    let said = pod.output(launch);
    let field = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((field("Uid:"), field("Gid:")), ("1000 1000 1000 1000".into(), "1001 1001 1001 1001".into()));
    assert_eq!((field("Groups:"), field("NoNewPrivs:")), ("7 8".into(), "1".into()));
    assert_eq!((field("CapBnd:"), field("CapInh:")), ("0000000000000001".into(), "0000000000000000".into()));
    assert_eq!((field("CapEff:"), field("CapAmb:")), ("0000000000000000".into(), "0000000000000000".into()));
    assert_eq!((field("SigIgn:"), field("SigBlk:")), ("0000000000000000".into(), "0000000000000000".into()));
    // 3 is what ls reads the list with.
    assert!(said.ends_with("\n0\n1\n2\n3\nby path"), "{said}");
}

#[test]
fn the_hosts_cgroup_trees_are_there_and_read_only() {
    let mut pod = Pod::new("cgroup", plain());
    let mut cgroup = step("/sys/fs/cgroup", MountKind::Cgroup);
    cgroup.attrs.readonly = true;
    let launch = pod.container("one").with(|plan| {
        plan.mounts.extend([step("/sys", MountKind::Sysfs), cgroup]);
    });
    let script = "cat /proc/self/mounts | grep -c cgroup; find /sys/fs/cgroup -name cgroup.procs | grep -q .; \
                  mkdir $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -1))/x 2>&1 || true";
    let said = pod.output(launch.script(script));
    assert!(!said.starts_with("0\n") && said.contains("Read-only file system"), "{said}");
}

/// A v1 memory cgroup that goes away with the test.
struct MemoryCgroup(std::path::PathBuf);

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Empty: the container's end was waited for.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_container_out_of_memory_is_told_from_a_killed_one() {
    let hierarchy = std::path::Path::new("/sys/fs/cgroup/memory");
    if !hierarchy.join("memory.oom_control").exists() && !hierarchy.join("memory.limit_in_bytes").exists() {
        // A host with v2 only, where the limit has another name.
        return;
    }
    let cgroup = MemoryCgroup(hierarchy.join(format!("berth-test-{}", std::process::id())));
    fs::create_dir(&cgroup.0).unwrap();
    fs::write(cgroup.0.join("memory.limit_in_bytes"), (16 << 20).to_string()).unwrap();
    let mut pod = Pod::new("oom", plain());
    for (id, script, oom) in [("hungry", "exec tail /dev/zero", true), ("killed", "exec sleep 1000", false)] {
        let mut launch = pod.container(id);
        let procs = fs::OpenOptions::new().write(true).open(cgroup.0.join("cgroup.procs")).unwrap();
        let procs = launch.add(procs.into());
        let counter = launch.add(fs::File::open(cgroup.0.join("memory.oom_control")).unwrap().into());
        let launch = launch.with(|plan| (plan.cgroup_procs, plan.oom_counter) = (vec![procs], Some(counter)));
        launch.script(script).start(&mut pod);
        if !oom {
            let kill = Request::Signal { container_id: id.into(), signal: libc::SIGKILL };
            assert_eq!(pod.call(&kill, &[]).0, Reply::Done);
        }
        let status = pod.exit_of(id);
        assert_eq!((status.code, status.oom_killed), (137, oom), "{id}");
    }
}

#[test]
fn a_filter_answers_with_its_errno() {
    let mut pod = Pod::new("filter", plain());
    // Load the number; mkdir (83) gives ENOTTY, which says "Inappropriate ioctl"; the rest is allowed.
    let filter =
        [(0x20_u16, 0_u8, 0_u8, 0_u32), (0x15, 0, 1, 83), (6, 0, 0, 0x0005_0019), (6, 0, 0, 0x7fff_0000)];
    let record = |(code, yes, no, k): &(u16, u8, u8, u32)| {
        [&code.to_ne_bytes()[..], &[*yes, *no], &k.to_ne_bytes()].concat()
    };
    let bytes: Vec<u8> = filter.iter().flat_map(record).collect();
    let user = Identity { uid: 5, seccomp: bytes, caps: CapSets::default(), ..root() };
    let launch = pod.container("one").with(|plan| plan.identity = user).script("mkdir /tmp/x 2>&1; true");
    assert!(pod.output(launch).contains("Inappropriate ioctl"));
}

#[test]
fn paths_are_masked_and_protected() {
    let mut pod = Pod::new("mask", plain());
    let launch = pod.container("one").with(|plan| {
        plan.masked_paths = ["/proc/kallsyms", "/proc/irq", "/proc/no-such"].map(c).into();
        plan.readonly_paths = vec![c("/proc/sys")];
    });
    let script = "cat /proc/kallsyms | wc -c; ls /proc/irq | wc -l; echo 1 2>&1 > /proc/sys/kernel/shmmni; mount | wc -l";
    let said = pod.output(launch.script(&format!("{{ {script}; }} 2>&1")));
    assert!(said.starts_with("0\n0\n") && said.contains("Read-only file system"), "{said}");
}

#[test]
fn mount_points_are_made_also_behind_links_to_nothing() {
    let mut pod = Pod::new("links", plain());
    let source = pod.directory.join("resolv.conf");
    fs::write(&source, "nameserver 192.0.2.1\n").unwrap();
    let mut launch = pod.container("one");
    fs::create_dir(launch.layer.join("etc")).unwrap();
    let link =
        |target: &str, name: &str| std::os::unix::fs::symlink(target, launch.layer.join(name)).unwrap();
    link("../run/systemd/resolve/stub.conf", "etc/resolv.conf");
    link("/data/deep", "volume");
    let steps = [
        launch.bind(&source, "/etc/resolv.conf"),
        launch.bind(&source, "/volume/made/file"),
        launch.bind(&source, "/../../escape"),
    ];
    let launch = launch.with(|plan| plan.mounts.extend(steps)).with(|plan| plan.rootfs_readonly = true);
    let said =
        pod.output(launch.script("cat /etc/resolv.conf /data/deep/made/file /escape; touch /x 2>&1 || true"));
    assert_eq!(said.matches("192.0.2.1").count(), 3, "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}

#[test]
fn a_program_that_is_not_there() {
    let mut pod = Pod::new("missing", plain());
    let launch = pod.container("one").with(|plan| plan.argv = vec![c("no-such-program")]);
    let (reply, _) = launch.try_start(&mut pod);
    let error = StepError { step: "execve".into(), object: "no-such-program".into(), errno: libc::ENOENT };
    assert_eq!(reply, Reply::Failed(error));
    let launch = pod.container("two").with(|plan| plan.cwd = c("/proc/self/fd/3"));
    assert!(matches!(launch.try_start(&mut pod).0, Reply::Failed(_)));
}

#[test]
fn execs_run_inside_and_end_with_their_code() {
    let mut pod = Pod::new("exec", plain());
    pod.container("one").script("echo here > /tmp/file; exec sleep 1000").start(&mut pod);
    let (reader, writer) = berth_sys::fd::pipe(None).unwrap();
    let script = "until grep -q ^sleep /proc/1/cmdline; do sleep 0.01; done; cat /tmp/file; tr '\\0' ' ' < /proc/1/cmdline; exit 5";
    let plan = ExecPlan { stdio: [None, Some(FdIndex(0)), None], ..exec("one", 1, script) };
    let status = pod.exec(plan, &[writer.as_fd()]);
    drop(writer);
    let mut said = String::new();
    fs::File::from(reader).read_to_string(&mut said).unwrap();
    assert_eq!((status.code, said.as_str()), (5, "here\nsleep 1000 "));
    let nobody = exec("no-such-container", 2, "true");
    assert!(matches!(pod.call(&Request::Exec(Box::new(nobody)), &[]).0, Reply::Failed(_)));
}

#[test]
fn an_exec_with_a_terminal_hands_over_its_master() {
    let mut pod = Pod::new("tty", plain());
    pod.container("one").script("sleep 1000").start(&mut pod);
    let (ours, theirs) = berth_sys::fd::seqpacket_pair().unwrap();
    let plan = exec("one", 1, "tty; [ -t 0 ] && echo terminal; sleep 0.1");
    let plan = ExecPlan { tty: true, stdio: [Some(FdIndex(0)), None, None], ..plan };
    let (reply, _) = pod.call(&Request::Exec(Box::new(plan)), &[theirs.as_fd()]);
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    let (_, mut masters) = berth_sys::fd::recv_packet(ours.as_fd(), &mut [0; 8]).unwrap();
    let master = masters.remove(0);
    let (mut said, mut buffer) = (Vec::new(), [0; 512]);
    // EIO at the end: nobody has the terminal open any more.
    while let Ok(length) = berth_sys::fd::read(&master, &mut buffer) {
        said.extend_from_slice(&buffer[..length]);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("/dev/pts/") && said.contains("terminal\r\n"), "{said}");
}

#[test]
fn a_container_with_a_terminal_logs_one_stream() {
    let mut pod = Pod::new("console", plain());
    let launch = pod.container("one").with(|plan| plan.stdio.tty = true);
    let (code, lines) = pod.run(launch.script("echo out; echo err >&2; [ -t 1 ] && [ -c /dev/console ]"));
    assert_eq!(code, 0);
    assert!(lines.iter().all(|line| line.0 == "stdout"), "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn signals_and_a_daemon_that_comes_back() {
    let mut pod = Pod::new("adopt", plain());
    pod.container("runs").script("exec sleep 1000").start(&mut pod);
    pod.container("ends").script("exit 9").start(&mut pod);
    assert_eq!(pod.exit_of("ends").code, 9);
    let snapshot = pod.reconnect();
    let find = |id: &str| snapshot.containers.iter().find(|c| c.container_id == id).unwrap();
    assert_eq!(find("ends").exit.unwrap().code, 9);
    assert_eq!(find("runs").exit, None);
    let again = pod.container("runs-twice").with(|plan| plan.container_id = "runs".into());
    assert!(matches!(again.try_start(&mut pod).0, Reply::Failed(_)));
    let kill = Request::Signal { container_id: "runs".into(), signal: libc::SIGKILL };
    assert_eq!(pod.call(&kill, &[]).0, Reply::Done);
    let status = pod.exit_of("runs");
    assert_eq!((status.code, status.signal, status.oom_killed), (137, libc::SIGKILL, false));
}

#[test]
fn the_start_of_a_container_is_quick() {
    let mut pod = Pod::new("quick", plain());
    let mut took = Vec::new();
    for number in 0..20 {
        let launch = pod.container(&format!("c{number}")).script("exec sleep 1000");
        let begin = std::time::Instant::now();
        launch.start(&mut pod);
        took.push(begin.elapsed());
    }
    took.sort();
    // A bound that only a mistake reaches; it is a few milliseconds.
    assert!(took[10].as_millis() < 500, "{took:?}");
}
