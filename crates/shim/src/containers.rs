//! Containers and execs that run or ran.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::{ContainerSnapshot, ExitStatus};
use berth_sys::process::Exit;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::clock;
use crate::log::{Log, Pending, Stream};
use crate::taps::Taps;

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started_at: i64,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) log: Log,
    pub(crate) outputs: Vec<Output>,
    /// Not to be read before somebody attached.
    pub(crate) held: bool,
    /// The outputs are in the epoll.
    pub(crate) watched: bool,
    /// Who reads along.
    pub(crate) taps: Taps,
    /// Its standard streams are a terminal.
    pub(crate) terminal: bool,
    /// Whoever attaches may write to it.
    pub(crate) takes_stdin: bool,
    /// The writing end of its stdin, kept open for whoever attaches; or the master of its terminal.
    pub(crate) stdin: Option<OwnedFd>,
    /// `memory.events` or `memory.oom_control`, and its count when the container started.
    pub(crate) oom: Option<(OwnedFd, u64)>,
}

/// One stream of a container's output.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stream: Stream,
    pub(crate) pipe: OwnedFd,
    pending: Pending,
    ended: bool,
}

impl Output {
    pub(crate) fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self { stream, pipe, pending: Pending::default(), ended: false }
    }
}

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: u64,
    pub(crate) container: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) die_with_daemon: bool,
    /// Its cgroup's `cgroup.kill`.
    pub(crate) kill: Option<OwnedFd>,
}

impl Exec {
    /// SIGKILL, to its children too where it has a cgroup of its own.
    pub(crate) fn kill(&self) {
        kill(&self.pidfd, self.kill.as_ref());
    }
}

pub(crate) fn kill(pidfd: &OwnedFd, cgroup: Option<&OwnedFd>) {
    if let Some(cgroup) = cgroup {
        let _ = berth_sys::fd::write(cgroup, b"1");
    }
    let _ = berth_sys::process::send_signal(pidfd.as_fd(), libc::SIGKILL);
}

/// How the kernel says that a process ended, as CRI counts.
pub(crate) fn status(exit: Exit, oom_killed: bool) -> ExitStatus {
    let (code, signal) = if exit.killed { (128 + exit.status, exit.status) } else { (exit.status, 0) };
    ExitStatus { code, signal, oom_killed, finished_at: clock::now() }
}

impl Container {
    pub(crate) fn snapshot(&self) -> ContainerSnapshot {
        ContainerSnapshot {
            container_id: self.id.clone(),
            pid: u32::try_from(self.pid).unwrap_or(0),
            started_at: self.started_at,
            exit: self.exit,
            log_dropped: self.log.dropped(),
        }
    }

    /// Whether the stream's end was read: all who could write to it have closed it.
    pub(crate) fn has_ended(&self, stream: Stream) -> bool {
        !self.outputs.iter().any(|output| output.stream == stream && !output.ended)
    }

    /// Watches the outputs, or stops to while somebody is waited for. `event`: of the first; the second has the next number.
    /// Out of the epoll rather than without events: the kernel tells of an end unasked, again and again.
    pub(crate) fn watch(&mut self, event: u64, epoll: &Epoll) -> io::Result<()> {
        let wanted = !self.held && !self.taps.are_waited_for();
        if self.watched == wanted {
            return Ok(());
        }
        self.watched = wanted;
        for (event, output) in (event..).zip(&self.outputs).filter(|(_, output)| !output.ended) {
            if wanted {
                epoll.add(&output.pipe, EpollEvent::new(EpollFlags::EPOLLIN, event))?;
            } else {
                epoll.delete(&output.pipe)?;
            }
        }
        Ok(())
    }

    /// Reads what the stream has now: for the log, then for those who read along.
    pub(crate) fn pump(&mut self, index: usize, buffer: &mut [u8], lines: &mut Vec<u8>, epoll: &Epoll) {
        if !self.watched {
            // An event from before it was decided to wait.
            return;
        }
        let Some(output) = self.outputs.get_mut(index) else { return };
        match berth_sys::fd::read(&output.pipe, buffer) {
            Ok(0) => {}
            Ok(length) => {
                let bytes = &buffer[..length];
                self.log.write_batch(&mut output.pending, output.stream, Some(bytes), lines);
                return self.taps.feed(output.stream, bytes, epoll);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            // EIO: a terminal nobody has open any more (pty(7)).
            Err(_) => {}
        }
        self.log.write_batch(&mut output.pending, output.stream, None, lines);
        self.taps.end(output.stream, epoll);
        // The entry stays so that the other stream keeps its number.
        output.ended = true;
        let _ = epoll.delete(&output.pipe);
    }

    /// The process ended: what it wrote is in the pipes. A straggler may hold them open for ever, so only what is there
    /// now is read, and no more than a pipe can hold.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], lines: &mut Vec<u8>, epoll: &Epoll) {
        const PIPE_HOLDS: usize = 2 * 1024 * 1024;
        for mut output in std::mem::take(&mut self.outputs) {
            let mut taken = 0;
            while taken < PIPE_HOLDS && !output.ended {
                match berth_sys::fd::read(&output.pipe, buffer) {
                    Ok(length) if length > 0 => {
                        taken += length;
                        let bytes = &buffer[..length];
                        self.log.write_batch(&mut output.pending, output.stream, Some(bytes), lines);
                        self.taps.feed(output.stream, bytes, epoll);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            self.log.write_batch(&mut output.pending, output.stream, None, lines);
            self.taps.end(output.stream, epoll);
        }
    }

    /// Killed by SIGKILL while the kernel counted a kill for want of memory in its cgroup. A shell as first process that ends
    /// with its only child's 137 counts as well.
    pub(crate) fn was_oom_killed(&self, exit: Exit) -> bool {
        let counted = self.oom.as_ref().is_some_and(|(file, before)| oom_kills(file) > *before);
        let killed = if exit.killed { exit.status } else { exit.status - 128 };
        counted && killed == libc::SIGKILL
    }
}

/// The `oom_kill` line of an open `memory.events` or `memory.oom_control`.
pub(crate) fn oom_kills(file: &OwnedFd) -> u64 {
    let mut text = [0; 1024];
    let length = berth_sys::fd::read_at(file, &mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_both_versions() {
        let count =
            |text: &str| oom_kills(&berth_sys::fd::sealed_memfd(c"counter", text.as_bytes()).unwrap());
        assert_eq!(count("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), 7);
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
