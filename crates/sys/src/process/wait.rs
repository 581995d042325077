use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::fd::{done, owned};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    /// The exit code, or the number of the signal.
    pub status: i32,
    /// Killed by a signal.
    pub killed: bool,
}

/// pidfd_open(2). A child's number cannot be given to another process before we waited for it.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2). `ESRCH` when the process has ended.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed: the kernel fills it as kill(2) does.
    done(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, nothing, 0) })
}

/// SIGKILL to the process group that the process leads, where the kernel can (Linux 6.9), else to the process alone. `ESRCH` when
/// it has ended.
pub fn kill_group(leader: BorrowedFd<'_>) -> io::Result<()> {
    /// pidfd_send_signal(2): PIDFD_SIGNAL_PROCESS_GROUP.
    const PROCESS_GROUP: u32 = 1 << 2;
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed: the kernel fills it as kill(2) does.
    let sent = done(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, leader.as_raw_fd(), libc::SIGKILL, nothing, PROCESS_GROUP)
    });
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => send_signal(leader, libc::SIGKILL),
        sent => sent,
    }
}

/// Whether the process has ended (a pidfd is readable then).
pub fn is_gone(process: BorrowedFd<'_>) -> bool {
    let mut wanted = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd is passed with the count of one.
    unsafe { libc::poll(&raw mut wanted, 1, 0) == 1 }
}

/// Reaps any child that has ended, without waiting. `None`: none has, or there are no children.
pub fn wait_any() -> io::Result<Option<Exit>> {
    wait(libc::P_ALL, 0, libc::WNOHANG)
}

/// Reaps this child; `block`: waits until it ends. `None` without `block`: it runs.
pub fn wait_for(process: BorrowedFd<'_>, block: bool) -> io::Result<Option<Exit>> {
    let id = process.as_raw_fd().cast_unsigned();
    wait(libc::P_PIDFD, id, if block { 0 } else { libc::WNOHANG })
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<Exit>> {
    loop {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is alive and written by the kernel.
        let waited = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::__WALL | flags) };
        match done(waited.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) && kind == libc::P_ALL => {
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        // SAFETY: waitid fills the fields of SIGCHLD, or leaves the zero pid when nothing has ended.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        return Ok(Some(Exit { pid, status, killed: info.si_code != libc::CLD_EXITED }));
    }
}
