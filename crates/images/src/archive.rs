//! The files of an archive or a directory, whichever it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use berth_ids::Digest;
use berth_unpack::{Archive, Kind, Limits};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sha2::{Digest as _, Sha256};

use crate::ImageError;
use crate::work::Work;

/// Bytes of a file's name in it.
const NAME: usize = 4095;
/// Bytes that tell a compression.
const MAGIC: u64 = 6;
/// Files in one archive: each is a blob or a document.
const FILES: usize = 100_000;
/// A document inside an archive.
const DOCUMENT_MAX: u64 = 8 * 1024 * 1024;

pub(crate) fn broken(problem: impl Into<String>) -> ImageError {
    ImageError::Archive { problem: problem.into() }
}

/// The archive's files by name, read in place.
pub(crate) enum Contents {
    Archive {
        file: Arc<File>,
        /// Where each begins, and its size.
        files: HashMap<String, (u64, u64)>,
    },
    Directory(File),
}

/// A part of the archive as a stream.
pub(crate) struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Part {
    /// Bytes that are not read yet.
    pub(crate) fn size(&self) -> u64 {
        self.left
    }

    /// The file, where in it, and how many bytes.
    pub(crate) fn place(self) -> (Arc<File>, u64, u64) {
        (self.file, self.at, self.left)
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Contents {
    pub(crate) fn read(temporary: &Path, archive: File, work: &Work) -> Result<Self, ImageError> {
        let metadata = archive.metadata().map_err(|error| broken(format!("look at it: {error}")))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(archive));
        }
        let file = seekable(temporary, archive, work)?;
        let reader = work.follow(io::BufReader::with_capacity(1 << 16, &file), None);
        let mut tar = Archive::new(reader, Limits::default());
        let mut files = HashMap::new();
        let fail = |error: berth_unpack::TarError| broken(format!("it is no tar file: {error}"));
        let mut links: Vec<(String, String)> = Vec::new();
        while let Some(entry) = tar.next_entry().map_err(fail)? {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            if name.len() > NAME || entry.link.len() > NAME {
                return Err(broken(format!("it has a name of more than {NAME} bytes")));
            }
            let name = name.trim_start_matches("./").to_owned();
            if files.len() + links.len() > FILES {
                return Err(broken(format!("it has more than {FILES} files")));
            }
            match entry.kind {
                Kind::File => {
                    files.insert(name, (entry.offset, entry.size));
                }
                // Older `docker save` links layers that several images share.
                Kind::Symlink | Kind::HardLink => {
                    if let Ok(target) = String::from_utf8(entry.link) {
                        links.push((name, target));
                    }
                }
                _ => {}
            }
        }
        for (name, target) in links {
            let beside = target.trim_start_matches("../");
            if let Some(place) = files.get(beside).or_else(|| files.get(&target)).copied() {
                files.insert(name, place);
            }
        }
        Ok(Self::Archive { file: Arc::new(file), files })
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<Part>, ImageError> {
        match self {
            Self::Archive { file, files } => {
                Ok(files.get(name).map(|&(at, left)| Part { file: file.clone(), at, left }))
            }
            Self::Directory(directory) => {
                // A fifo must not hang the daemon, and no link leads out of the directory.
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
                match berth_sys::path::open_in_root(directory, name, flags, Mode::empty()) {
                    Ok(opened) => {
                        let file = File::from(opened);
                        let metadata =
                            file.metadata().map_err(|error| broken(format!("look at {name}: {error}")))?;
                        match metadata.is_file() {
                            true => Ok(Some(Part { file: Arc::new(file), at: 0, left: metadata.len() })),
                            false => Ok(None),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(broken(format!("open {name}: {error}"))),
                }
            }
        }
    }

    pub(crate) fn part(&self, name: &str) -> Result<Part, ImageError> {
        self.find(name)?.ok_or_else(|| broken(format!("{name} is missing")))
    }

    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let part = self.part(name)?;
        if part.left > DOCUMENT_MAX {
            return Err(broken(format!("{name} is larger than {DOCUMENT_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        let mut part = part;
        part.read_to_end(&mut bytes).map_err(|error| broken(format!("read {name}: {error}")))?;
        Ok(bytes)
    }

    /// A document named by its digest, checked.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&blob_name(digest))?;
        let found = Digest::from_sha256(Sha256::digest(&bytes).into());
        match found == *digest {
            true => Ok(bytes),
            false => Err(ImageError::Blob { wanted: digest.clone(), found }),
        }
    }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A pipe or a compressed archive is copied to a file that nobody can see; layers are read from it in any order.
fn seekable(temporary: &Path, mut archive: File, work: &Work) -> Result<File, ImageError> {
    let failed = |error: io::Error| broken(format!("read it: {error}"));
    let in_place = archive.seek(SeekFrom::Start(0)).is_ok();
    let mut head = Vec::new();
    Read::by_ref(&mut archive).take(MAGIC).read_to_end(&mut head).map_err(failed)?;
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) || head.starts_with(b"BZh") {
        return Err(broken("xz and bzip2 are not read; gzip, zstd and plain tar are"));
    }
    let compressed = head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if in_place && !compressed {
        archive.seek(SeekFrom::Start(0)).map_err(failed)?;
        return Ok(archive);
    }
    // Of a pipe nobody knows how much comes.
    let bytes = archive.metadata().ok().filter(std::fs::Metadata::is_file).map_or(0, |found| found.len());
    let whole = work.follow(io::Cursor::new(head).chain(archive), work.copying(bytes));
    let whole = io::BufReader::with_capacity(1 << 18, whole);
    let mut plain = berth_unpack::decoder(whole).map_err(failed)?.take(Limits::default().bytes);
    let mut copy = crate::spool::unnamed(temporary)?;
    let (mut buffer, mut written) = (vec![0; 1 << 18], 0);
    loop {
        // The archive's fault is told from the disk's.
        let got = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        // A decoder may have much to give of what it took before.
        work.check()?;
        copy.write_all(&buffer[..got]).map_err(ImageError::file("copy the archive to", temporary))?;
        written += got as u64;
    }
    tracing::debug!(bytes = written, "the archive is copied, for it is a pipe or compressed");
    copy.seek(SeekFrom::Start(0)).map_err(ImageError::file("rewind", temporary))?;
    Ok(copy)
}
