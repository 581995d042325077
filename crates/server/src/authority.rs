//! Clients that put the socket's path into `:authority`, raw or percent-encoded: grpc-java, the C core and with it Python,
//! older grpc-go. For the HTTP library below that is a protocol error; on a unix socket it means nothing and is as good as
//! any other. Connections of such clients get `localhost` in its place; all others pass untouched after their first request.

mod rewrite;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use self::rewrite::Rewrite;

/// Read from the client at once.
const BATCH: usize = 16 * 1024;

/// A connection whose requests may have any `:authority`.
#[derive(Debug)]
pub(crate) struct AnyAuthority<S> {
    inner: S,
    /// `None`: the client is one of those that need no help, and nothing is looked at any more.
    rewrite: Option<Box<Rewrite>>,
    /// Looked at, and not read from us yet.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> AnyAuthority<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, rewrite: Some(Box::default()), ready: Vec::new(), taken: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.ready.len() {
            let Some(rewrite) = &mut this.rewrite else {
                return Pin::new(&mut this.inner).poll_read(context, buffer);
            };
            this.ready.clear();
            this.taken = 0;
            let mut space = [0; BATCH];
            let mut arrived = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut arrived))?;
            let ended = arrived.filled().is_empty();
            let goes_on = !ended && rewrite.push(arrived.filled(), &mut this.ready);
            if !goes_on {
                rewrite.rest(&mut this.ready);
                this.rewrite = None;
            }
            if ended && this.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        let part = &this.ready[this.taken..];
        let part = &part[..part.len().min(buffer.remaining())];
        buffer.put_slice(part);
        this.taken += part.len();
        if this.taken == this.ready.len() && this.rewrite.is_none() {
            (this.ready, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}
