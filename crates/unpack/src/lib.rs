//! Image layers, tar streams that nobody vouches for, to directories in the form overlayfs reads.
//!
//! One pass: the blob is hashed and inflated on one thread, the tar stream is hashed and extracted on another, with a umask of
//! its own.
//! Every name is resolved below the target directory by openat2, so no entry reaches anything outside it, and every
//! size that the stream announces is bounded by [`Limits`].

mod check;
mod error;
mod extract;
mod field;
mod pax;
mod remove;
mod stream;
mod sum;
mod tape;
mod tar;
mod tree;
mod window;

use std::io::{self, BufRead, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use berth_ids::Digest;

use crate::tape::{Tape, Taped};
pub use check::{Checked, Difference, check};
pub use error::{TarError, UnpackError};
pub use remove::remove_tree;
pub use stream::{decoder, read_buffered};
pub use tape::Restored;

pub use tar::{Archive, Entry, Kind, Sparse, Time};

/// What a layer may ask for. The defaults are far above what real images have and far below what hurts a node.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the inflated stream, headers and padding included; also the apparent size of a sparse file.
    pub bytes: u64,
    /// Bytes of a path or link target (PATH_MAX is 4096 with its NUL).
    pub path: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of the extended headers of one entry: long names and PAX records.
    pub extension: u64,
    /// Pieces of a sparse file.
    pub sparse_pieces: usize,
    /// Bytes of the paths of all directories that no entry names.
    pub implied: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 256 << 30,
            path: 4095,
            depth: 512,
            extension: 1 << 20,
            sparse_pieces: 1 << 16,
            implied: 8 << 20,
        }
    }
}

/// A layer that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the inflated tar stream, the layer's identity (OCI image spec, "Layer DiffID").
    pub diff_id: Digest,
    /// The digest of the stream as it came.
    pub blob: Digest,
    /// Bytes of the stream as it came.
    pub blob_size: u64,
    /// Bytes of the inflated stream.
    pub tar_size: u64,
    /// What it takes on disk: file contents and directories, each rounded up to 4 KiB.
    pub size: u64,
    /// Files, directories and links made.
    pub entries: u64,
    /// Whether [`Restored`] can make the stream again: not where a later entry replaced what an earlier one made.
    pub restorable: bool,
    /// Directories that entries lie in and no entry named, in order; not the top. They are root's with mode 0755 here, and in an
    /// image as the layers below have them.
    pub implied: Vec<Vec<u8>>,
}

/// Where an extraction is written down.
#[derive(Debug)]
pub struct Records<W> {
    /// What was made, for [`check`].
    pub tree: W,
    /// The stream without the files' contents, for [`Restored`].
    pub tape: W,
}

/// The header of a regular file of an archive that we write: root's, mode 0644, from the epoch. A name may have 100 bytes.
pub fn file_header(name: &str, size: u64) -> io::Result<[u8; 512]> {
    let mut header = ::tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(::tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// zstd's fastest: the records are two thousandths of their layer.
const RECORD_LEVEL: i32 = 1;
/// Bytes of a record on their way to be compressed.
const GATHERED: usize = 32 << 10;

/// Compressed; gathered before it, since a record is written word by word.
type Record<W> = BufWriter<zstd::stream::write::Encoder<'static, W>>;

fn record<W: Write>(to: W) -> io::Result<Record<W>> {
    Ok(BufWriter::with_capacity(GATHERED, zstd::stream::write::Encoder::new(to, RECORD_LEVEL)?))
}

fn recorded<W: Write>(record: Record<W>) -> io::Result<()> {
    record.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
}

/// Extracts a layer, compressed or not, into the empty directory `into`.
///
/// Nothing is synced. After an error the directory holds a part of the layer and is the caller's to remove.
pub fn unpack(
    blob: impl BufRead + Send,
    into: BorrowedFd<'_>,
    records: Records<impl Write + Send>,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    stream::pipeline(blob, limits.bytes, |input| {
        let fail = |source| UnpackError::Record { source };
        let tree = record(records.tree).map_err(fail)?;
        let tape = Tape::new(record(records.tape).map_err(fail)?);
        let mut archive = Archive::new(Taped::new(input, tape.clone()), limits.clone());
        let mut extractor = extract::Extractor::new(into, limits, tree, tape.clone());
        while let Some(entry) = archive.next_entry()? {
            extractor.add(&entry, &mut archive)?;
        }
        archive.drain()?;
        drop(archive);
        let (extracted, tree) = extractor.finish()?;
        recorded(tree).map_err(fail)?;
        if let Some(tape) = Rc::into_inner(tape) {
            tape.into_inner().finish().and_then(recorded).map_err(fail)?;
        }
        Ok(extracted)
    })
    .map(|(streamed, extracted)| Unpacked {
        diff_id: streamed.inflated,
        blob: streamed.blob,
        blob_size: streamed.blob_size,
        tar_size: streamed.inflated_size,
        size: extracted.size,
        entries: extracted.entries,
        restorable: !extracted.replaced,
        implied: extracted.implied,
    })
}

#[cfg(test)]
mod tests;
