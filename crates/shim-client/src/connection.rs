//! One daemon-to-shim connection: requests matched to replies by sequence number, events handed on as they come.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use berth_shim_wire::{Event, Incoming, MAX_PACKET, Reply, Request, WireError};
use berth_sys::fd as sysfd;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::ShimError;

/// A reply and the descriptors that came with it.
pub(crate) type Answer = (Reply, Vec<OwnedFd>);

/// What a connection tells its owner. Calls must not block.
pub(crate) trait Listener: Send + Sync + 'static {
    fn event(&self, event: Event);
    /// The other end is gone. Comes once, last.
    fn closed(&self);
}

#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    closed: AtomicBool,
    // A frame is one packet, so writers need no order among them; the lock only keeps wake-ups simple.
    writing: tokio::sync::Mutex<()>,
}

impl Connection {
    /// Takes a connected SOCK_SEQPACKET socket in non-blocking mode.
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for")]
    pub(crate) fn new(socket: OwnedFd, listener: Arc<dyn Listener>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: AsyncFd::with_interest(socket, Interest::READABLE | Interest::WRITABLE)?,
            next: AtomicU32::new(1),
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
        });
        let reader = tokio::spawn(read(shared.clone(), listener));
        Ok(Self { shared, reader })
    }

    /// Sends a request and waits for its reply. [`Reply::Failed`] becomes an error.
    pub(crate) async fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, ShimError> {
        let sequence = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.shared.waiting.lock().insert(sequence, tell);
        let sent = self.send(sequence, request, fds).await;
        if let Err(error) = sent {
            self.shared.waiting.lock().remove(&sequence);
            return Err(error);
        }
        // After the entry is in: the reader marks `closed` and then empties the table.
        if self.shared.closed.load(Ordering::SeqCst) {
            self.shared.waiting.lock().remove(&sequence);
        }
        match answer.await {
            Ok((Reply::Failed(step), _)) if step.step == berth_shim_wire::UNKNOWN_REQUEST => {
                Err(ShimError::OldShim)
            }
            Ok((Reply::Failed(step), _)) => Err(ShimError::Step(step)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(ShimError::Gone),
        }
    }

    async fn send(&self, sequence: u32, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        let frame = berth_shim_wire::encode_request(request, sequence);
        let memory;
        let mut all: Vec<BorrowedFd<'_>> = Vec::with_capacity(fds.len() + 1);
        let packet = if frame.len() > MAX_PACKET {
            memory = sysfd::sealed_memfd(c"berth-plan", &frame).map_err(ShimError::Socket)?;
            all.push(memory.as_fd());
            berth_shim_wire::encode_indirect(sequence, frame.len())
        } else {
            frame
        };
        all.extend_from_slice(fds);
        let _turn = self.shared.writing.lock().await;
        loop {
            let mut ready = self.shared.socket.writable().await.map_err(ShimError::Socket)?;
            match ready.try_io(|socket| sysfd::send_packet(socket.get_ref().as_fd(), &packet, &all)) {
                Ok(sent) => return sent.map_err(ShimError::Socket),
                Err(_would_block) => {}
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

thread_local! {
    /// Where packets arrive. One for each thread rather than for each shim: what a packet says is taken out of it before
    /// the next wait.
    static ARRIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_PACKET]);
}

/// What came in one packet, and its descriptors; `None` when the other end is gone.
type Packet = Option<(Result<Incoming, WireError>, Vec<OwnedFd>)>;

fn receive(socket: &OwnedFd) -> std::io::Result<Packet> {
    ARRIVED.with_borrow_mut(|buffer| {
        let (length, fds) = sysfd::recv_packet(socket.as_fd(), buffer)?;
        Ok((length > 0).then(|| (berth_shim_wire::decode_incoming(&buffer[..length]), fds)))
    })
}

async fn read(shared: Arc<Shared>, listener: Arc<dyn Listener>) {
    loop {
        let Ok(mut ready) = shared.socket.readable().await else { break };
        let (packet, fds) = match ready.try_io(|socket| receive(socket.get_ref())) {
            Err(_would_block) => continue,
            Ok(Err(_)) | Ok(Ok(None)) => break,
            Ok(Ok(Some(packet))) => packet,
        };
        match packet {
            Ok(Incoming::Reply(sequence, reply)) => {
                if let Some(waiting) = shared.waiting.lock().remove(&sequence) {
                    // The caller may have gone away; then nobody needs the answer.
                    let _ = waiting.send((reply, fds));
                }
            }
            Ok(Incoming::Event(event)) => listener.event(event),
            // A frame of a newer shim: nobody waits for it.
            Ok(Incoming::Unknown) => {}
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a shim sent a broken frame; its connection is closed"
                );
                break;
            }
        }
    }
    shared.closed.store(true, Ordering::SeqCst);
    shared.waiting.lock().clear();
    listener.closed();
}

#[cfg(test)]
mod tests {
    use berth_ids::{Classify as _, ErrorClass};
    use berth_shim_wire::{Packet, StepError, UNKNOWN_REQUEST, decode_packet, encode_reply};

    use super::*;

    struct Deaf;
    impl Listener for Deaf {
        fn event(&self, _: Event) {}
        fn closed(&self) {}
    }

    /// A shim that answers one request with this.
    fn shim(reply: Reply) -> (Connection, std::thread::JoinHandle<Packet>) {
        let (near, far) = sysfd::seqpacket_pair().unwrap();
        sysfd::set_nonblocking(near.as_fd(), true).unwrap();
        let answering = std::thread::spawn(move || {
            let mut buffer = vec![0; MAX_PACKET];
            let (length, _) = sysfd::recv_packet(far.as_fd(), &mut buffer).unwrap();
            let packet = decode_packet(&buffer[..length]).unwrap();
            let Packet::Request(sequence, _) = packet else { panic!("{packet:?}") };
            sysfd::send_packet(far.as_fd(), &encode_reply(&reply, sequence), &[]).unwrap();
            packet
        });
        (Connection::new(near, Arc::new(Deaf)).unwrap(), answering)
    }

    #[tokio::test]
    async fn a_shim_from_before_a_request_says_so() {
        let old = StepError { step: UNKNOWN_REQUEST.into(), object: String::new(), errno: 0 };
        let (connection, answering) = shim(Reply::Failed(old));
        let error = connection.call(&Request::Socket { ipv6: false }, &[]).await.unwrap_err();
        assert!(matches!(error, ShimError::OldShim), "{error}");
        assert_eq!(error.class(), ErrorClass::Unimplemented);
        answering.join().unwrap();
    }

    #[tokio::test]
    async fn a_container_that_does_not_run_is_no_fault_of_ours() {
        let gone = StepError { step: "find".into(), object: "c".into(), errno: nix::libc::ESRCH };
        let (connection, answering) = shim(Reply::Failed(gone));
        let request = Request::Signal { container_id: "c".into(), signal: 15 };
        let error = connection.call(&request, &[]).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::FailedPrecondition);
        assert!(matches!(answering.join().unwrap(), Packet::Request(_, asked) if asked == request));
    }
}
