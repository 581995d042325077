//! A client's connection, with TLS or without, in two ends.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::pool::Buffer;

pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// How often a client that is not read from is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// A socket that its ends share without a lock.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Resolves when the client has closed its end, also while bytes it sent before lie unread.
    pub(crate) async fn closed(&self) {
        loop {
            match self.0.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }
}

impl Socket {
    /// Waits until `read`, which never waits, does not answer that it would have to.
    pub(crate) async fn read_with<T>(
        &self,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.async_io(Interest::READABLE, || read(self.0.as_fd())).await
    }

    /// Sends what more follows soon.
    pub(crate) async fn begin(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
            let sent = self.write_with(|fd| Ok(send(fd.as_raw_fd(), bytes, flags)?)).await?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until `write`, which never waits, does not answer that it would have to.
    pub(crate) async fn write_with<T>(
        &self,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.async_io(Interest::WRITABLE, || write(self.0.as_fd())).await
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(length) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        use std::os::fd::AsRawFd as _;
        let done = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        Poll::Ready(done.map_err(io::Error::from))
    }
}

/// Reads once into a buffer, behind `from` bytes that stay free; 0 is the end. While nothing comes no buffer is held, and
/// nothing is lost when it is dropped.
pub(crate) async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    from: usize,
) -> io::Result<(Buffer, usize)> {
    poll_fn(|cx| {
        let mut buffer = Buffer::take();
        let mut room = ReadBuf::new(buffer.get_mut(from..).unwrap_or_default());
        ready!(Pin::new(&mut *reader).poll_read(cx, &mut room))?;
        let length = room.filled().len();
        Poll::Ready(Ok((buffer, length)))
    })
    .await
}

pub(crate) enum Connection {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Connection {
    /// The socket itself, where nothing lies between it and the protocol.
    pub(crate) fn plain(&self) -> Option<Socket> {
        match self {
            Self::Plain(socket) => Some(socket.clone()),
            Self::Tls(_) => None,
        }
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(socket) => (Box::new(socket.clone()), Box::new(socket)),
            Self::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                (Box::new(reader), Box::new(writer))
            }
        }
    }
}
