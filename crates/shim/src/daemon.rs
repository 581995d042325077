//! The connection to the daemon of the moment.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::{Event, Reply, encode_event, encode_reply};
use berth_sys::fd as sysfd;

/// Replies and events a daemon that does not read may leave behind before its connection is closed. It finds
/// everything in a snapshot when it comes back.
const BACKLOG: usize = 4096;

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) socket: OwnedFd,
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Daemon {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, unsent: VecDeque::new() }
    }

    pub(crate) fn reply(&mut self, sequence: u32, reply: &Reply, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.send(encode_reply(reply, sequence), fds)
    }

    pub(crate) fn event(&mut self, event: &Event) -> io::Result<()> {
        self.send(encode_event(event), Vec::new())
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.unsent.len() >= BACKLOG {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.unsent.push_back((bytes, fds));
        self.flush()
    }

    /// Whether something waits for the socket to take more.
    pub(crate) fn waits(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.unsent.front() {
            let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            match sysfd::send_packet(self.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
