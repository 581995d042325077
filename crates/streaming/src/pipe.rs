//! Bytes on their way that never come here: the kernel hands its pages on from one descriptor to the next (splice(2)),
//! which wants a pipe in between.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::sys::stat::{SFlag, fstat};
use parking_lot::Mutex;

/// From so many bytes at once on it is cheaper than copying them.
pub(crate) const WORTH: usize = 16 * 1024;
/// What a pipe may hold, in bytes; where a user's pipes are many the kernel grants less.
const CAPACITY: usize = 256 * 1024;
/// Idle pipes that are kept.
const KEPT: usize = 4;

static IDLE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Ends {
    read: io::PipeReader,
    write: io::PipeWriter,
}

/// Taken from those that are idle; an empty one goes back when dropped.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    capacity: usize,
    held: usize,
}

impl Pipe {
    pub(crate) fn take() -> io::Result<Self> {
        if let Some(pipe) = IDLE.lock().pop() {
            return Ok(pipe);
        }
        let (read, write) = io::pipe()?;
        enlarge(&write);
        let granted = fcntl(&write, FcntlArg::F_GETPIPE_SZ)?;
        let capacity = usize::try_from(granted).unwrap_or_default();
        Ok(Self { ends: Some(Ends { read, write }), capacity, held: 0 })
    }

    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Bytes that it might take; with many small pieces in it, it is full before.
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.held)
    }

    /// Takes what `from` has, `most` bytes at most. Never waits; 0 is the end of `from`.
    pub(crate) fn fill(&mut self, from: impl AsFd, most: usize) -> Result<usize, Errno> {
        let Some(ends) = &self.ends else { return Err(Errno::EPIPE) };
        let moved = again(|| splice(&from, None, &ends.write, None, most, flags()))?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives `to` what it takes of the bytes here. Never waits.
    pub(crate) fn pour(&mut self, to: impl AsFd) -> Result<usize, Errno> {
        let Some(ends) = &self.ends else { return Err(Errno::EPIPE) };
        let moved = again(|| splice(&ends.read, None, &to, None, self.held, flags()))?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }

    /// Copies all that is here behind `bytes`.
    pub(crate) fn copy(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        use io::Read as _;
        let Some(ends) = &mut self.ends else { return Ok(()) };
        let copied = (&ends.read).take(self.held as u64).read_to_end(bytes)?;
        self.held = self.held.saturating_sub(copied);
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut idle = IDLE.lock();
        if self.held == 0 && self.ends.is_some() && idle.len() < KEPT {
            idle.push(Self { ends: self.ends.take(), capacity: self.capacity, held: 0 });
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

fn again(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Lets a pipe hold more: much goes through it. What is no pipe stays as it is, and so does one beyond what a user may have.
pub(crate) fn enlarge(fd: impl AsFd) {
    let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
}

/// Pipes and sockets can be spliced; terminals cannot, or not without waiting.
pub(crate) fn spliceable(fd: impl AsFd) -> bool {
    let kind = fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    matches!(kind, Ok(SFlag::S_IFIFO | SFlag::S_IFSOCK))
}
