use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::fd::{checked, done};

/// Leaves namespaces for new ones (unshare(2)); `flags` are CLONE_NEW* and CLONE_FS.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: changes only what the kernel keeps about this thread.
    done(unsafe { libc::unshare(flags) }.into())
}

/// Joins namespaces (setns(2)): of the kind of a namespace descriptor, or those in `flags` of a pidfd's process.
/// CLONE_NEWPID counts for children born later.
pub fn enter(namespace: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: integers only.
    done(unsafe { libc::setns(namespace.as_raw_fd(), flags) }.into())
}

/// How many arenas the C library's allocator spreads threads over (mallopt(3), M_ARENA_MAX); its default is eight for each
/// core, and each keeps what a burst of threads once needed. `false`: this C library has no such thing.
pub fn limit_heap_arenas(arenas: u8) -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: integers only; the call locks against allocations of other threads itself.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas.into()) } == 1;
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = arenas;
        false
    }
}

/// Gives the kernel back what the C library's allocator keeps of freed memory (malloc_trim(3)). It takes about a millisecond,
/// in which nobody else allocates.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer only; the call locks against allocations of other threads itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// sethostname(2).
pub fn set_hostname(name: &CStr) -> io::Result<()> {
    // SAFETY: pointer and length are those of one live string.
    done(unsafe { libc::sethostname(name.as_ptr(), name.to_bytes().len()) }.into())
}

/// Orphans among our descendants become our children (PR_SET_CHILD_SUBREAPER).
pub fn set_child_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Whether others may trace us and read our /proc files, and whether a crash dumps core (PR_SET_DUMPABLE). execve(2)
/// sets it anew.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on))
}

/// The signal we get when our parent ends (PR_SET_PDEATHSIG). A change of credentials clears it, so it is set last;
/// the caller then checks that the parent still lives.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, u64::from(signal.cast_unsigned()))
}

/// execve(2) gives no privileges any more, for ever (PR_SET_NO_NEW_PRIVS).
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Stopped children send us no SIGCHLD; ended ones still do and are still waited for.
pub fn ignore_child_stop() -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction: the default action, no flags, no mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_NOCLDSTOP;
    // SAFETY: the structure is alive; the default action runs no code of ours.
    done(unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) }.into())
}

/// Every signal gets its default action and none is blocked: the state a program expects to start in.
pub fn reset_signals() -> io::Result<()> {
    /// The kernel's struct sigaction, which the C library's differs from.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let default = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for signal in 1..=64 {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let nothing = std::ptr::null::<Action>();
        // SAFETY: the structure has the kernel's layout and is alive; 8 is the size of its mask.
        done(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, nothing, 8) })?;
    }
    let none = 0_u64;
    let nothing = std::ptr::null::<u64>();
    // SAFETY: the mask is alive and 8 bytes long, as said.
    done(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, nothing, 8) })
}

/// A new session without a terminal, led by us (setsid(2)).
pub fn session_leader() -> io::Result<()> {
    // SAFETY: no arguments.
    checked(unsafe { libc::setsid() }.into()).map(drop)
}

/// umask(2): permission bits new files do not get.
pub fn umask(mask: u32) {
    // SAFETY: an integer; cannot fail.
    unsafe { libc::umask(mask) };
}

/// setrlimit(2) by number; `u64::MAX` is infinity. `EPERM` without CAP_SYS_RESOURCE when `hard` rises.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure is alive; pid 0 is this process; the old limit is not asked for.
    done(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<libc::rlimit64>())
    })
}

fn prctl(option: i32, value: u64) -> io::Result<()> {
    // SAFETY: the options used here take one integer and touch no memory.
    done(unsafe { libc::prctl(option, value, 0_u64, 0_u64, 0_u64) }.into())
}
