use super::*;
use std::ffi::CString;

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn identity() -> Identity {
    Identity {
        uid: 1,
        gid: 2,
        groups: vec![2, 3],
        umask: 0o022,
        caps: CapSets { bounding: 1, permitted: 2, effective: 3, inheritable: 4, ambient: 5 },
        no_new_privs: true,
        seccomp: vec![7; 16],
        seccomp_flags: 1,
    }
}

fn launch() -> LaunchPlan {
    LaunchPlan {
        container_id: "c".into(),
        argv: vec![text("/app"), text("x y")],
        env: vec![text("A=1")],
        cwd: text("/"),
        identity: identity(),
        rlimits: vec![Rlimit { resource: 7, soft: 1, hard: u64::MAX }],
        oom_score_adj: Some(-5),
        pid_namespace: PidNamespace::Join(FdIndex(4)),
        cgroup_procs: vec![FdIndex(1), FdIndex(2)],
        cgroup_dir: None,
        oom_counter: Some(FdIndex(3)),
        rootfs: FdIndex(0),
        rootfs_readonly: true,
        rootfs_propagation: Propagation::Slave,
        mounts: vec![MountStep {
            target: text("/dev"),
            kind: MountKind::Tmpfs { size: 9, mode: 0o755, inodes: 0 },
            attrs: MountAttrs { nosuid: true, ..MountAttrs::default() },
            propagation: Propagation::Private,
        }],
        devices: vec![DeviceNode {
            path: text("/dev/null"),
            character: true,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }],
        symlinks: vec![Symlink { target: text("/proc/self/fd"), link: text("/dev/fd") }],
        masked_paths: vec![text("/proc/kcore")],
        readonly_paths: vec![text("/proc/sys")],
        stdio: Stdio { tty: false, stdin: true, log: LogTarget::File(FdIndex(5)), held: true },
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Hello { version: 1 },
        Request::SetUp(SandboxPlan {
            sandbox_id: "s".into(),
            new_net: true,
            hostname: Some(text("pod")),
            sysctls: vec![(text("net/ipv4/ip_forward"), text("1"))],
            shm_size: 64,
            ..SandboxPlan::default()
        }),
        Request::Launch(Box::new(launch())),
        Request::Exec(Box::new(ExecPlan {
            container_id: "c".into(),
            exec_id: u64::MAX,
            argv: vec![text("sh")],
            env: Vec::new(),
            cwd: text("/"),
            identity: identity(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            cgroup_procs: Vec::new(),
            cgroup_dir: Some(FdIndex(9)),
            stdio: [None, Some(FdIndex(0)), Some(FdIndex(1))],
            tty: true,
            die_with_daemon: true,
            cgroup_kill: Some(FdIndex(2)),
        })),
        Request::Signal { container_id: "c".into(), signal: 15 },
        Request::ReopenLog { container_id: "c".into(), file: FdIndex(0) },
        Request::Snapshot,
        Request::Shutdown,
        Request::Attach(AttachPlan {
            container_id: "c".into(),
            attach_id: 7,
            stdin: true,
            stdin_once: true,
            stdout: Some(FdIndex(0)),
            stderr: None,
            waits: true,
        }),
        Request::Socket { ipv6: true },
    ]
}

#[test]
fn requests_come_back_as_they_went() {
    for (sequence, request) in (1..).zip(requests()) {
        let bytes = encode_request(&request, sequence);
        assert_eq!(decode_packet(&bytes), Ok(Packet::Request(sequence, request)));
    }
    assert_eq!(decode_packet(&encode_indirect(3, 70_000)), Ok(Packet::Indirect(3, 70_000)));
}

#[test]
fn replies_and_events_come_back() {
    let status = ExitStatus { code: 137, signal: 9, oom_killed: true, finished_at: -1 };
    let snapshot = ContainerSnapshot {
        container_id: "c".into(),
        pid: 7,
        started_at: 8,
        exit: Some(status),
        log_dropped: 9,
    };
    for reply in [
        Reply::Hello { version: 1, pid: 2, sandbox_id: "s".into() },
        Reply::Started { pid: 3, started_at: 4, pidfd: FdIndex(0), warnings: vec!["w".into()] },
        Reply::Snapshot(ShimSnapshot { containers: vec![snapshot] }),
        Reply::Done,
        Reply::Failed(StepError { step: "execve".into(), object: "/x".into(), errno: 2 }),
        Reply::Attached { stdin: Some(FdIndex(0)), terminal: None },
        Reply::Socket { socket: FdIndex(0) },
    ] {
        assert_eq!(decode_incoming(&encode_reply(&reply, 5)), Ok(Incoming::Reply(5, reply)));
    }
    for event in [
        Event::ContainerExited { container_id: "c".into(), status },
        Event::AttachEnded { attach_id: 7, cut: true },
    ] {
        assert_eq!(decode_incoming(&encode_event(&event)), Ok(Incoming::Event(event)));
    }
}

#[test]
fn broken_frames_are_errors_and_never_a_panic() {
    for request in requests() {
        let good = encode_request(&request, 1);
        for cut in 0..good.len() {
            assert!(decode_packet(&good[..cut]).is_err(), "{request:?} cut at {cut}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                // Anything but a panic or an allocation without bound.
                let _ = decode_packet(&bad);
                let _ = decode_incoming(&bad);
            }
        }
    }
}

#[test]
fn a_newer_writers_fields_are_skipped() {
    let mut bytes = encode_request(&Request::Hello { version: 1 }, 1);
    // The record's length stands behind magic (4), kind (2), sequence (4) and variant (2).
    bytes[12] += 3;
    bytes.extend_from_slice(&[1, 2, 3]);
    assert_eq!(decode_packet(&bytes), Ok(Packet::Request(1, Request::Hello { version: 1 })));
    // A request this build does not know is answered, not an error.
    bytes[10] = 200;
    assert_eq!(decode_packet(&bytes), Ok(Packet::Unknown(1)));
}

#[test]
fn an_older_writers_records_end_earlier() {
    let exec = requests().into_iter().find_map(|request| match request {
        Request::Exec(plan) => Some(plan),
        _ => None,
    });
    let mut plan = exec.unwrap();
    plan.cgroup_kill = None;
    let mut bytes = encode_request(&Request::Exec(plan.clone()), 1);
    // The last field, and with it one byte of both records' lengths.
    bytes.pop();
    bytes[12] -= 1;
    bytes[16] -= 1;
    assert_eq!(decode_packet(&bytes), Ok(Packet::Request(1, Request::Exec(plan))));
}

/// The bytes of version 1: a change here breaks shims that run.
#[test]
fn version_one_is_frozen() {
    let bytes = encode_request(&Request::Signal { container_id: "ab".into(), signal: 15 }, 2);
    let expected: &[u8] =
        b"\x31\x68\x74\x42\x01\x00\x02\x00\x00\x00\x05\x00\x0a\x00\x00\x00\x02\x00\x00\x00ab\x0f\x00\x00\x00";
    assert_eq!(bytes, expected);
}

#[test]
fn exit_records() {
    let status = ExitStatus { code: 3, signal: 0, oom_killed: false, finished_at: 12 };
    let record = ExitRecord { status };
    assert_eq!(ExitRecord::parse(record.format().as_bytes()), Ok(record));
    for bad in [
        "",
        "berth-exit 1 3 0 0 12",
        "berth-exit 2 3 0 0 12\n",
        "berth-exit 1 x 0 0 12\n",
        "berth-exit 1 3\n",
    ] {
        assert_eq!(ExitRecord::parse(bad.as_bytes()), Err(NoExitRecord), "{bad:?}");
    }
}
