//! Files that nobody can see, gone with their last descriptor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_ids::Digest;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use crate::ImageError;

const BUFFER: usize = 1 << 18;
/// gzip's byte for "some system" (RFC 1952, section 2.3.1).
const NO_SYSTEM: u8 = 255;

/// A new one on the disk of `directory`.
pub(crate) fn unnamed(directory: &Path) -> Result<File, ImageError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(directory);
    opened.map_err(ImageError::file("make a temporary file in", directory))
}

/// A layer as a registry takes it.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    pub(crate) file: Arc<File>,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// Hashes and counts what goes to a file.
struct Hashed {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Compresses the tar stream of the layer `id`. The same stream gives the same bytes: no time, no name, no system. Blocks.
pub(crate) fn compress(
    directory: &Path,
    id: &Digest,
    mut tar: impl Read,
    ended: &AtomicBool,
) -> Result<Spooled, ImageError> {
    let written = |error| ImageError::file("write a compressed layer to", directory)(error);
    let out = Hashed { file: unnamed(directory)?, hash: Sha256::new(), size: 0 };
    let out = io::BufWriter::with_capacity(BUFFER, out);
    let mut gzip = GzBuilder::new().mtime(0).operating_system(NO_SYSTEM).write(out, Compression::default());
    let (mut plain, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        if ended.load(Ordering::Relaxed) {
            return Err(ImageError::Lost { reference: id.to_string() });
        }
        let got = match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::Source { layer: id.clone(), source: Arc::new(source) }),
        };
        plain.update(&buffer[..got]);
        gzip.write_all(&buffer[..got]).map_err(written)?;
    }
    if Digest::from_sha256(plain.finalize().into()) != *id {
        return Err(ImageError::Damaged { layer: id.clone() });
    }
    let out = gzip.finish().map_err(written)?;
    let Hashed { file, hash, size } = out.into_inner().map_err(|error| written(error.into_error()))?;
    Ok(Spooled { file: Arc::new(file), size, digest: Digest::from_sha256(hash.finalize().into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_compressed_to_the_same_bytes_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let tar: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 1000) as u8).collect();
        let id = Digest::from_sha256(Sha256::digest(&tar).into());
        let going = AtomicBool::new(false);
        let first = compress(directory.path(), &id, &tar[..], &going).unwrap();
        let second = compress(directory.path(), &id, io::BufReader::new(&tar[..]), &going).unwrap();
        assert_eq!(first.digest, second.digest);
        assert!(first.size > 0 && first.size < 100_000, "{}", first.size);
        let other = compress(directory.path(), &id, &tar[1..], &going);
        assert!(matches!(other, Err(ImageError::Damaged { .. })), "{other:?}");
        let ended = compress(directory.path(), &id, &tar[..], &AtomicBool::new(true));
        assert!(matches!(ended, Err(ImageError::Lost { .. })), "{ended:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
