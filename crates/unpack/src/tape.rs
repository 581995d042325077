//! A layer's tar stream without the contents of its files, so that the stream can be made again, byte by byte, from the
//! layer's directory: an image that is exported or pushed keeps its digests.
//!
//! A zstd stream of parts. `0`, length (u32), that many bytes of the stream; or `1`, length of a path (u32), the path,
//! offset (u64), length (u64): that many bytes of that file. Numbers are little endian.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use berth_sys::path::open_without_links;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::read_buffered;

/// Bytes of the stream gathered before they are written.
const GATHERED: usize = 64 << 10;
/// A path as a tape has it: links are followed, so it may be longer than an entry's.
const PATH: u32 = 1 << 20;

/// Writes parts.
pub(crate) struct Tape<W: Write> {
    out: W,
    raw: Vec<u8>,
    /// What goes by is a file's content.
    content: bool,
    failed: Option<io::Error>,
}

impl<W: Write> Tape<W> {
    pub(crate) fn new(out: W) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { out, raw: Vec::new(), content: false, failed: None }))
    }

    /// The next `length` bytes of the stream become those of `path` from `offset` on.
    pub(crate) fn content(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        self.flush()?;
        let size = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.out.write_all(&[1])?;
        self.out.write_all(&size.to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&offset.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.content = true;
        Ok(())
    }

    pub(crate) fn content_ends(&mut self) {
        self.content = false;
    }

    fn passes(&mut self, bytes: &[u8]) {
        if self.content {
            return;
        }
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= GATHERED
            && let Err(error) = self.flush()
        {
            self.failed = Some(error);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.raw.is_empty() {
            let size = u32::try_from(self.raw.len()).map_err(io::Error::other)?;
            self.out.write_all(&[0])?;
            self.out.write_all(&size.to_le_bytes())?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.out)
    }
}

/// The stream on its way to the reader of entries; the tape hears what is taken.
pub(crate) struct Taped<R, W: Write> {
    input: R,
    tape: Rc<RefCell<Tape<W>>>,
}

impl<R, W: Write> Taped<R, W> {
    pub(crate) fn new(input: R, tape: Rc<RefCell<Tape<W>>>) -> Self {
        Self { input, tape }
    }
}

impl<R: BufRead, W: Write> Read for Taped<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl<R: BufRead, W: Write> BufRead for Taped<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        // What was given out before is still there: nothing is read.
        if length > 0
            && let Ok(have) = self.input.fill_buf()
        {
            self.tape.borrow_mut().passes(&have[..length]);
        }
        self.input.consume(length);
    }
}

/// The tar stream of an extracted layer, made again. It is the one that was extracted as long as nobody changed the
/// layer, which its digest tells.
pub struct Restored<R: Read> {
    layer: OwnedFd,
    tape: BufReader<zstd::stream::read::Decoder<'static, BufReader<R>>>,
    part: Part,
}

impl<R: Read> std::fmt::Debug for Restored<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restored").field("layer", &self.layer).finish_non_exhaustive()
    }
}

enum Part {
    Bytes { left: u64 },
    Content { file: File, at: u64, left: u64 },
    End,
}

impl<R: Read> Restored<R> {
    /// `layer` is the directory, `tape` what was written to [`Records::tape`](crate::Records).
    pub fn new(layer: OwnedFd, tape: R) -> io::Result<Self> {
        let tape = BufReader::new(zstd::stream::read::Decoder::new(tape)?);
        Ok(Self { layer, tape, part: Part::Bytes { left: 0 } })
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.tape.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn next(&mut self) -> io::Result<Part> {
        if self.tape.fill_buf()?.is_empty() {
            return Ok(Part::End);
        }
        match self.number::<1>()? {
            [0] => Ok(Part::Bytes { left: u32::from_le_bytes(self.number()?).into() }),
            [1] => {
                let size = u32::from_le_bytes(self.number()?);
                if size > PATH {
                    return Err(broken());
                }
                let mut path = vec![0; size as usize];
                self.tape.read_exact(&mut path)?;
                let (at, left) = (u64::from_le_bytes(self.number()?), u64::from_le_bytes(self.number()?));
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
                let file = open_without_links(&self.layer, path.as_slice(), flags, Mode::empty());
                let file = File::from(file.map_err(|error| {
                    let name = crate::extract::shown(&path);
                    io::Error::new(error.kind(), format!("{name} is not in the layer as it was: {error}"))
                })?);
                Ok(Part::Content { file, at, left })
            }
            _ => Err(broken()),
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of the layer's stream is broken")
}

impl<R: Read> Read for Restored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let room = buffer.len();
            let most = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(room);
            match &mut self.part {
                Part::End => return Ok(0),
                Part::Bytes { left: 0 } | Part::Content { left: 0, .. } => self.part = self.next()?,
                Part::Bytes { left } => {
                    let got = self.tape.read(&mut buffer[..most(*left)])?;
                    *left -= got as u64;
                    return if got == 0 { Err(broken()) } else { Ok(got) };
                }
                Part::Content { file, at, left } => {
                    let got = file.read_at(&mut buffer[..most(*left)], *at)?;
                    if got == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "a file of the layer is shorter",
                        ));
                    }
                    *at += got as u64;
                    *left -= got as u64;
                    return Ok(got);
                }
            }
        }
    }
}
