//! What goes along with a request.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::RequestBuilder;
use tokio::sync::mpsc;

/// Bytes read at once, and how often before the network took them.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;

/// What is sent. It can be sent again: with credentials, to where it is redirected, after a cut.
#[derive(Debug, Clone)]
pub enum Body {
    Bytes(Bytes),
    File(Section),
}

/// A part of a file, read while it is sent.
#[derive(Debug, Clone)]
pub struct Section {
    pub file: Arc<File>,
    /// Its first byte.
    pub at: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that were handed to the network, counted as they go.
    pub gone: Arc<AtomicU64>,
}

impl Section {
    /// `size` bytes of it from its byte `from` on.
    pub(crate) fn part(&self, from: u64, size: u64) -> Self {
        Self { at: self.at + from, size, ..self.clone() }
    }
}

impl Body {
    pub(crate) fn none() -> Self {
        Self::Bytes(Bytes::new())
    }

    /// Moves on for as long as it is being sent.
    pub(crate) fn gone(&self) -> u64 {
        match self {
            Self::Bytes(_) => 0,
            Self::File(section) => section.gone.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn attach(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Bytes(bytes) => request.body(bytes.clone()),
            Self::File(section) => request.body(reqwest::Body::wrap(Pieces::of(section.clone()))),
        }
    }
}

/// A section on its way: a thread reads ahead of the network.
struct Pieces {
    receive: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    gone: Arc<AtomicU64>,
}

impl Pieces {
    fn of(section: Section) -> Self {
        let (send, receive) = mpsc::channel(PIECES);
        let (left, gone) = (section.size, section.gone.clone());
        tokio::task::spawn_blocking(move || read(&section, &send));
        Self { receive, left, gone }
    }
}

/// Ends early when nobody takes the pieces any more.
fn read(section: &Section, send: &mpsc::Sender<io::Result<Bytes>>) {
    let (mut at, end) = (section.at, section.at + section.size);
    while at < end {
        let mut piece = vec![0; usize::try_from(end - at).unwrap_or(PIECE).min(PIECE)];
        let piece = match section.file.read_at(&mut piece, at) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                piece.truncate(length);
                at += length as u64;
                Ok(Bytes::from(piece))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if send.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = std::task::ready!(self.receive.poll_recv(context));
        Poll::Ready(next.map(|piece| {
            let piece = piece?;
            self.left = self.left.saturating_sub(piece.len() as u64);
            self.gone.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(Frame::data(piece))
        }))
    }

    /// Exact, so that the request says its length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
