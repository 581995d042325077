//! Where an export goes: a tar file, compressed or not, in a file or a pipe; or a directory in OCI layout.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::write::GzEncoder;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, mkdirat};

use crate::ImageError;

/// How long a pipe that is full is waited for before somebody is asked whether it is still wanted, in milliseconds.
const LOOK: u16 = 200;
const BUFFER: usize = 1 << 18;
/// The one whose compressor is built.
const ZSTD: i32 = 1;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

pub(crate) enum Sink {
    Archive(Box<Compressed>),
    Directory {
        root: File,
        /// The file that is being written.
        current: Option<BufWriter<File>>,
        bytes: u64,
    },
}

pub(crate) enum Compressed {
    Plain(BufWriter<Out>),
    Gzip(GzEncoder<BufWriter<Out>>),
    Zstd(zstd::Encoder<'static, BufWriter<Out>>),
}

impl Compressed {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out,
            Self::Zstd(out) => out,
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(out) => out.finish(),
            Self::Zstd(out) => out.finish(),
        }?
        .flush()
    }
}

impl Sink {
    /// Into a directory that is given, an archive into anything else.
    pub(crate) fn new(
        to: File,
        compression: Option<Compression>,
        ended: Arc<AtomicBool>,
        bytes: Arc<AtomicU64>,
    ) -> Result<Self, ImageError> {
        let metadata = to.metadata().map_err(ImageError::export)?;
        if metadata.is_dir() {
            if compression.is_some() {
                return Err(ImageError::export(io::Error::other("a directory is not compressed")));
            }
            return Ok(Self::Directory { root: to, current: None, bytes: 0 });
        }
        let out = if metadata.file_type().is_fifo() { unblocked(to) } else { to };
        let out = BufWriter::with_capacity(BUFFER, Out { file: out, ended, bytes });
        let archive = match compression {
            None => Compressed::Plain(out),
            Some(Compression::Gzip) => Compressed::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Some(Compression::Zstd) => {
                let mut encoder = zstd::Encoder::new(out, ZSTD).map_err(ImageError::export)?;
                encoder.include_checksum(true).map_err(ImageError::export)?;
                Compressed::Zstd(encoder)
            }
        };
        Ok(Self::Archive(Box::new(archive)))
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// The next file, of so many bytes.
    pub(crate) fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        match self {
            Self::Archive(out) => out.writer().write_all(&berth_unpack::file_header(name, size)?),
            Self::Directory { root, current, .. } => {
                *current = Some(BufWriter::with_capacity(BUFFER, create(root, name)?));
                Ok(())
            }
        }
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Archive(out) => out.writer().write_all(piece),
            Self::Directory { current, bytes, .. } => {
                *bytes += piece.len() as u64;
                current.as_mut().ok_or(io::ErrorKind::InvalidInput)?.write_all(piece)
            }
        }
    }

    /// The file has its bytes, `size` of them.
    pub(crate) fn end_file(&mut self, size: u64) -> io::Result<()> {
        match self {
            Self::Archive(out) => {
                let fill = size.next_multiple_of(512) - size;
                out.writer().write_all(&[0; 512][..fill as usize])
            }
            Self::Directory { current, .. } => current.take().map_or(Ok(()), |mut file| file.flush()),
        }
    }

    /// The bytes of a directory's files; an archive's are counted where they are written.
    pub(crate) fn end(self) -> io::Result<u64> {
        match self {
            Self::Archive(mut out) => {
                out.writer().write_all(&[0; 1024])?;
                out.finish().map(|()| 0)
            }
            Self::Directory { bytes, .. } => Ok(bytes),
        }
    }
}

/// A new file below the directory; its names are ours.
fn create(root: &File, name: &str) -> io::Result<File> {
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = root.as_fd().try_clone_to_owned()?;
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            return Ok(openat(&at, part, flags, Mode::from_bits_truncate(0o644))?.into());
        }
        match mkdirat(&at, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = openat(&at, part, directory, Mode::empty())?;
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// The same pipe by a description of our own: the caller's stays blocking. Where that cannot be had, the caller's.
fn unblocked(pipe: File) -> File {
    let again = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
    again.unwrap_or(pipe)
}

/// Counts what is written, and waits for a pipe only as long as somebody wants it.
pub(crate) struct Out {
    file: File,
    ended: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Write for Out {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut wanted, PollTimeout::from(LOOK))?;
                    if self.ended.load(Ordering::Relaxed) {
                        return Err(io::Error::other("whoever asked has gone"));
                    }
                }
                Ok(written) => {
                    self.bytes.fetch_add(written as u64, Ordering::Relaxed);
                    return Ok(written);
                }
                failed => return failed,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
