//! `berth-shim`: the supervisor of one pod.
//!
//! Parent of the pod's containers, holder of its namespaces (it lives in them), writer of their logs and exit records.
//! One thread, one epoll loop, no runtime. It outlives the daemon: whoever connects to its socket next is the daemon.
//!
//! Started with the listening socket as standard input, the pod's directory as standard output, its own log as standard
//! error, and the sandbox id as its argument.

mod attach;
mod births;
mod clock;
mod containers;
mod daemon;
mod host;
mod log;
mod requests;
mod shim;
mod taps;
mod userns;

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(id) = std::env::args().nth(1) else {
        note("usage: berth-shim SANDBOX_ID, started by berth");
        return ExitCode::from(64);
    };
    if id == "--user-namespace" {
        return lend_user_namespace();
    }
    match shim::Shim::start(id).and_then(shim::Shim::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("the shim ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// For the daemon, which has too many threads to make one itself: a user namespace that lasts until the daemon, who
/// holds the other end of the standard input, has taken it.
fn lend_user_namespace() -> ExitCode {
    let made = berth_sys::process::unshare(libc::CLONE_NEWUSER)
        .and_then(|()| berth_sys::fd::write(std::io::stdout(), b"u"))
        .and_then(|_| berth_sys::fd::read(std::io::stdin(), &mut [0]));
    if made.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line for the pod's shim.log.
fn note(text: &str) {
    let line = format!("{} {text}\n", clock::rfc3339(clock::now()));
    // There is nobody to tell when the log cannot be written.
    let _ = berth_sys::fd::write(std::io::stderr(), line.as_bytes());
}
