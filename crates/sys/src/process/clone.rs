use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::fd::checked;

/// Namespaces the child gets new (namespaces(7)); the others are its parent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloneFlags {
    pub new_mount: bool,
    pub new_pid: bool,
    pub new_net: bool,
    pub new_ipc: bool,
    pub new_uts: bool,
    /// Owns the other new ones.
    pub new_user: bool,
    /// The child is its cloner's sibling (CLONE_PARENT): their parent gets the SIGCHLD and waits for it.
    pub sibling: bool,
}

impl CloneFlags {
    fn bits(self) -> i32 {
        let bit = |on, bit| if on { bit } else { 0 };
        bit(self.new_mount, libc::CLONE_NEWNS)
            | bit(self.new_pid, libc::CLONE_NEWPID)
            | bit(self.new_net, libc::CLONE_NEWNET)
            | bit(self.new_ipc, libc::CLONE_NEWIPC)
            | bit(self.new_uts, libc::CLONE_NEWUTS)
            | bit(self.new_user, libc::CLONE_NEWUSER)
            | bit(self.sibling, libc::CLONE_PARENT)
    }
}

/// CLONE_CLEAR_SIGHAND and CLONE_INTO_CGROUP of linux/sched.h; libc has them as ints, into which they do not fit.
const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone3`] runs.
#[derive(Debug)]
pub enum Cloned {
    Child,
    Parent {
        /// As the caller's pid namespace numbers it.
        pid: i32,
        pidfd: OwnedFd,
    },
}

/// A new process with a copy of our memory and descriptors, and a pidfd for us; SIGCHLD at its end. Signal handlers
/// are reset in the child (CLONE_CLEAR_SIGHAND), ignored signals stay ignored. `cgroup`: an open cgroup v2 directory it
/// is born in.
///
/// # Safety
/// The process must have one thread: else locks of the others stay held for ever in the child. The child must end by
/// execve(2) or [`exit`](nix::libc::_exit), never by returning into code that owns the parent's resources.
pub unsafe fn clone3(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: i32 = -1;
    // The kernel writes the new descriptor to this address.
    let place = &raw mut pidfd;
    // SAFETY: all-zero is a valid clone_args: it asks for nothing.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((flags.bits() | libc::CLONE_PIDFD).cast_unsigned()) | CLEAR_SIGHAND;
    arguments.pidfd = place.expose_provenance() as u64;
    // A sibling ends with the signal that its cloner ends with; clone3(2) wants none named.
    arguments.exit_signal = if flags.sibling { 0 } else { u64::from(libc::SIGCHLD.cast_unsigned()) };
    if let Some(cgroup) = cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no stack and no shared memory are asked for, so this is fork(2) with more flags: the child goes on here
    // with a copy of everything. The structure and `pidfd` are alive, the true size is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match checked(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored the new descriptor through the address we gave; still valid, read once.
            let number = unsafe { place.read_volatile() };
            // SAFETY: made for us by the call above.
            let pidfd = unsafe { OwnedFd::from_raw_fd(number) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
        }
    }
}
