//! Image layers, tar streams that nobody vouches for, to directories in the form overlayfs reads.
//!
//! One pass: the blob is hashed and inflated on one thread, the tar stream is hashed and extracted on another.
//! Every name is resolved below the target directory by openat2, so no entry reaches anything outside it, and every
//! size that the stream announces is bounded by [`Limits`].

mod check;
mod error;
mod extract;
mod pax;
mod remove;
mod stream;
mod sum;
mod tar;
mod tree;

use std::io::{BufRead, Write};
use std::os::fd::BorrowedFd;

use berth_ids::Digest;

pub use check::{Checked, Difference, check};
pub use error::{TarError, UnpackError};
pub use remove::remove_tree;
pub use stream::decoder;
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
    /// Bytes of one extended header: long name or PAX records.
    pub extension: u64,
    /// Pieces of a sparse file.
    pub sparse_pieces: usize,
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
}

/// zstd's fastest: a record is two thousandths of its layer.
const RECORD_LEVEL: i32 = 1;

/// Extracts a layer, compressed or not, into the empty directory `into`.
///
/// What was made is written to `record`, for [`check`]. Nothing is synced. After an error the directory holds a part of the layer and is the caller's to remove.
pub fn unpack(
    blob: impl BufRead + Send,
    into: BorrowedFd<'_>,
    record: impl Write,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    stream::pipeline(blob, limits.bytes, |input| {
        let mut archive = Archive::new(input, limits.clone());
        let fail = |source| UnpackError::Record { source };
        let notes = zstd::stream::write::Encoder::new(record, RECORD_LEVEL).map_err(fail)?;
        let mut extractor = extract::Extractor::new(into, limits, notes);
        while let Some(entry) = archive.next_entry()? {
            extractor.add(&entry, &mut archive)?;
        }
        archive.drain()?;
        let (extracted, notes) = extractor.finish()?;
        notes.finish().and_then(|mut record| record.flush()).map_err(fail)?;
        Ok(extracted)
    })
    .map(|(streamed, extracted)| Unpacked {
        diff_id: streamed.inflated,
        blob: streamed.blob,
        blob_size: streamed.blob_size,
        tar_size: streamed.inflated_size,
        size: extracted.size,
        entries: extracted.entries,
    })
}

#[cfg(test)]
mod tests;
