//! Tar as image layers use it: ustar, PAX and GNU long names and sparse files, every size bounded.

mod extension;
mod sparse;

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use tar::Header;

use self::extension::{Extension, Said};
use crate::field::{number, unsigned};
use crate::{Limits, TarError, read_buffered};

const BLOCK: u64 = 512;
/// Bytes of all the global headers of an archive. What they say is looked at for every entry.
const GLOBAL: u64 = 4 << 10;

/// A time stamp; `nanos` counts forward from `seconds`, also before the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// The pieces of a sparse file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// (offset, length), ascending; the data follows in this order.
    pub pieces: Vec<(u64, u64)>,
    pub real_size: u64,
}

/// One entry, with everything that headers before it said.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Where in the stream the data begins.
    pub offset: u64,
    /// The target of a link.
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    pub atime: Option<Time>,
    /// From `SCHILY.xattr.*`.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor.
    pub device: (u32, u32),
    pub sparse: Option<Sparse>,
}

/// A reader of entries; as a [`Read`] it gives the data of the entry last returned.
#[derive(Debug)]
pub struct Archive<R> {
    input: R,
    limits: Limits,
    /// Data of the current entry not yet read, and the zeros after it.
    left: u64,
    padding: u64,
    position: u64,
    entries: u64,
    global: Extension,
    global_size: u64,
}

impl<R: BufRead> Archive<R> {
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            left: 0,
            padding: 0,
            position: 0,
            entries: 0,
            global: Extension::default(),
            global_size: 0,
        }
    }

    fn malformed<T>(&self, what: &'static str) -> Result<T, TarError> {
        Err(TarError::Malformed { at: self.position, what })
    }

    /// The next entry, `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut said = Said::default();
        let mut pending = false;
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return if pending { Err(TarError::Truncated) } else { Ok(None) };
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(TarError::Limit { what: "entries", limit: self.limits.entries });
            }
            let Some(size) = unsigned(&header.as_old().size) else { return self.malformed("size") };
            match header.as_bytes()[156] {
                b'L' => said.long_name = Some(until_nul(self.extension(size, &mut said.size)?)),
                b'K' => said.long_link = Some(until_nul(self.extension(size, &mut said.size)?)),
                b'x' => {
                    let data = self.extension(size, &mut said.size)?;
                    said.records.push(data);
                }
                b'g' => {
                    let mut sum = self.global_size;
                    let data = self.extension(size, &mut sum)?;
                    if sum > GLOBAL {
                        return Err(TarError::Limit { what: "bytes in global headers", limit: GLOBAL });
                    }
                    self.global_size = sum;
                    let mut global = std::mem::take(&mut self.global);
                    self.apply(&data, &mut global)?;
                    self.global = global;
                }
                // A volume label carries nothing.
                b'V' => {
                    self.begin(size)?;
                    continue;
                }
                kind => {
                    let more = self.more(said)?;
                    return self.entry(&header, kind, size, more).map(Some);
                }
            }
            pending = true;
        }
    }

    /// The 512 bytes of a header; `None` at two zero blocks or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|&b| b == 0) {
            let mut second = [0; 512];
            return match self.block(&mut second)? && second.iter().any(|&b| b != 0) {
                true => self.malformed("an entry after the end mark"),
                false => Ok(None),
            };
        }
        let bytes = header.as_bytes();
        let said = number(&header.as_old().cksum);
        // Some old writers summed signed bytes.
        let is_sum = said.is_some_and(|said| {
            said == sum(bytes, i32::from).into()
                || said == sum(bytes, |byte| byte.cast_signed().into()).into()
        });
        if is_sum { Ok(Some(header)) } else { self.malformed("checksum") }
    }

    /// Reads one block; `false` where the stream ends before it.
    fn block(&mut self, block: &mut [u8; 512]) -> Result<bool, TarError> {
        let mut have = 0;
        while have < block.len() {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated),
                Ok(got) => have += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { source }),
            }
        }
        self.position += BLOCK;
        Ok(true)
    }

    fn begin(&mut self, size: u64) -> Result<(), TarError> {
        if size > self.limits.bytes {
            return Err(TarError::Limit { what: "bytes", limit: self.limits.bytes });
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn entry(&mut self, header: &Header, kind: u8, size: u64, more: Extension) -> Result<Entry, TarError> {
        let name = more.name.unwrap_or_else(|| header.path_bytes().into_owned());
        // Only files have data; writers leave the size of a link's target in the header (as Go's reader sees it).
        let has_data = matches!(kind, 0 | b'0' | b'7' | b'S');
        let kind = match kind {
            // Before ustar a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' if name.ends_with(b"/") && header.as_ustar().is_none() => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind { kind: char::from(other) }),
        };
        let mut old_sparse = None;
        if header.as_bytes()[156] == b'S' {
            old_sparse = Some(self.old_sparse(header)?);
        }
        let size = if has_data { more.size.unwrap_or(size) } else { 0 };
        self.begin(size)?;
        let sparse = match old_sparse {
            Some(sparse) => Some(sparse),
            None if kind == Kind::File && more.sparse => {
                let real_size = more.sparse_size.unwrap_or(0);
                let numbers = if more.sparse_in_data { self.sparse_in_data()? } else { more.sparse_pieces };
                if numbers.len() % 2 != 0 {
                    return self.malformed("a sparse map");
                }
                let pieces = numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect();
                Some(Sparse { pieces, real_size })
            }
            None => None,
        };
        if let Some(sparse) = &sparse {
            self.check_sparse(sparse)?;
        }
        let old = header.as_old();
        let mode = unsigned(&old.mode).and_then(|mode| u32::try_from(mode).ok());
        let Some(mode) = mode else { return self.malformed("mode") };
        let owner = |said: Option<u64>, field: &[u8]| match said.or_else(|| unsigned(field)) {
            Some(id) => Ok(id),
            None => self.malformed("owner"),
        };
        let device = match kind {
            Kind::Char | Kind::Block => {
                let part = |at: usize| u32::try_from(unsigned(&header.as_bytes()[at..at + 8])?).ok();
                match (header.as_ustar().is_some() || header.as_gnu().is_some(), part(329), part(337)) {
                    (false, ..) => (0, 0),
                    (true, Some(major), Some(minor)) => (major, minor),
                    _ => return self.malformed("device number"),
                }
            }
            _ => (0, 0),
        };
        let link =
            more.link.unwrap_or_else(|| header.link_name_bytes().map(Cow::into_owned).unwrap_or_default());
        let mtime = more.mtime.unwrap_or_else(|| Time {
            seconds: number(&old.mtime).and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
            nanos: 0,
        });
        Ok(Entry {
            name: more.sparse_name.filter(|_| more.sparse).unwrap_or(name),
            kind,
            size: self.left,
            offset: self.position,
            link,
            mode,
            uid: owner(more.uid, &old.uid)?,
            gid: owner(more.gid, &old.gid)?,
            mtime,
            atime: more.atime,
            xattrs: more.xattrs.into_iter().collect(),
            device,
            sparse,
        })
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let have = match self.input.fill_buf() {
                Ok([]) => return Err(TarError::Truncated),
                Ok(have) => have.len() as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TarError::Read { source }),
            };
            let length = have.min(count);
            self.input.consume(length as usize);
            self.position += length;
            count -= length;
        }
        Ok(())
    }

    /// Reads on to the end of the stream, so that its digest is whole.
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let length = match self.input.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(have) => have.len(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TarError::Read { source }),
            };
            self.input.consume(length);
        }
    }
}

impl<R: BufRead> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

impl<R: BufRead> BufRead for Archive<R> {
    /// Empty at the end of the entry, and where the stream ends early: then [`Archive::next_entry`] fails.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let have = self.input.fill_buf()?;
        Ok(&have[..have.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.left -= length as u64;
        self.position += length as u64;
    }
}

/// Of a header with the field itself as blanks.
fn sum(header: &[u8; 512], value: impl Fn(u8) -> i32) -> i32 {
    let of = |bytes: &[u8]| bytes.iter().map(|&byte| value(byte)).sum::<i32>();
    of(header) - of(&header[148..156]) + 8 * i32::from(b' ')
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}
