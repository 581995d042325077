//! One layer from a registry: fetched by whoever needs it first, streamed into its directory.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use berth_ids::Digest;
use berth_registry::{LayerDescriptor, RegistryError, Session, Sources};
use berth_unpack::read_buffered;
use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::layers::Turn;
use crate::partial::Partial;
use crate::progress::LayerProgress;
use crate::{ImageError, Shared};

/// Layers that come, of all pulls together: each holds at most [`WINDOW`] of the network's bytes and the unpacker's ring,
/// about 2 MiB.
pub(crate) const IN_FLIGHT: usize = 12;
/// Layers that are there and wait for the disk without a place among those.
pub(crate) const SETTLING: usize = 12;
/// Bytes between the network and the inflater, of one layer.
const WINDOW: usize = 512 << 10;
/// Pieces of them.
const PIECES: usize = 64;

/// Has the layer on disk when it returns. `place`: the pull's for a layer that comes, given back when it is all there and
/// waits for the disk alone, so that the next one comes meanwhile.
pub(crate) async fn layer(
    shared: &Arc<Shared>,
    session: &Session,
    (id, blob): (Digest, LayerDescriptor),
    place: Option<OwnedSemaphorePermit>,
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
    let mut rights = Rights { _turn: turn, places: place.into_iter().chain([slot]).collect() };
    let mut sources = Sources::default();
    loop {
        let ended = attempt(shared, session, (&id, &blob), (&mut sources, rights), progress).await?;
        let Some(fault) = ended.fault else {
            progress.done();
            return Ok(());
        };
        match fault {
            Fault::Kept => {
                tracing::warn!(blob = %blob.digest, "what was kept of the layer is not part of it; it is fetched from its beginning");
            }
            Fault::Wrong(error) if sources.blame(session) => {
                tracing::warn!(
                    blob = %blob.digest,
                    error = &error as &dyn std::error::Error,
                    "a place gives other bytes than the layer's; the next is asked"
                );
            }
            Fault::Wrong(error) => return Err(error),
        }
        rights = ended.rights;
        progress.anew();
    }
}

/// They belong to the work: who asked may be gone before it ends.
struct Rights {
    _turn: Turn,
    /// The pull's, and among those of all pulls.
    places: Vec<OwnedSemaphorePermit>,
}

/// A transfer that nothing of this machine's hindered.
struct Ended {
    fault: Option<Fault>,
    rights: Rights,
}

enum Fault {
    /// What was there of an earlier one was wrong, and is gone.
    Kept,
    /// What came was not the layer.
    Wrong(ImageError),
}

/// One transfer from what is there to the end.
async fn attempt(
    shared: &Arc<Shared>,
    session: &Session,
    (id, blob): (&Digest, &LayerDescriptor),
    (sources, mut rights): (&mut Sources, Rights),
    progress: &LayerProgress,
) -> Result<Ended, ImageError> {
    let lost = || ImageError::Lost { reference: session.reference().to_string() };
    let (send, receive) = mpsc::channel(PIECES);
    let (tell, found) = oneshot::channel();
    let (work, id, digest, size) = (shared.clone(), id.clone(), blob.digest.clone(), blob.size);
    let unpacking = tokio::task::spawn_blocking(move || {
        let partial = work.partials.take(&digest, size);
        let resumed = partial.found().is_some();
        // Nobody listens any more: then the stream is at its end, too.
        let _ = tell.send(partial.found());
        let mut pieces =
            Pieces { receive, current: Bytes::new(), room: None, at: 0, size, cut: false, partial };
        let added = work.add_layer(&id, Some(&digest), &mut pieces, || {
            // A disk that is slower than the network has no more than so many threads waiting for it.
            if let Ok(other) = work.settling.clone().try_acquire_owned() {
                rights.places = vec![other];
            }
        });
        if !pieces.cut {
            pieces.partial.discard();
        }
        (added, pieces.cut, resumed, rights)
    });
    let transferred = match found.await {
        Ok(found) => transfer(session, blob, found, sources, send, progress).await,
        Err(_) => Ok(()),
    };
    let (added, cut, resumed, rights) = unpacking.await.map_err(|_| lost())?;
    // Why the stream ended early says more than that it did.
    let fault = match transferred.and(added) {
        Ok(()) => None,
        Err(error) if resumed && !cut && error.is_of_content() => Some(Fault::Kept),
        // Of bytes with the right digest that are no layer, no place has others.
        Err(ImageError::DiffId { blob, wanted, found }) => {
            return Err(ImageError::DiffId { blob, wanted, found });
        }
        Err(error) if !cut && error.is_of_content() => Some(Fault::Wrong(error)),
        Err(ImageError::Registry(error)) if matches!(*error, RegistryError::Size { .. }) => {
            Some(Fault::Wrong(ImageError::Registry(error)))
        }
        Err(error) => return Err(error),
    };
    Ok(Ended { fault, rights })
}

struct Piece {
    bytes: Bytes,
    /// Given back when the piece is inflated.
    room: OwnedSemaphorePermit,
}

/// Sends the whole blob but for the bytes that were `found`.
async fn transfer(
    session: &Session,
    blob: &LayerDescriptor,
    found: Option<Range<u64>>,
    sources: &mut Sources,
    send: mpsc::Sender<io::Result<Piece>>,
    progress: &LayerProgress,
) -> Result<(), ImageError> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let around = match found {
        None => [Some(0..blob.size), None],
        Some(found) => {
            progress.received(found.end - found.start);
            tracing::info!(blob = %blob.digest, from = found.start, to = found.end, "a transfer goes on where it was cut");
            [0..found.start, found.end..blob.size].map(|part| Some(part).filter(|part| !part.is_empty()))
        }
    };
    let feed = async {
        for part in around.into_iter().flatten() {
            let mut stream = session.blob(blob, part, sources).await?;
            while let Some(bytes) = stream.chunk().await? {
                progress.received(bytes.len() as u64);
                let size = u32::try_from(bytes.len().min(WINDOW)).unwrap_or(u32::MAX);
                let Ok(room) = window.clone().acquire_many_owned(size).await else { return Ok(()) };
                if send.send(Ok(Piece { bytes, room })).await.is_err() {
                    return Ok(());
                }
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

/// The receiving end as a blocking stream, with what was kept in its place.
struct Pieces<'a> {
    receive: mpsc::Receiver<io::Result<Piece>>,
    current: Bytes,
    room: Option<OwnedSemaphorePermit>,
    /// The next byte of the blob.
    at: u64,
    size: u64,
    /// It ended before its end.
    cut: bool,
    partial: Partial<'a>,
}

impl Pieces<'_> {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(kept) = self.partial.replay(self.at)? {
            return Ok(Some(kept));
        }
        let since = Instant::now();
        match self.receive.blocking_recv() {
            None => {
                self.cut = self.at < self.size;
                Ok(None)
            }
            Some(Err(error)) => {
                self.cut = true;
                Err(error)
            }
            Some(Ok(piece)) => {
                self.room = Some(piece.room);
                self.partial.came(self.at, &piece.bytes, since.elapsed());
                Ok(Some(piece.bytes))
            }
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            self.room = None;
            match self.next()? {
                None => break,
                Some(bytes) => {
                    self.at += bytes.len() as u64;
                    self.current = bytes;
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        self.current.advance(length);
    }
}
