//! Those who read along what a container writes: attaches. The log comes first, and nobody is waited for.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::log::Stream;

/// Taps of one container; an attach has up to two. Each costs a descriptor and a pipe of the kernel's.
const TAPS_MAX: usize = 128;

/// One stream of one attach: the writing end of its pipe.
#[derive(Debug)]
pub(crate) struct Tap {
    /// What its epoll events carry.
    pub(crate) event: u64,
    pub(crate) attach_id: u64,
    pub(crate) stream: Stream,
    /// Non-blocking.
    pub(crate) pipe: OwnedFd,
    /// People read a terminal: they lose a part and are told, rather than everything that follows.
    pub(crate) terminal: bool,
    /// Bytes left out since the pipe was full.
    pub(crate) skipped: u64,
}

enum Fate {
    Stays,
    /// Its reader closed the pipe.
    Left,
    /// Its reader is too slow.
    Cut,
}

impl Tap {
    /// Also watches for the reader's end: the kernel reports that of a pipe unasked (epoll_ctl(2), EPOLLERR).
    fn watch(&self, epoll: &Epoll, room: bool) -> io::Result<()> {
        let wanted = if room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        Ok(epoll.modify(&self.pipe, &mut EpollEvent::new(wanted, self.event))?)
    }

    fn feed(&mut self, bytes: &[u8], epoll: &Epoll) -> Fate {
        let written = match self.skipped {
            0 => write(&self.pipe, bytes),
            _ => Ok(0),
        };
        match written {
            Err(_) => Fate::Left,
            Ok(written) if written == bytes.len() => Fate::Stays,
            Ok(_) if !self.terminal => Fate::Cut,
            Ok(written) => {
                if self.skipped == 0 && self.watch(epoll, true).is_err() {
                    return Fate::Cut;
                }
                self.skipped += (bytes.len() - written) as u64;
                Fate::Stays
            }
        }
    }

    /// There may be room again: says what was left out.
    fn resume(&mut self, epoll: &Epoll) -> Fate {
        let said = format!("\r\n[{} bytes of output are left out: read too slowly]\r\n", self.skipped);
        match write(&self.pipe, said.as_bytes()) {
            // Below PIPE_BUF it goes whole or not at all (pipe(7)).
            Ok(0) => Fate::Stays,
            Ok(_) => {
                self.skipped = 0;
                if self.watch(epoll, false).is_err() { Fate::Left } else { Fate::Stays }
            }
            Err(_) => Fate::Left,
        }
    }
}

/// How much the pipe took; an error when nobody will read.
fn write(pipe: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match berth_sys::fd::write(pipe, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            written => return written,
        }
    }
}

/// All of one container.
#[derive(Debug, Default)]
pub(crate) struct Taps(Vec<Tap>);

impl Taps {
    /// Watches the tap; from here on it is fed.
    pub(crate) fn add(&mut self, tap: Tap, epoll: &Epoll) -> io::Result<()> {
        if self.0.len() >= TAPS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        epoll.add(&tap.pipe, EpollEvent::new(EpollFlags::empty(), tap.event))?;
        self.0.push(tap);
        Ok(())
    }

    /// What the stream brought, for all who read it. The ids of attaches that were cut.
    pub(crate) fn feed(&mut self, stream: Stream, bytes: &[u8], epoll: &Epoll) -> Vec<u64> {
        let mut cut = Vec::new();
        self.0.retain_mut(|tap| {
            if tap.stream != stream {
                return true;
            }
            let fate = tap.feed(bytes, epoll);
            if matches!(fate, Fate::Cut) {
                cut.push(tap.attach_id);
            }
            stays(tap, &fate, epoll)
        });
        for attach_id in &cut {
            self.drop_attach(*attach_id, epoll);
        }
        cut
    }

    /// Something happened to one of the pipes. `false`: none of ours.
    pub(crate) fn event(&mut self, event: u64, events: EpollFlags, epoll: &Epoll) -> bool {
        let Some(at) = self.0.iter().position(|tap| tap.event == event) else { return false };
        let tap = &mut self.0[at];
        let left = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let fate = if left { Fate::Left } else { tap.resume(epoll) };
        if !stays(tap, &fate, epoll) {
            self.0.swap_remove(at);
        }
        true
    }

    /// Takes an attach back, or closes it.
    pub(crate) fn drop_attach(&mut self, attach_id: u64, epoll: &Epoll) {
        self.0.retain(|tap| tap.attach_id != attach_id || stays(tap, &Fate::Cut, epoll));
    }

    /// The stream ended, and with it the pipes of its readers.
    pub(crate) fn end(&mut self, stream: Stream, epoll: &Epoll) {
        self.0.retain_mut(|tap| {
            if tap.stream != stream {
                return true;
            }
            if tap.skipped > 0 {
                // Where there is no room even for that, the reader sees the end alone.
                tap.resume(epoll);
            }
            stays(tap, &Fate::Left, epoll)
        });
    }
}

/// Unwatches a tap that does not stay: a copy of the pipe in a child not yet executed would keep the watch alive.
fn stays(tap: &Tap, fate: &Fate, epoll: &Epoll) -> bool {
    let stays = matches!(fate, Fate::Stays);
    if !stays {
        let _ = epoll.delete(&tap.pipe);
    }
    stays
}
