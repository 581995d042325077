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

/// [`clone_child`] for a pid namespace that a user namespace owns: a namespace belongs to the user namespace its maker
/// is in, and nobody comes back out of one. So a process in between enters (that is `before`), makes the child as its
/// own sibling, says its pid and ends. `inside`: the child is born in this process's pid namespace.
///
/// `None`: `before` said no.
///
/// # Errors
/// The first call that failed, also when it was in the process in between.
pub fn clone_through<S>(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    inside: Option<BorrowedFd<'_>>,
    state: S,
    before: impl FnOnce(&S) -> bool,
    child: impl FnOnce(S),
) -> io::Result<Option<(i32, OwnedFd)>> {
    let (reader, writer) = berth_sys::fd::pipe(None)?;
    let between = move || {
        let born = || -> io::Result<i32> {
            // While we are the host's root: process 1 hides from all others.
            if let Some(pidfd) = inside {
                process::enter(pidfd, libc::CLONE_NEWPID)?;
            }
            if !before(&state) {
                return Ok(0);
            }
            let flags = CloneFlags { sibling: true, ..flags };
            clone_child(flags, None, move || child(state)).map(|(pid, _)| pid)
        };
        let told = match born() {
            Ok(pid) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let _ = berth_sys::fd::write(&writer, &told.to_le_bytes());
    };
    // Reaped by the caller's loop as a child that it does not know.
    clone_child(CloneFlags::default(), cgroup, between)?;
    let mut told = [0; 4];
    // A few microseconds of work in a process that waits for nobody; were it killed, the pipe ends.
    if berth_sys::fd::read(&reader, &mut told)? != told.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match i32::from_le_bytes(told) {
        0 => Ok(None),
        // Our child, not waited for: the number is still its own.
        pid if pid > 0 => Ok(Some((pid, process::open_pidfd(pid)?))),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}
