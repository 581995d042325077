//! Those who read along what a container writes: attaches. The log comes first, and nobody is waited for who did not ask
//! for it.

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
    event: u64,
    attach_id: u64,
    pub(crate) stream: Stream,
    /// Non-blocking.
    pipe: OwnedFd,
    /// People read a terminal: they lose a part and are told, rather than everything that follows.
    pub(crate) terminal: bool,
    /// Loses nothing: the container waits.
    waits: bool,
    /// Bytes left out since the pipe was full.
    skipped: u64,
    /// What a waiting one has not had: one read's worth while the container runs, what its pipes held after its end.
    kept: Vec<u8>,
    /// Nothing comes behind what is kept.
    ending: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// There is nothing more to come.
    Ended,
    /// Its reader closed the pipe.
    Left,
    /// Its reader is too slow.
    Cut,
}

impl Tap {
    pub(crate) fn new(event: u64, attach_id: u64, stream: Stream, pipe: OwnedFd, waits: bool) -> Self {
        let (kept, skipped) = (Vec::new(), 0);
        Self { event, attach_id, stream, pipe, terminal: false, waits, skipped, kept, ending: false }
    }

    /// Watches for room. The reader's end is told unasked (epoll_ctl(2), EPOLLERR).
    fn watch(&self, epoll: &Epoll, room: bool) -> io::Result<()> {
        let wanted = if room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        Ok(epoll.modify(&self.pipe, &mut EpollEvent::new(wanted, self.event))?)
    }

    fn feed(&mut self, bytes: &[u8], epoll: &Epoll) -> Fate {
        let stuck = self.skipped > 0 || !self.kept.is_empty();
        let written = if stuck { Ok(0) } else { write(&self.pipe, bytes) };
        let Ok(written) = written else { return Fate::Left };
        let rest = &bytes[written..];
        match () {
            () if rest.is_empty() => return Fate::Stays,
            () if self.waits => self.kept.extend_from_slice(rest),
            () if self.terminal => self.skipped += rest.len() as u64,
            () => return Fate::Cut,
        }
        if !stuck && self.watch(epoll, true).is_err() {
            return Fate::Cut;
        }
        Fate::Stays
    }

    /// There may be room again: for what was kept, or to say what was left out.
    fn resume(&mut self, epoll: &Epoll) -> Fate {
        if self.skipped > 0 {
            let said = format!("\r\n[{} bytes of output are left out: read too slowly]\r\n", self.skipped);
            match write(&self.pipe, said.as_bytes()) {
                // Below PIPE_BUF it goes whole or not at all (pipe(7)).
                Ok(0) => return Fate::Stays,
                Ok(_) => self.skipped = 0,
                Err(_) => return Fate::Left,
            }
        }
        match write(&self.pipe, &self.kept) {
            Ok(written) => drop(self.kept.drain(..written)),
            Err(_) => return Fate::Left,
        }
        match () {
            () if !self.kept.is_empty() => Fate::Stays,
            () if self.ending => Fate::Ended,
            () if self.watch(epoll, false).is_err() => Fate::Left,
            () => Fate::Stays,
        }
    }

    /// The stream ended.
    fn end(&mut self, epoll: &Epoll) -> Fate {
        self.ending = true;
        // Where there is no room to say what was left out, the reader sees the end alone.
        match self.resume(epoll) {
            Fate::Stays if self.waits => Fate::Stays,
            Fate::Stays => Fate::Ended,
            fate => fate,
        }
    }
}

/// How much the pipe took; an error when nobody will read.
fn write(pipe: &OwnedFd, mut bytes: &[u8]) -> io::Result<usize> {
    let length = bytes.len();
    while !bytes.is_empty() {
        match berth_sys::fd::write(pipe, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            written => bytes = &bytes[written?..],
        }
    }
    Ok(length - bytes.len())
}

/// All of one container.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    list: Vec<Tap>,
    /// Attaches that ended and were not told yet.
    news: Vec<(u64, bool)>,
}

impl Taps {
    /// Watches the tap; from here on it is fed.
    pub(crate) fn add(&mut self, tap: Tap, epoll: &Epoll) -> io::Result<()> {
        if self.list.len() >= TAPS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        epoll.add(&tap.pipe, EpollEvent::new(EpollFlags::empty(), tap.event))?;
        self.list.push(tap);
        Ok(())
    }

    /// All taps of an attach are there; none at all is its end.
    pub(crate) fn attached(&mut self, attach_id: u64) {
        if !self.list.iter().any(|tap| tap.attach_id == attach_id) {
            self.news.push((attach_id, false));
        }
    }

    /// The attach did not come about.
    pub(crate) fn take_back(&mut self, attach_id: u64, epoll: &Epoll) {
        self.each(epoll, |tap| if tap.attach_id == attach_id { Fate::Left } else { Fate::Stays });
    }

    /// What the stream brought, for all who read it.
    pub(crate) fn feed(&mut self, stream: Stream, bytes: &[u8], epoll: &Epoll) {
        self.each(epoll, |tap| if tap.stream == stream { tap.feed(bytes, epoll) } else { Fate::Stays });
    }

    /// Something happened to one of the pipes. `false`: none of ours.
    pub(crate) fn event(&mut self, event: u64, events: EpollFlags, epoll: &Epoll) -> bool {
        let ours = self.list.iter().any(|tap| tap.event == event);
        if ours {
            let left = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
            self.each(epoll, |tap| match () {
                () if tap.event != event => Fate::Stays,
                () if left => Fate::Left,
                () => tap.resume(epoll),
            });
        }
        ours
    }

    /// The stream ended, and with it the pipes of its readers; of those who wait once they have it all.
    pub(crate) fn end(&mut self, stream: Stream, epoll: &Epoll) {
        self.each(epoll, |tap| if tap.stream == stream { tap.end(epoll) } else { Fate::Stays });
    }

    /// Somebody has to read before the container may write on.
    pub(crate) fn are_waited_for(&self) -> bool {
        self.list.iter().any(|tap| tap.waits && !tap.kept.is_empty())
    }

    /// Attaches that ended since it was asked last, and whether they were cut.
    pub(crate) fn news(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.news)
    }

    fn each(&mut self, epoll: &Epoll, mut happens: impl FnMut(&mut Tap) -> Fate) {
        let mut gone = Vec::new();
        self.list.retain_mut(|tap| {
            let fate = happens(tap);
            if fate != Fate::Stays {
                unwatch(tap, epoll);
                gone.push((tap.attach_id, fate));
            }
            fate == Fate::Stays
        });
        for (attach_id, fate) in gone {
            let cut = fate == Fate::Cut;
            // One stream of an attach that is cut takes the other with it.
            self.list.retain(|tap| {
                let stays = tap.attach_id != attach_id || !cut;
                if !stays {
                    unwatch(tap, epoll);
                }
                stays
            });
            let over = !self.list.iter().any(|tap| tap.attach_id == attach_id);
            if over && fate != Fate::Left && !self.news.iter().any(|(told, _)| *told == attach_id) {
                self.news.push((attach_id, cut));
            }
        }
    }
}

/// A copy of the pipe in a child not yet executed would keep the watch alive.
fn unwatch(tap: &Tap, epoll: &Epoll) {
    let _ = epoll.delete(&tap.pipe);
}
