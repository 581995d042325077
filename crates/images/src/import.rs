//! Images from an archive: OCI layouts and `docker save`, also both in one file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use berth_ids::Digest;
use berth_registry::{Manifest, Reference};
use berth_unpack::{Archive, Kind, Limits};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::layers::Wanted;
use crate::{Image, ImageError, Shared};

/// A document inside an archive.
const DOCUMENT_MAX: u64 = 8 * 1024 * 1024;
/// Images in one archive.
const IMAGES: usize = 1000;
const NESTED: usize = 4;

fn broken(problem: impl Into<String>) -> ImageError {
    ImageError::Archive { problem: problem.into() }
}

pub(crate) fn import(shared: &Arc<Shared>, archive: File) -> Result<Vec<Arc<Image>>, ImageError> {
    let contents = Contents::read(shared, archive)?;
    let mut images = Vec::new();
    if contents.files.contains_key("index.json") {
        from_layout(shared, &contents, &mut images)?;
    } else if contents.files.contains_key("manifest.json") {
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
struct Contents {
    file: File,
    files: HashMap<String, (u64, u64)>,
}

/// A part of the archive as a stream.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
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
    fn read(shared: &Arc<Shared>, archive: File) -> Result<Self, ImageError> {
        let file = seekable(shared, archive)?;
        let reader = io::BufReader::with_capacity(1 << 16, &file);
        let mut tar = Archive::new(reader, Limits::default());
        let mut files = HashMap::new();
        let fail = |error: berth_unpack::TarError| broken(format!("it is no tar file: {error}"));
        let mut links: Vec<(String, String)> = Vec::new();
        while let Some(entry) = tar.next_entry().map_err(fail)? {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            let name = name.trim_start_matches("./").to_owned();
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
        Ok(Self { file, files })
    }

    fn part(&self, name: &str) -> Result<Part<'_>, ImageError> {
        let (at, left) = *self.files.get(name).ok_or_else(|| broken(format!("{name} is missing")))?;
        Ok(Part { file: &self.file, at, left })
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

/// A pipe is copied to a file that nobody can see; layers are read from it in any order.
fn seekable(shared: &Arc<Shared>, mut archive: File) -> Result<File, ImageError> {
    if archive.seek(SeekFrom::Start(0)).is_ok() {
        return Ok(archive);
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = shared.root.clone();
    let unnamed = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(&path);
    let mut copy = unnamed.map_err(ImageError::file("make a temporary file in", &path))?;
    io::copy(&mut archive, &mut copy).map_err(ImageError::file("copy the archive to", &path))?;
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
    #[serde(default)]
    annotations: HashMap<String, String>,
}

fn from_layout(
    shared: &Arc<Shared>,
    contents: &Contents,
    images: &mut Vec<Arc<Image>>,
) -> Result<(), ImageError> {
    let index: Index = serde_json::from_slice(&contents.document("index.json")?)
        .map_err(|e| broken(format!("index.json: {e}")))?;
    for entry in index.manifests.iter().take(IMAGES) {
        // containerd and docker write the full name; the OCI one may be a bare tag.
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .filter_map(|key| entry.annotations.get(*key))
            .find(|name| name.contains(['/', ':']));
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
        if let Some(name) = name {
            let reference: Reference = name.parse()?;
            image.repo_tags.extend(reference.tagged());
            image.repo_digests.push(reference.pinned(&manifest.digest));
        }
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

fn from_docker(
    shared: &Arc<Shared>,
    contents: &Contents,
    images: &mut Vec<Arc<Image>>,
) -> Result<(), ImageError> {
    let saved: Vec<Saved> = serde_json::from_slice(&contents.document("manifest.json")?)
        .map_err(|e| broken(format!("manifest.json: {e}")))?;
    for one in saved.into_iter().take(IMAGES) {
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
