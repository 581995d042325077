use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use tokio::io::AsyncWriteExt as _;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::Ended;
use crate::pipe::Pipe;
use crate::pool::{Buffer, HEADROOM};
use crate::spdy::{self, GoAwayStatus, ResetStatus, StreamId};
use crate::transport::{Socket, Writer};
use crate::websocket::{self, Opcode};

enum Form {
    Spdy(spdy::Encoder),
    Channels { base64: bool },
}

struct Inner {
    writer: Writer,
    form: Form,
    /// A frame was begun and not ended, because its writer was dropped: nothing that makes sense can follow.
    torn: bool,
    /// What the writer is, where nothing lies between it and the protocol.
    plain: Option<Socket>,
}

/// The writing end of a connection. A frame goes out whole: the lock is the queue of those who write to this one client.
pub(crate) struct Outlet {
    inner: Mutex<Inner>,
    activity: Arc<AtomicU64>,
}

/// What reading a descriptor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poured {
    /// So many bytes.
    Some(usize),
    /// Nothing to read now.
    Empty,
    End,
}

impl Outlet {
    pub(crate) fn spdy(writer: Writer, activity: Arc<AtomicU64>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                writer,
                form: Form::Spdy(spdy::Encoder::default()),
                torn: false,
                plain: None,
            }),
            activity,
        }
    }

    /// The writer is this socket and nothing else: much at once need not come through here.
    pub(crate) fn over(mut self, plain: Option<Socket>) -> Self {
        self.inner.get_mut().plain = plain;
        self
    }

    /// Messages that begin with a channel's byte, or its digit and base64.
    pub(crate) fn channels(writer: Writer, activity: Arc<AtomicU64>, base64: bool) -> Self {
        Self {
            inner: Mutex::new(Inner { writer, form: Form::Channels { base64 }, torn: false, plain: None }),
            activity,
        }
    }

    /// One read of the descriptor into one frame on the channel.
    pub(super) async fn pour(&self, channel: u32, from: &AsyncFd<OwnedFd>) -> Result<Poured, Ended> {
        let mut inner = self.inner.lock().await;
        let mut buffer = Buffer::take();
        let room = buffer.get_mut(HEADROOM..).unwrap_or_default();
        let length = loop {
            match nix::unistd::read(from.get_ref(), room) {
                // A terminal without anybody on its other side.
                Ok(0) | Err(Errno::EIO) => return Ok(Poured::End),
                Ok(length) => break length,
                Err(Errno::EAGAIN) => return Ok(Poured::Empty),
                Err(Errno::EINTR) => {}
                // A connection's other side was cut; it says no more.
                Err(error) => {
                    tracing::debug!(%error, "a stream broke");
                    return Ok(Poured::End);
                }
            }
        };
        self.activity.fetch_add(1, Ordering::Relaxed);
        inner.data(channel, &mut buffer, length).await.map_err(Ended::Write)?;
        Ok(Poured::Some(length))
    }

    /// The same for a pipe or a socket that has much, and its pages go on as they are. Nothing where that cannot be.
    pub(super) async fn splice(
        &self,
        channel: u32,
        from: &AsyncFd<OwnedFd>,
    ) -> Result<Option<Poured>, Ended> {
        let mut inner = self.inner.lock().await;
        if matches!(&inner.form, Form::Channels { base64: true }) {
            return Ok(None);
        }
        let Some(socket) = inner.plain.clone() else { return Ok(None) };
        let Ok(mut pipe) = Pipe::take() else { return Ok(None) };
        let length = match pipe.fill(from.get_ref(), pipe.room()) {
            Ok(0) => return Ok(Some(Poured::End)),
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(Some(Poured::Empty)),
            // Reading tells what is wrong.
            Err(_) => return Ok(None),
        };
        self.activity.fetch_add(1, Ordering::Relaxed);
        inner.piped(channel, &mut pipe, &socket).await.map_err(Ended::Write)?;
        Ok(Some(Poured::Some(length)))
    }

    /// A short text, and with `fin` the end of the channel.
    pub(super) async fn text(&self, channel: u32, text: &[u8], fin: bool) -> Result<(), Ended> {
        let mut inner = self.inner.lock().await;
        let sent = match &inner.form {
            Form::Spdy(_) => {
                let mut frame = spdy::data_head(StreamId(channel), text.len(), fin).to_vec();
                frame.extend(text);
                inner.write(&frame).await
            }
            Form::Channels { base64: true } => inner.base64(channel, text).await,
            Form::Channels { base64: false } => {
                let payload = [&[channel as u8], text].concat();
                inner.write(&websocket::frame(Opcode::Binary, &payload, None)).await
            }
        };
        sent.map_err(Ended::Write)
    }

    /// Nothing follows on the channel. WebSocket has no word for it.
    pub(super) async fn end(&self, channel: u32) -> Result<(), Ended> {
        self.spdy_frame(|_| spdy::data_head(StreamId(channel), 0, true).to_vec()).await
    }

    /// Accepts a stream of SPDY.
    pub(super) async fn reply(&self, channel: u32) -> Result<(), Ended> {
        self.spdy_frame(|encoder| encoder.reply(StreamId(channel))).await
    }

    pub(super) async fn reset(&self, channel: u32, status: ResetStatus) -> Result<(), Ended> {
        self.spdy_frame(|encoder| encoder.reset(StreamId(channel), status)).await
    }

    async fn spdy_frame(&self, frame: impl FnOnce(&mut spdy::Encoder) -> Vec<u8>) -> Result<(), Ended> {
        let mut inner = self.inner.lock().await;
        let Form::Spdy(encoder) = &mut inner.form else { return Ok(()) };
        let frame = frame(encoder);
        inner.write(&frame).await.map_err(Ended::Write)
    }

    pub(super) async fn pong(&self, payload: &[u8]) -> Result<(), Ended> {
        let mut inner = self.inner.lock().await;
        let frame = match &inner.form {
            Form::Spdy(encoder) => {
                encoder.ping(payload.first_chunk::<4>().map_or(0, |id| u32::from_be_bytes(*id)))
            }
            Form::Channels { .. } => websocket::frame(Opcode::Pong, payload, None),
        };
        inner.write(&frame).await.map_err(Ended::Write)
    }

    /// The connection ends, and why.
    pub(super) async fn leave(&self, last: u32, ended: Option<&Ended>) -> Result<(), Ended> {
        let mut inner = self.inner.lock().await;
        let frame = match (&inner.form, ended) {
            (Form::Spdy(encoder), ended) => {
                let status = match ended {
                    Some(ended) if ended.protocol() => GoAwayStatus::Protocol,
                    _ => GoAwayStatus::Ok,
                };
                encoder.go_away(StreamId(last), status)
            }
            (Form::Channels { .. }, None) => websocket::close(websocket::code::NORMAL, "", None),
            (Form::Channels { .. }, Some(ended)) => {
                let code = match ended {
                    ended if ended.protocol() => websocket::code::PROTOCOL,
                    Ended::Stopped | Ended::Idle(_) => websocket::code::GOING_AWAY,
                    _ => websocket::code::INTERNAL,
                };
                websocket::close(code, &ended.to_string(), None)
            }
        };
        inner.write(&frame).await.map_err(Ended::Write)
    }

    /// Nothing is written any more.
    pub(super) async fn shutdown(&self) {
        // It may be gone already.
        let _ = self.inner.lock().await.writer.shutdown().await;
    }
}

impl Inner {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.torn, true) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.writer.write_all(bytes).await?;
        self.writer.flush().await?;
        self.torn = false;
        Ok(())
    }

    /// Sends `length` bytes that lie behind the buffer's headroom.
    async fn data(&mut self, channel: u32, buffer: &mut Buffer, length: usize) -> io::Result<()> {
        let end = HEADROOM + length;
        let start = match &self.form {
            Form::Spdy(_) => put(buffer, HEADROOM, &spdy::data_head(StreamId(channel), length, false)),
            Form::Channels { base64: false } => {
                let at = put(buffer, HEADROOM, &[channel as u8]);
                put(buffer, at, websocket::head(Opcode::Binary, length + 1, None).as_ref())
            }
            Form::Channels { base64: true } => {
                let bytes = buffer.get(HEADROOM..end).unwrap_or_default();
                return self.base64(channel, bytes).await;
            }
        };
        self.write(buffer.get(start..end).unwrap_or_default()).await
    }

    /// Sends all that is in a pipe as one frame.
    async fn piped(&mut self, channel: u32, pipe: &mut Pipe, socket: &Socket) -> io::Result<()> {
        let length = pipe.held();
        let head = match &self.form {
            Form::Spdy(_) => spdy::data_head(StreamId(channel), length, false).to_vec(),
            Form::Channels { .. } => {
                let mut head = websocket::head(Opcode::Binary, length + 1, None).as_ref().to_vec();
                head.push(channel as u8);
                head
            }
        };
        if std::mem::replace(&mut self.torn, true) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        socket.begin(&head).await?;
        while pipe.held() > 0 {
            let moved = socket.write_with(|fd| Ok(pipe.pour(fd)?)).await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.torn = false;
        Ok(())
    }

    async fn base64(&mut self, channel: u32, bytes: &[u8]) -> io::Result<()> {
        let payload = websocket::encode_base64(channel as u8, bytes);
        self.write(&websocket::frame(Opcode::Text, &payload, None)).await
    }
}

/// Puts `bytes` in front of `before`; where they begin.
fn put(buffer: &mut Buffer, before: usize, bytes: &[u8]) -> usize {
    let start = before.saturating_sub(bytes.len());
    if let Some(room) = buffer.get_mut(start..before) {
        room.copy_from_slice(bytes);
    }
    start
}
