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
    acknowledged: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), next: 1, acknowledged: 0 };
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
        self.message((SUBSYSTEM << 8) | kind, REQUEST | ACK | flags, INET, 0, attributes);
        self.acknowledged += 1;
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

    fn exchange(self, socket: &Socket) -> io::Result<()> {
        socket.make_room(self.bytes.len());
        socket.send(&self.bytes)?;
        let mut answered = 0;
        while answered < self.acknowledged {
            let datagram = socket.receive_short()?;
            for (kind, _, body) in messages(&datagram) {
                if kind == ERROR {
                    verdict(body)?;
                    answered += 1;
                }
            }
        }
        Ok(())
    }
}
