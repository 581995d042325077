//! One layer from a registry: fetched by whoever needs it first, streamed into its directory.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use berth_ids::Digest;
use berth_registry::{LayerDescriptor, Session};
use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::progress::LayerProgress;
use crate::{ImageError, Shared};

/// Layers in flight, of all pulls together: each holds at most [`WINDOW`] of the network's bytes and the unpacker's ring,
/// about 2 MiB.
pub(crate) const IN_FLIGHT: usize = 12;
/// Bytes between the network and the inflater, of one layer.
const WINDOW: usize = 512 << 10;
/// Pieces of them.
const PIECES: usize = 64;

/// Has the layer on disk when it returns.
pub(crate) async fn layer(
    shared: &Arc<Shared>,
    session: &Session,
    id: Digest,
    blob: LayerDescriptor,
    progress: &LayerProgress,
) -> Result<(), ImageError> {
    // Whoever comes second waits here and finds it done: it is transferred once.
    let turn = shared.turn(&id).await;
    if shared.has_layer(&id) {
        progress.done();
        return Ok(());
    }
    let lost = || ImageError::Lost { reference: session.reference().to_string() };
    let slot = shared.in_flight.clone().acquire_owned().await.map_err(|_| lost())?;
    let (send, receive) = mpsc::channel(PIECES);
    let (work, digest) = (shared.clone(), blob.digest.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        // Both belong to the work: who asked may be gone before it ends.
        let (_turn, _slot) = (turn, slot);
        work.add_layer(&id, Some(&digest), Pieces { receive, current: Bytes::new(), room: None })
    });
    let transferred = transfer(session, &blob, send, progress).await;
    let unpacked = unpacking.await.unwrap_or_else(|_| Err(lost()));
    // Why the stream ended early says more than that it did.
    transferred.and(unpacked)?;
    progress.done();
    Ok(())
}

struct Piece {
    bytes: Bytes,
    /// Given back when the piece is inflated.
    room: OwnedSemaphorePermit,
}

async fn transfer(
    session: &Session,
    blob: &LayerDescriptor,
    send: mpsc::Sender<io::Result<Piece>>,
    progress: &LayerProgress,
) -> Result<(), ImageError> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let feed = async {
        let mut stream = session.blob(blob, 0).await?;
        while let Some(bytes) = stream.chunk().await? {
            progress.received(bytes.len());
            let size = u32::try_from(bytes.len().min(WINDOW)).unwrap_or(u32::MAX);
            let Ok(room) = window.clone().acquire_many_owned(size).await else { break };
            if send.send(Ok(Piece { bytes, room })).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let fed: Result<(), ImageError> = feed.await;
    if fed.is_err() {
        // So that half a layer is not taken for a whole one.
        let _ = send.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
    }
    fed
}

/// The receiving end as a blocking stream.
struct Pieces {
    receive: mpsc::Receiver<io::Result<Piece>>,
    current: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let length = have.len().min(buffer.len());
        buffer[..length].copy_from_slice(&have[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            self.room = None;
            match self.receive.blocking_recv() {
                None => break,
                Some(piece) => {
                    let piece = piece?;
                    (self.current, self.room) = (piece.bytes, Some(piece.room));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        self.current.advance(length);
    }
}
