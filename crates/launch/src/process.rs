//! The parts that a container's first process and an exec have in common.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use berth_shim_wire::Rlimit;
use berth_sys::process;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::report::{At as _, Failed, Report, Step};
use crate::root::Root;

pub(crate) fn rlimits(limits: &[Rlimit], report: &Report) -> Step<()> {
    for limit in limits {
        match process::set_rlimit(limit.resource, limit.soft, limit.hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                report.warn(&format!("rlimit {} stays: raising it needs CAP_SYS_RESOURCE", limit.resource));
            }
            set => set.at("set rlimit", limit.resource.to_string())?,
        }
    }
    Ok(())
}

/// Through the host's /proc, before the container's: nothing mounted there can redirect the write.
pub(crate) fn oom_score(value: Option<i32>, proc: BorrowedFd<'_>, report: &Report) -> Step<()> {
    // The shim's own is far below: nobody who did not ask may inherit it.
    let asked = value.is_some();
    let value = value.unwrap_or(0);
    let write = || -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(proc, c"self/oom_score_adj", flags, Mode::empty())?;
        berth_sys::fd::write(&file, value.to_string().as_bytes()).map(drop)
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            if asked {
                report.warn(&format!(
                    "oom_score_adj {value} is below ours; lowering it needs CAP_SYS_RESOURCE"
                ));
            }
            Ok(())
        }
        written => written.at("set oom_score_adj", value.to_string()),
    }
}

/// The working directory, opened inside the root: no magic link leads out of it (CVE-2024-21626).
pub(crate) fn enter_cwd(root: &Root, cwd: &CStr) -> Step<()> {
    let opened = root.directory(cwd).at("open the working directory", cwd.to_bytes())?;
    nix::unistd::fchdir(&opened).at("enter the working directory", cwd.to_bytes())?;
    // A directory outside of the root has no path from here.
    let inside = nix::unistd::getcwd().at("find the working directory", cwd.to_bytes())?;
    match inside.starts_with("/") {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::PermissionDenied))
            .at("stay inside the root with", cwd.to_bytes()),
    }
}

/// Gives a terminal or pipe to the user the program runs as, who may open it again by /dev/stdout. Files and devices
/// stay whose they are.
pub(crate) fn give(streams: &[&OwnedFd], uid: u32) -> Step<()> {
    for stream in streams {
        let mode = SFlag::from_bits_truncate(fstat(stream).at("look at", "a standard stream")?.st_mode);
        let is_pipe = mode & SFlag::S_IFMT == SFlag::S_IFIFO;
        if is_pipe || nix::unistd::isatty(stream).unwrap_or(false) {
            nix::unistd::fchown(stream, Some(uid.into()), None).at("give away", "a standard stream")?;
        }
    }
    Ok(())
}

pub(crate) fn streams(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> Step<()> {
    nix::unistd::dup2_stdin(stdin).at("connect", "stdin")?;
    nix::unistd::dup2_stdout(stdout).at("connect", "stdout")?;
    nix::unistd::dup2_stderr(stderr).at("connect", "stderr")
}

/// Dies with the shim: nobody would see its end.
pub(crate) fn tie_to_parent(report: &Report) -> Step<()> {
    process::set_parent_death_signal(libc::SIGKILL).at("tie to the shim", "")?;
    // The shim holds the reading end of the report; without a reader it died before the line above.
    let mut poll = [nix::poll::PollFd::new(report.0.as_fd(), nix::poll::PollFlags::empty())];
    let _ = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO);
    match poll[0].revents() {
        Some(events) if events.contains(nix::poll::PollFlags::POLLERR) => {
            Err(io::Error::from(io::ErrorKind::BrokenPipe)).at("find the shim", "")
        }
        _ => Ok(()),
    }
}

/// Becomes the program; only a failure comes back. A name without a slash is looked up in the PATH of `env`.
pub(crate) fn execute(argv: &[CString], env: &[CString]) -> Failed {
    let Some(name) = argv.first() else {
        return Failed { step: "execve", object: String::new(), error: io::ErrorKind::InvalidInput.into() };
    };
    let fail = |error: nix::Error| Failed {
        step: "execve",
        object: name.to_string_lossy().into_owned(),
        error: error.into(),
    };
    let run = |path: &CStr| match nix::unistd::execve(path, argv, env) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if let Err(error) = process::reset_signals().and_then(|()| berth_sys::fd::close_range_cloexec(3)) {
        return Failed { step: "prepare execve of", object: name.to_string_lossy().into_owned(), error };
    }
    if name.to_bytes().contains(&b'/') {
        return fail(run(name));
    }
    let path = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    // As execvp(3): the most telling of the failures, "not allowed" before "not there".
    let mut worst = nix::Error::ENOENT;
    for directory in path.unwrap_or(b"/usr/bin:/bin").split(|b| *b == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let mut candidate = directory.to_vec();
        candidate.push(b'/');
        candidate.extend_from_slice(name.to_bytes());
        let Ok(candidate) = CString::new(candidate) else { continue };
        match run(&candidate) {
            nix::Error::ENOENT | nix::Error::ENOTDIR => {}
            nix::Error::EACCES => worst = nix::Error::EACCES,
            other => return fail(other),
        }
    }
    fail(worst)
}
