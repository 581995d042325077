//! The two threads of an extraction and the digests they take on the way.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use berth_ids::Digest;
use berth_sys::process::{umask, unshare};
use nix::libc;
use sha2::{Digest as _, Sha256};

use crate::window::{self, Window};
use crate::{TarError, UnpackError};

/// Inflated bytes travel in buffers of this size, at most [`RING`] of them: 1 MiB per layer in flight.
const BUFFER: usize = 256 << 10;
const RING: usize = 4;
/// Inflated bytes that nobody looks at the ratio of, and how many of them a compressed byte may stand for beyond. DEFLATE
/// gives a thousand for nothing but zeros.
const UNASKED: u64 = 1 << 30;
const RATIO: u64 = 500;
/// Bytes that tell a compression, and how much memory it takes.
const HEAD: usize = 4 + window::HEADER;

pub(crate) struct Streamed {
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    pub(crate) inflated: Digest,
    pub(crate) inflated_size: u64,
}

/// [`Read`] for what is a [`BufRead`] by itself.
pub fn read_buffered(from: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let have = from.fill_buf()?;
    let length = have.len().min(buffer.len());
    buffer[..length].copy_from_slice(&have[..length]);
    from.consume(length);
    Ok(length)
}

/// Inflates by the magic number: gzip (all members), zstd (all frames), else as it is.
pub fn decoder<'a>(mut blob: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    // The first bytes may come one by one.
    let mut head = Vec::with_capacity(HEAD);
    while head.len() < HEAD {
        let have = match blob.fill_buf() {
            Ok([]) => break,
            Ok(have) => &have[..have.len().min(HEAD - head.len())],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(have);
        let length = have.len();
        blob.consume(length);
    }
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    // A zstd frame, or a skippable one before it (RFC 8878, 3.1.2).
    let is_frame = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let is_zstd = is_frame || matches!(head[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    let window = if is_frame { window::wanted(&head[4..]) } else { window::USUAL };
    for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh", "bzip2")] {
        if head.starts_with(magic) {
            let problem = format!("{name} is not read; gzip, zstd and plain tar are");
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
    }
    let taken = Arc::new(AtomicU64::new(head.len() as u64));
    let whole = io::Cursor::new(head).chain(Counted { inner: blob, taken: taken.clone() });
    Ok(match (is_gzip, is_zstd) {
        (true, _) => {
            let inner = flate2::bufread::MultiGzDecoder::new(whole);
            Box::new(Proportionate { inner, given: 0, taken })
        }
        (_, true) => {
            let Some(share) = Window::take(window) else {
                let most = window::BUDGET;
                let problem = format!(
                    "its zstd window has {window} bytes, and {most} are kept at most: compress it without --long and --ultra"
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
            };
            let mut zstd = zstd::stream::read::Decoder::with_buffer(whole)?;
            // A later frame has what the first one asked for, or the usual.
            let largest = if window > window::USUAL { window::BUDGET } else { window::USUAL };
            zstd.window_log_max(largest.ilog2())?;
            let inner = Windowed { inner: zstd, _window: share };
            Box::new(Proportionate { inner, given: 0, taken })
        }
        _ => Box::new(whole),
    })
}

fn digest(hash: Sha256) -> Digest {
    Digest::from_sha256(hash.finalize().into())
}

/// Counts what is taken from it.
struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        self.inner.consume(length);
    }
}

/// Ends where little becomes too much.
struct Proportionate<R> {
    inner: R,
    given: u64,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Proportionate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.given += length as u64;
        if self.given > UNASKED && self.given / RATIO > self.taken.load(Ordering::Relaxed) {
            let problem = format!("it inflates to more than {RATIO} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(length)
    }
}

/// A decoder with its share of memory.
struct Windowed<R> {
    inner: R,
    _window: Window,
}

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

/// Hashes what is taken from it, and keeps what the reader below failed with, so that this is told from an error of
/// the inflater.
struct Source<R> {
    inner: R,
    hash: Sha256,
    size: u64,
    failed: Option<io::Error>,
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.inner.fill_buf() {
            Ok(have) => Ok(have),
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(kind.into())
            }
        }
    }

    fn consume(&mut self, length: usize) {
        // What was given out before is still there: nothing is read.
        if let Ok(have) = self.inner.fill_buf() {
            self.hash.update(&have[..length]);
        }
        self.size += length as u64;
        self.inner.consume(length);
    }
}

/// Inflates while another thread runs `consume` over the inflated stream, with a umask of its own, which is 0.
pub(crate) fn pipeline<T: Send>(
    blob: impl BufRead + Send,
    limit: u64,
    consume: impl FnOnce(Inflated) -> Result<T, UnpackError> + Send,
) -> Result<(Streamed, T), UnpackError> {
    let (full, filled) = sync_channel::<Vec<u8>>(RING);
    let (spent, empty) = channel::<Vec<u8>>();
    thread::scope(|scope| {
        let consumer = thread::Builder::new().name("berth-extract".into());
        let consumer = consumer.spawn_scoped(scope, move || {
            let mut end = None;
            let input = Inflated {
                filled,
                spent,
                current: Vec::new(),
                at: 0,
                hash: Some(Sha256::new()),
                size: 0,
                end: &mut end,
            };
            // Then a file has its mode from its making. A thread that shares the umask gives it later.
            if unshare(libc::CLONE_FS).is_ok() {
                umask(0);
            }
            consume(input).map(|consumed| (consumed, end))
        });
        let consumer = consumer.map_err(|source| UnpackError::Thread { source })?;
        let inflated = inflate(blob, limit, full, &empty);
        let consumed = consumer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The first cause: a stream that failed makes the archive look truncated.
        let (blob, blob_size) = match inflated {
            Ok(Some(blob)) => blob,
            Ok(None) => match consumed {
                Err(error) => return Err(error),
                Ok(_) => return Err(TarError::Truncated.into()),
            },
            Err(error) => return Err(error),
        };
        let (consumed, end) = consumed?;
        let Some((inflated, inflated_size)) = end else { return Err(TarError::Truncated.into()) };
        Ok((Streamed { blob, blob_size, inflated, inflated_size }, consumed))
    })
}

/// `None`: the consumer went away.
fn inflate(
    blob: impl BufRead + Send,
    limit: u64,
    full: SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Option<(Digest, u64)>, UnpackError> {
    let mut source = Source { inner: blob, hash: Sha256::new(), size: 0, failed: None };
    let done = pump(&mut source, limit, &full, empty);
    if let Some(error) = source.failed {
        return Err(UnpackError::Read { source: error });
    }
    done.map(|whole| whole.then(|| (digest(source.hash), source.size)))
}

fn pump<R: BufRead + Send>(
    source: &mut Source<R>,
    limit: u64,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<bool, UnpackError> {
    let fail = |source| UnpackError::Inflate { source };
    let mut total = 0;
    {
        let mut decoder = decoder(&mut *source).map_err(fail)?;
        loop {
            let mut buffer = empty.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let mut length = 0;
            while length < BUFFER {
                match decoder.read(&mut buffer[length..]) {
                    Ok(0) => break,
                    Ok(got) => length += got,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(fail(error)),
                }
            }
            if length == 0 {
                break;
            }
            total += length as u64;
            if total > limit {
                return Err(UnpackError::TooLarge { limit });
            }
            buffer.truncate(length);
            if full.send(buffer).is_err() {
                return Ok(false);
            }
        }
    }
    // What follows the compressed stream belongs to the blob's digest too.
    io::copy(source, &mut io::sink()).map_err(fail)?;
    // An empty buffer says that this was the end and not a failure.
    Ok(full.send(Vec::new()).is_ok())
}

/// The inflated stream; hashes what it hands out.
pub(crate) struct Inflated<'a> {
    filled: Receiver<Vec<u8>>,
    spent: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    hash: Option<Sha256>,
    size: u64,
    end: &'a mut Option<(Digest, u64)>,
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl BufRead for Inflated<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len()
            && let Some(hash) = &mut self.hash
        {
            let next = self.filled.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            hash.update(&next);
            self.size += next.len() as u64;
            let spent = std::mem::replace(&mut self.current, next);
            self.at = 0;
            // The inflater may have ended already; then nobody needs the buffer.
            let _ = self.spent.send(spent);
            if self.current.is_empty() {
                *self.end = self.hash.take().map(|hash| (digest(hash), self.size));
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}
