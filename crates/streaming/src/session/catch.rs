//! Large frames of SPDY go from the socket into a pipe without being looked at.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::pipe::{Pipe, WORTH};
use crate::spdy::{Decoder, HEAD, StreamId};
use crate::transport::Socket;

/// Bytes that are gathered before they are handed on.
const GATHERED: usize = 128 * 1024;

/// What one look at the socket came to.
pub(crate) struct Caught {
    /// The stream, its bytes, and whether it ended with them.
    pub(crate) piped: Option<(StreamId, Pipe, bool)>,
    /// What came behind them: at most one head, for the decoder.
    pub(crate) rest: Vec<u8>,
}

/// For a connection on which what comes is what was sent: neither TLS nor a mask lies between.
pub(super) struct Catcher {
    socket: Socket,
    /// Of the next frame, while it is incomplete: clients send it in two parts.
    head: Vec<u8>,
}

impl Catcher {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, head: Vec::new() }
    }

    /// Waits for what comes next, if that is likely to be worth it. Nothing where it is not, where there is no pipe to be had,
    /// or where the connection ended: the usual way tells it.
    pub(super) async fn fill(&mut self, decoder: &mut Decoder) -> io::Result<Option<Caught>> {
        if !worth(decoder, WORTH) {
            return Ok(None);
        }
        let Self { socket, head } = self;
        socket.read_with(|fd| catch(decoder, head, fd, WORTH)).await
    }
}

/// Whether the rest of a frame of `least` bytes or more comes next, or what follows one.
pub(crate) fn worth(decoder: &Decoder, least: usize) -> bool {
    let coming = decoder.coming().map(|(_, left)| left);
    coming.or(decoder.between()).is_some_and(|length| length >= least)
}

/// Takes what has come, up to the first frame of another kind.
/// `head` keeps an incomplete one for the next time.
pub(crate) fn catch(
    decoder: &mut Decoder,
    head: &mut Vec<u8>,
    socket: BorrowedFd<'_>,
    least: usize,
) -> io::Result<Option<Caught>> {
    let Ok(mut pipe) = Pipe::take() else { return Ok(None) };
    let (mut from, mut fin, mut rest) = (None, false, Vec::new());
    while !fin && pipe.held() < GATHERED {
        let taken = match decoder.coming() {
            Some((_, left)) => pipe.fill(socket, left.min(pipe.room())),
            None => {
                let mut room = [0; HEAD];
                let wanted = room.get_mut(head.len()..).unwrap_or_default();
                let taken = recv(socket.as_raw_fd(), wanted, MsgFlags::MSG_DONTWAIT);
                head.extend(wanted.iter().take(taken.unwrap_or_default()));
                taken
            }
        };
        match (taken, decoder.coming()) {
            (Ok(0), _) => {
                rest = std::mem::take(head);
                break;
            }
            (Ok(length), Some((stream, _))) => {
                from = Some(stream);
                fin = decoder.skip(length);
            }
            (Ok(_), None) => {
                if let Some(whole) = head.first_chunk::<HEAD>().copied() {
                    head.clear();
                    if !decoder.go_on(whole, from, least) {
                        rest.extend(whole);
                        break;
                    }
                }
            }
            (Err(Errno::EINTR), _) => {}
            (Err(Errno::EAGAIN), _) if from.is_none() => return Err(io::ErrorKind::WouldBlock.into()),
            // What is wrong with the connection is told by the next look.
            (Err(_), _) => break,
        }
    }
    let piped = from.map(|stream| (stream, pipe, fin));
    match piped.is_none() && rest.is_empty() {
        true => Ok(None),
        false => Ok(Some(Caught { piped, rest })),
    }
}
