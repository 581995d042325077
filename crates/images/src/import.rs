//! Images from an archive or a directory: OCI layouts and `docker save`, also both in one, compressed or not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use berth_ids::Digest;
use berth_registry::{Manifest, Reference};
use berth_unpack::{Archive, Kind, Limits};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::layers::Wanted;
use crate::{Image, ImageError, Shared};

/// A document inside an archive.
const DOCUMENT_MAX: u64 = 8 * 1024 * 1024;
/// Images in one archive.
const IMAGES: usize = 1000;
const NESTED: usize = 4;
/// Files in one archive: each is a blob or a document.
const FILES: usize = 100_000;
/// Bytes of a file's name in it.
const NAME: usize = 4095;
/// Bytes that tell a compression.
const MAGIC: u64 = 6;

fn broken(problem: impl Into<String>) -> ImageError {
    ImageError::Archive { problem: problem.into() }
}

fn bounded(images: usize) -> Result<(), ImageError> {
    match images > IMAGES {
        true => Err(broken(format!("it has more than {IMAGES} images"))),
        false => Ok(()),
    }
}

pub(crate) fn import(shared: &Arc<Shared>, archive: File) -> Result<Vec<Arc<Image>>, ImageError> {
    let contents = Contents::read(shared, archive)?;
    let mut images = Vec::new();
    if contents.find("index.json")?.is_some() {
        from_layout(shared, &contents, &mut images)?;
    } else if contents.find("manifest.json")?.is_some() {
        from_docker(shared, &contents, &mut images)?;
    } else {
        return Err(broken("it has neither index.json (OCI) nor manifest.json (docker save)"));
    }
    match images.is_empty() {
        true => Err(broken("it has no image for this platform")),
        false => Ok(images),
    }
}

/// The archive's files by name, read in place.
enum Contents {
    Archive {
        file: Arc<File>,
        /// Where each begins, and its size.
        files: HashMap<String, (u64, u64)>,
    },
    Directory(File),
}

/// A part of the archive as a stream.
struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
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
    fn read(shared: &Shared, archive: File) -> Result<Self, ImageError> {
        let metadata = archive.metadata().map_err(|error| broken(format!("look at it: {error}")))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(archive));
        }
        let file = seekable(shared, archive)?;
        let reader = io::BufReader::with_capacity(1 << 16, &file);
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

    fn find(&self, name: &str) -> Result<Option<Part>, ImageError> {
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

    fn part(&self, name: &str) -> Result<Part, ImageError> {
        self.find(name)?.ok_or_else(|| broken(format!("{name} is missing")))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
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
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&blob_name(digest))?;
        let found = Digest::from_sha256(Sha256::digest(&bytes).into());
        match found == *digest {
            true => Ok(bytes),
            false => Err(ImageError::Blob { wanted: digest.clone(), found }),
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A pipe or a compressed archive is copied to a file that nobody can see; layers are read from it in any order.
fn seekable(shared: &Shared, mut archive: File) -> Result<File, ImageError> {
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
    let whole = io::BufReader::with_capacity(1 << 18, io::Cursor::new(head).chain(archive));
    let mut plain = berth_unpack::decoder(whole).map_err(failed)?.take(Limits::default().bytes);
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = shared.root.clone();
    let unnamed = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(&path);
    let mut copy = unnamed.map_err(ImageError::file("make a temporary file in", &path))?;
    let (mut buffer, mut written) = (vec![0; 1 << 18], 0);
    loop {
        // The archive's fault is told from the disk's.
        let got = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        copy.write_all(&buffer[..got]).map_err(ImageError::file("copy the archive to", &path))?;
        written += got as u64;
    }
    tracing::debug!(bytes = written, "the archive is copied, for it is a pipe or compressed");
    copy.seek(SeekFrom::Start(0)).map_err(ImageError::file("rewind", &path))?;
    Ok(copy)
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: Digest,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl IndexEntry {
    /// Not one for other machines, nor a note about another entry (BuildKit's attestations).
    fn is_for_us(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
        self.platform.as_ref().is_none_or(fits) && !self.annotations.contains_key("vnd.docker.reference.type")
    }

    /// containerd and docker write the full name; the OCI one may be a bare tag.
    fn name(&self) -> Option<&String> {
        let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        keys.iter().filter_map(|key| self.annotations.get(*key)).find(|name| name.contains(['/', ':']))
    }
}

fn from_layout(
    shared: &Arc<Shared>,
    contents: &Contents,
    images: &mut Vec<Arc<Image>>,
) -> Result<(), ImageError> {
    let index: Index = serde_json::from_slice(&contents.document("index.json")?)
        .map_err(|e| broken(format!("index.json: {e}")))?;
    let saved = saved_names(contents)?;
    bounded(index.manifests.len())?;
    for entry in index.manifests.iter().filter(|entry| entry.is_for_us()) {
        let Some(manifest) = manifest(contents, &entry.digest)? else { continue };
        let config = contents.blob(&manifest.config)?;
        let mut image = Image::new(manifest.config.clone(), &config)?;
        if image.layers.len() != manifest.layers.len() {
            return Err(broken("its manifest and config disagree about the number of layers"));
        }
        let layers = image.layers.iter().zip(&manifest.layers);
        let layers =
            layers.map(|(id, blob)| (id.clone(), blob_name(&blob.digest), Some(blob.digest.clone())));
        let layers: Vec<_> = layers.collect();
        if let Some(name) = entry.name() {
            let reference: Reference = name.parse()?;
            image.repo_tags.extend(reference.tagged());
            image.repo_digests.push(reference.pinned(&manifest.digest));
        }
        for tag in saved.get(&manifest.config).into_iter().flatten() {
            image.repo_tags.extend(tag.parse::<Reference>()?.tagged());
        }
        image.repo_tags.sort();
        image.repo_tags.dedup();
        images.push(finish(shared, contents, image, &layers)?);
    }
    Ok(())
}

/// Through indexes down to this platform's manifest; `None` when there is none for it.
fn manifest(contents: &Contents, digest: &Digest) -> Result<Option<Manifest>, ImageError> {
    let mut wanted = digest.clone();
    for _ in 0..NESTED {
        let bytes = contents.blob(&wanted)?;
        match Manifest::read(&bytes, wanted.clone()).map_err(|e| broken(format!("manifest {wanted}: {e}")))? {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(Some(next)) => wanted = next,
            Err(None) => return Ok(None),
        }
    }
    Err(broken(format!("indexes are nested deeper than {NESTED}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What the `manifest.json` beside an OCI layout calls its images, by their configurations.
fn saved_names(contents: &Contents) -> Result<HashMap<Digest, Vec<String>>, ImageError> {
    let mut names = HashMap::new();
    if contents.find("manifest.json")?.is_none() {
        return Ok(names);
    }
    let Ok(saved) = serde_json::from_slice::<Vec<Saved>>(&contents.document("manifest.json")?) else {
        return Ok(names);
    };
    bounded(saved.len())?;
    for one in saved {
        let hex = one.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() {
            names.entry(digest).or_insert_with(Vec::new).extend(one.repo_tags.unwrap_or_default());
        }
    }
    Ok(names)
}

fn from_docker(
    shared: &Arc<Shared>,
    contents: &Contents,
    images: &mut Vec<Arc<Image>>,
) -> Result<(), ImageError> {
    let saved: Vec<Saved> = serde_json::from_slice(&contents.document("manifest.json")?)
        .map_err(|e| broken(format!("manifest.json: {e}")))?;
    bounded(saved.len())?;
    for one in saved {
        let config = contents.document(&one.config)?;
        let id = Digest::from_sha256(Sha256::digest(&config).into());
        let mut image = Image::new(id, &config)?;
        if image.layers.len() != one.layers.len() {
            return Err(broken("its manifest and config disagree about the number of layers"));
        }
        for tag in one.repo_tags.unwrap_or_default() {
            image.repo_tags.extend(tag.parse::<Reference>()?.tagged());
        }
        let layers: Vec<_> =
            image.layers.iter().cloned().zip(one.layers).map(|(id, name)| (id, name, None)).collect();
        images.push(finish(shared, contents, image, &layers)?);
    }
    Ok(())
}

fn finish(
    shared: &Arc<Shared>,
    contents: &Contents,
    mut image: Image,
    layers: &[(Digest, String, Option<Digest>)],
) -> Result<Arc<Image>, ImageError> {
    let _wanted = Wanted::new(shared, &image.layers);
    for (id, name, expected) in layers {
        let _turn = shared.blocking_turn(id);
        if !shared.has_layer(id) {
            let blob = io::BufReader::with_capacity(1 << 18, contents.part(name)?);
            shared.add_layer(id, expected.as_ref(), blob)?;
        }
    }
    image.size += shared.size_of(&image.layers);
    shared.record(image)
}

impl Shared {
    pub(crate) fn size_of(&self, ids: &[Digest]) -> u64 {
        let layers = self.layers.lock();
        ids.iter().filter_map(|id| layers.get(id)).map(|layer| layer.size).sum()
    }
}
