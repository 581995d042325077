//! Frames: what a packet of the socket holds.

use crate::codec::{Reader, Wire, WireError, put_bytes};
use crate::codec::{choice, record};
use crate::message::{ContainerSnapshot, Event, ExitStatus, Reply, Request, ShimSnapshot, StepError};
use crate::plan::{
    AttachPlan, CapSets, DeviceNode, ExecPlan, FdIndex, IdRange, Identity, LaunchPlan, LogTarget, MountAttrs,
    MountKind, MountStep, PidNamespace, Propagation, Rlimit, SandboxPlan, Stdio, Symlink, UserNamespace,
};

/// What one packet holds at most; a longer frame travels in a sealed memory file, the first of its descriptors.
pub const MAX_PACKET: usize = 64 * 1024;
/// The longest frame a shim reads from memory.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

const MAGIC: u32 = 0x4274_6831;

/// What the first word behind the magic says.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Request = 1,
    Reply = 2,
    Event = 3,
    /// The request is in memory: the first descriptor.
    Indirect = 4,
}

impl Wire for FdIndex {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        u16::take(from).map(Self)
    }
}

record!(SandboxPlan {
    sandbox_id,
    new_net,
    new_ipc,
    new_uts,
    shared_pid,
    hostname,
    sysctls,
    shm_size,
    userns
});
record!(UserNamespace { uids, gids });
record!(IdRange { inside, outside, count });
record!(CapSets { bounding, permitted, effective, inheritable, ambient });
record!(Rlimit { resource, soft, hard });
record!(MountAttrs { readonly, recursive_readonly, nosuid, nodev, noexec });
record!(MountStep { target, kind, attrs, propagation });
record!(DeviceNode { path, character, major, minor, mode, uid, gid });
record!(Symlink { target, link });
record!(Stdio { tty, stdin, log } later { held });
record!(LaunchPlan {
    container_id,
    argv,
    env,
    cwd,
    identity,
    rlimits,
    oom_score_adj,
    pid_namespace,
    cgroup_procs,
    cgroup_dir,
    oom_counter,
    rootfs,
    rootfs_readonly,
    rootfs_propagation,
    mounts,
    devices,
    symlinks,
    masked_paths,
    readonly_paths,
    stdio,
});
record!(ExecPlan {
    container_id,
    exec_id,
    argv,
    env,
    cwd,
    identity,
    rlimits,
    oom_score_adj,
    cgroup_procs,
    cgroup_dir,
    stdio,
    tty,
    die_with_daemon,
} later { cgroup_kill });
record!(AttachPlan { container_id, attach_id, stdin, stdin_once, stdout, stderr, waits });
record!(ExitStatus { code, signal, oom_killed, finished_at });
record!(ContainerSnapshot { container_id, pid, started_at, exit, log_dropped });
record!(ShimSnapshot { containers });
record!(StepError { step, object, errno });

choice!(PidNamespace { 1 => New, 2 => Pod, 3 => Join(fd), 4 => Host });
choice!(Propagation { 1 => Private, 2 => Slave, 3 => Shared });
choice!(LogTarget { 1 => Discard, 2 => File(fd) });
choice!(MountKind {
    1 => Bind(fd),
    2 => PodShm,
    3 => Proc,
    4 => Sysfs,
    5 => Cgroup,
    6 => Mqueue,
    7 => Devpts,
    8 => Tmpfs { size, mode, inodes },
});
choice!(Request {
    1 => Hello { version },
    2 => SetUp(plan),
    3 => Launch(plan),
    4 => Exec(plan),
    5 => Signal { container_id, signal },
    6 => SignalExec { exec_id, signal },
    7 => ReopenLog { container_id, file },
    8 => Snapshot,
    9 => Forget { container_id },
    10 => Shutdown,
    11 => Attach(plan),
    12 => Socket { ipv6 },
});
choice!(Reply {
    1 => Hello { version, pid, sandbox_id },
    2 => Ready { netns },
    3 => Started { pid, started_at, pidfd, warnings },
    4 => Snapshot(snapshot),
    5 => Done,
    6 => Failed(error),
    7 => Attached { stdin, terminal },
    8 => Socket { socket },
});
choice!(Event {
    1 => ContainerExited { container_id, status },
    2 => ExecExited { exec_id, status },
    3 => AttachEnded { attach_id, cut },
});

impl Wire for Identity {
    fn put(&self, out: &mut Vec<u8>) {
        crate::codec::put_record(out, |out| {
            (self.uid, self.gid).put(out);
            self.groups.put(out);
            self.umask.put(out);
            self.caps.put(out);
            self.no_new_privs.put(out);
            put_bytes(&self.seccomp, out);
            self.seccomp_flags.put(out);
        });
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        crate::codec::take_record(from, |from| {
            Ok(Self {
                uid: Wire::take(from)?,
                gid: Wire::take(from)?,
                groups: Wire::take(from)?,
                umask: Wire::take(from)?,
                caps: Wire::take(from)?,
                no_new_privs: Wire::take(from)?,
                seccomp: crate::codec::Blob::take(from)?.0,
                seccomp_flags: Wire::take(from)?,
            })
        })
    }
}

fn frame(kind: Kind, sequence: u32, body: &impl Wire) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    MAGIC.put(&mut out);
    (kind as u16).put(&mut out);
    sequence.put(&mut out);
    body.put(&mut out);
    out
}

pub fn encode_request(request: &Request, sequence: u32) -> Vec<u8> {
    frame(Kind::Request, sequence, request)
}

/// The packet that says "the request of `length` bytes is in the first descriptor".
pub fn encode_indirect(sequence: u32, length: usize) -> Vec<u8> {
    frame(Kind::Indirect, sequence, &(length as u64))
}

pub fn encode_reply(reply: &Reply, sequence: u32) -> Vec<u8> {
    frame(Kind::Reply, sequence, reply)
}

pub fn encode_event(event: &Event) -> Vec<u8> {
    frame(Kind::Event, 0, event)
}

/// What a shim receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Request(u32, Request),
    /// Read this many bytes of the first descriptor and decode them.
    Indirect(u32, usize),
    /// A request this build does not know, to be answered with a failure.
    Unknown(u32),
}

/// What a daemon receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Reply(u32, Reply),
    Event(Event),
    /// Of a newer shim; nothing waits for it.
    Unknown,
}

fn header<'a>(bytes: &'a [u8]) -> Result<(u16, u32, Reader<'a>), WireError> {
    let mut from = Reader::new(bytes);
    if u32::take(&mut from)? != MAGIC {
        return Err(WireError::Magic);
    }
    Ok((u16::take(&mut from)?, u32::take(&mut from)?, from))
}

pub fn decode_packet(bytes: &[u8]) -> Result<Packet, WireError> {
    let (kind, sequence, mut from) = header(bytes)?;
    match kind {
        k if k == Kind::Request as u16 => match Request::take(&mut from) {
            Ok(request) => Ok(Packet::Request(sequence, request)),
            Err(WireError::Value("Request")) => Ok(Packet::Unknown(sequence)),
            Err(error) => Err(error),
        },
        k if k == Kind::Indirect as u16 => match usize::try_from(u64::take(&mut from)?) {
            Ok(length) if length <= MAX_FRAME => Ok(Packet::Indirect(sequence, length)),
            _ => Err(WireError::Large("bytes")),
        },
        _ => Ok(Packet::Unknown(sequence)),
    }
}

pub fn decode_incoming(bytes: &[u8]) -> Result<Incoming, WireError> {
    let (kind, sequence, mut from) = header(bytes)?;
    match kind {
        k if k == Kind::Reply as u16 => Reply::take(&mut from).map(|reply| Incoming::Reply(sequence, reply)),
        k if k == Kind::Event as u16 => match Event::take(&mut from) {
            Ok(event) => Ok(Incoming::Event(event)),
            Err(WireError::Value("Event")) => Ok(Incoming::Unknown),
            Err(error) => Err(error),
        },
        _ => Ok(Incoming::Unknown),
    }
}
