use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use berth_sys::process::{self, CloneFlags, Cloned};

/// A new process that runs `child` and nothing of the caller's; its pid as the caller numbers it, and its pidfd.
///
/// For the shim alone, which starts no thread in its life: a lock that another thread held would stay held in the
/// child for ever.
pub fn clone_child(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(),
) -> io::Result<(i32, OwnedFd)> {
    // SAFETY: the one user has one thread, as said above, and a child that returns is ended at once.
    match unsafe { process::clone3(flags, cgroup) }? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => {
            child();
            abandon()
        }
    }
}

/// Ends a cloned child that has nothing to do.
fn abandon() -> ! {
    // SAFETY: _exit(2) ends the process and touches nothing of it.
    unsafe { libc::_exit(127) }
}
