use std::io::ErrorKind;
use std::os::fd::AsFd as _;

use super::*;

/// Runs `code` in a child and gives how it ended. The test harness has threads, so `code` must not allocate.
fn in_child(flags: CloneFlags, code: impl FnOnce() -> i32) -> Exit {
    // SAFETY: the child runs `code`, which by the contract of this helper takes no locks, and ends with _exit.
    match unsafe { clone3(flags, None) }.unwrap() {
        Cloned::Child => {
            let status = code();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        Cloned::Parent { pid, pidfd } => {
            let exit = wait_for(pidfd.as_fd(), true).unwrap().unwrap();
            assert_eq!(exit.pid, pid);
            exit
        }
    }
}

fn code(exit: Exit) -> i32 {
    assert!(!exit.killed, "{exit:?}");
    exit.status
}

#[test]
fn a_child_exits_with_its_code_and_is_1_in_its_namespace() {
    assert_eq!(code(in_child(CloneFlags::default(), || 7)), 7);
    let new = CloneFlags { new_pid: true, new_mount: true, ..CloneFlags::default() };
    // SAFETY: getpid takes nothing.
    assert_eq!(code(in_child(new, || unsafe { libc::getpid() })), 1);
}

#[test]
fn a_pidfd_kills_and_tells() {
    // SAFETY: the child only sleeps in the kernel until it is killed.
    let Cloned::Parent { pid, pidfd } = (unsafe { clone3(CloneFlags::default(), None) }).unwrap() else {
        loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        }
    };
    assert!(!is_gone(pidfd.as_fd()));
    assert_eq!(wait_for(pidfd.as_fd(), false).unwrap(), None);
    send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
    let exit = wait_for(pidfd.as_fd(), true).unwrap().unwrap();
    assert_eq!(exit, Exit { pid, status: libc::SIGKILL, killed: true });
    assert!(is_gone(pidfd.as_fd()));
    assert_eq!(send_signal(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn root_becomes_a_user_with_one_capability() {
    const CHOWN: u64 = 1;
    let exit = in_child(CloneFlags::default(), || {
        let only = Capabilities { effective: CHOWN, permitted: CHOWN, inheritable: CHOWN };
        let all = || {
            keep_capabilities()?;
            drop_bounding(CHOWN)?;
            set_groups(&[77])?;
            set_gid(1000)?;
            set_uid(1001)?;
            set_capabilities(only)?;
            clear_ambient()?;
            raise_ambient(CHOWN)?;
            set_no_new_privs()
        };
        let changed = all().is_ok();
        // SAFETY: no memory is touched.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        // SAFETY: integers only; 0 is CAP_CHOWN, 1 is CAP_DAC_OVERRIDE.
        let (chown, other) =
            unsafe { (libc::prctl(libc::PR_CAPBSET_READ, 0), libc::prctl(libc::PR_CAPBSET_READ, 1)) };
        i32::from(!(changed && (uid, gid) == (1001, 1000) && (chown, other) == (1, 0) && set_uid(0).is_err()))
    });
    assert_eq!(code(exit), 0);
}

#[test]
fn a_filter_answers_for_the_kernel() {
    /// BPF: load the number; getppid gives EPERM + 40; all else is allowed.
    const FILTER: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, libc::SYS_getppid as u32),
        (0x06, 0, 0, 0x0005_0029),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    let bytes: Vec<u8> = FILTER
        .iter()
        .flat_map(|(code, yes, no, k)| [&code.to_ne_bytes()[..], &[*yes, *no], &k.to_ne_bytes()].concat())
        .collect();
    let exit = in_child(CloneFlags::default(), || {
        if set_no_new_privs().is_err() || install_seccomp(&bytes, 0).is_err() {
            return 1;
        }
        // SAFETY: no arguments.
        let result = unsafe { libc::syscall(libc::SYS_getppid) };
        i32::from(!(result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(0x29)))
    });
    assert_eq!(code(exit), 0);
    assert_eq!(install_seccomp(&[0; 7], 0).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn signals_are_reset_and_limits_only_fall() {
    let exit = in_child(CloneFlags::default(), || {
        // SAFETY: sets an ignored signal in the child only.
        unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
        if reset_signals().is_err() || set_rlimit(libc::RLIMIT_NOFILE, 10, 20).is_err() {
            return 1;
        }
        // SAFETY: raises in the child only; the default action ends it.
        unsafe { libc::raise(libc::SIGUSR1) };
        2
    });
    assert_eq!((exit.killed, exit.status), (true, libc::SIGUSR1));
}
