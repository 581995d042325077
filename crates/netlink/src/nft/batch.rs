use std::io;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::SockProtocol;

use crate::attributes::Attributes;
use crate::socket::{ERROR, Socket, messages, verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Both families in one table (NFPROTO_INET).
const INET: u8 = 1;

/// A socket that stays open from one transaction to the next: the kernel makes whoever closes one wait until it has freed
/// what was removed (Linux: nf_tables, NETLINK_URELEASE), which takes 10 to 20 ms.
#[derive(Debug, Default)]
pub(super) struct Connection(Mutex<Option<Socket>>);

/// A transaction being written: all of it happens or nothing.
pub(super) struct Batch {
    bytes: Vec<u8>,
    next: u32,
    /// Where the last change begins, and its number.
    last: Option<(usize, u32)>,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), next: 1, last: None };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, Attributes::default());
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: Attributes) {
        let length = 16 + 4 + attributes.encoded().len();
        self.bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.next.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(attributes.encoded());
        self.next += 1;
    }

    pub(super) fn add(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        self.last = Some((self.bytes.len(), self.next));
        self.message((SUBSYSTEM << 8) | kind, REQUEST | flags, INET, 0, attributes);
    }

    /// The first refusal is the answer: the kernel then does nothing of the batch.
    pub(super) fn commit(mut self, connection: &Connection) -> io::Result<()> {
        self.message(BATCH_END, REQUEST, 0, SUBSYSTEM, Attributes::default());
        let mut kept = connection.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Out of its place until all answers are read: what fails in between leaves no answer for the next transaction.
        let socket = match kept.take() {
            Some(socket) => socket,
            None => Socket::open(SockProtocol::NetlinkNetFilter)?,
        };
        self.exchange(&socket)?;
        *kept = Some(socket);
        Ok(())
    }

    fn exchange(mut self, socket: &Socket) -> io::Result<()> {
        let Some((at, last)) = self.last else { return Ok(()) };
        // A refusal is told in any case, so the last acknowledgement is one of all.
        let flags = &mut self.bytes[at + 6..at + 8];
        flags.copy_from_slice(&(u16::from_ne_bytes([flags[0], flags[1]]) | ACK).to_ne_bytes());
        socket.make_room(self.bytes.len());
        socket.send(&self.bytes)?;
        loop {
            let datagram = socket.receive_short()?;
            for (kind, number, body) in messages(&datagram) {
                if kind == ERROR {
                    verdict(body)?;
                    if number == last {
                        return Ok(());
                    }
                }
            }
        }
    }
}
