//! Processes between clone and execve: the report pipe says how it went.

use std::io;
use std::os::fd::OwnedFd;

use berth_launch::Outcome;

/// What is being born.
#[derive(Debug)]
pub(crate) enum Kind {
    Container,
    Exec { id: u64, container: String, die_with_daemon: bool, kill: Option<OwnedFd> },
}

#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) kind: Kind,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Whom to answer.
    pub(crate) sequence: u32,
    pub(crate) generation: u64,
    /// The reading end, non-blocking.
    pub(crate) report: OwnedFd,
    read: Vec<u8>,
    /// What the parent itself could not do for it.
    pub(crate) failed: Option<berth_shim_wire::StepError>,
}

/// Warnings and one failure are far below this; a child that writes more is not ours.
const REPORT_MAX: usize = 64 * 1024;

impl Birth {
    pub(crate) fn new(
        kind: Kind,
        pid: i32,
        pidfd: OwnedFd,
        sequence: u32,
        generation: u64,
        report: OwnedFd,
    ) -> Self {
        Self { kind, pid, pidfd, sequence, generation, report, read: Vec::new(), failed: None }
    }

    /// Reads what has come; the outcome once the pipe is closed.
    pub(crate) fn progress(&mut self) -> Option<Outcome> {
        let mut buffer = [0; 2048];
        loop {
            match berth_sys::fd::read(&self.report, &mut buffer) {
                Ok(0) => break,
                Ok(length) if self.read.len() < REPORT_MAX => self.read.extend_from_slice(&buffer[..length]),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let mut outcome = Outcome::parse(&self.read);
        if let Some(failed) = self.failed.take() {
            outcome.failed = Some(failed);
        }
        Some(outcome)
    }
}
