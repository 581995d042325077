//! Images to an archive that is an OCI layout and a `docker save` in one (`docker load`, containerd, skopeo and we read it), or
//! to a directory that is an OCI layout. Layers are made into the tar streams they came as, so the image keeps its id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_ids::Digest;
use berth_model::PartState;
use berth_registry::Reference;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::layers::Wanted;
use crate::progress::LayerProgress;
use crate::sink::{Compression, Sink};
use crate::work::Work;
use crate::{Image, ImageError, Images, Shared};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an archive that was written has.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Each with what the archive calls it.
    pub images: Vec<(Arc<Image>, Vec<String>)>,
    pub layers: u64,
    /// Of the archive as it was written, or of a directory's files.
    pub bytes: u64,
}

impl Images {
    /// [`export_as`](Self::export_as), with nobody watching.
    pub fn export(&self, references: &[String], to: File) -> Result<Exported, ImageError> {
        self.export_as(references, to, None, &Work::unwatched())
    }

    /// Writes the images that `references` name, each layer once: into a directory as an OCI layout, else as an archive. A name
    /// that is given by tag is what the archive calls the image; by id, it is called by all its names. Blocks.
    pub fn export_as(
        &self,
        references: &[String],
        to: File,
        compression: Option<Compression>,
        work: &Work,
    ) -> Result<Exported, ImageError> {
        let mut wanted = Vec::new();
        for reference in references {
            let unknown = || ImageError::Unknown { id: reference.clone() };
            let image = self.shared.find(reference).ok_or_else(unknown)?;
            let tag = reference.parse::<Reference>().ok().and_then(|reference| reference.tagged());
            let names = match tag.filter(|tag| image.repo_tags.contains(tag)) {
                Some(tag) => vec![tag],
                None => image.repo_tags.clone(),
            };
            wanted.push((image, names));
        }
        let layers: Vec<Digest> = wanted.iter().flat_map(|(image, _)| image.layers.clone()).collect();
        let _wanted = Wanted::new(&self.shared, &layers);
        let bytes = Arc::<AtomicU64>::default();
        let sink = Sink::new(to, compression, work.ended().clone(), bytes.clone())?;
        let mut archive = Archive { sink, work };
        let layers = export(&self.shared, &wanted, &mut archive)?;
        let more =
            archive.sink.end().map_err(|error| work.check().err().unwrap_or(ImageError::export(error)))?;
        Ok(Exported { images: wanted, layers, bytes: bytes.load(Ordering::Relaxed) + more })
    }
}

fn export(
    shared: &Shared,
    images: &[(Arc<Image>, Vec<String>)],
    archive: &mut Archive<'_>,
) -> Result<u64, ImageError> {
    let write = ImageError::export;
    let parts = archive.parts(shared, images);
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(write)?;
    let (mut index, mut saved) = (Vec::new(), Vec::new());
    let mut written = BTreeSet::new();
    let mut sizes = BTreeMap::new();
    for (image, names) in images {
        for layer in &image.layers {
            if !sizes.contains_key(layer) {
                sizes.insert(layer.clone(), archive.layer(shared, layer, parts.get(layer))?);
            }
        }
        let descriptor = |kind: &str, digest: &Digest, size: u64| -> Value {
            json!({ "mediaType": kind, "digest": digest, "size": size })
        };
        let config = image.raw_config().as_bytes();
        let layers = image.layers.iter().map(|id| descriptor(LAYER, id, sizes[id]));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &image.id.0, config.len() as u64),
            "layers": layers.collect::<Vec<_>>(),
        })
        .to_string();
        let digest = Digest::from_sha256(Sha256::digest(&manifest).into());
        for (digest, bytes) in [(&image.id.0, config), (&digest, manifest.as_bytes())] {
            if written.insert(digest.clone()) {
                archive.file(&blob(digest), bytes).map_err(write)?;
            }
        }
        let mut entry = descriptor(MANIFEST, &digest, manifest.len() as u64);
        entry["platform"] = json!({ "architecture": image.config.architecture(), "os": image.config.os() });
        if names.is_empty() {
            index.push(entry.clone());
        }
        for name in names {
            let mut named = entry.clone();
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            named["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
            index.push(named);
        }
        saved.push(json!({
            "Config": blob(&image.id.0),
            "RepoTags": names,
            "Layers": image.layers.iter().map(blob).collect::<Vec<_>>(),
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": index });
    archive.file("index.json", index.to_string().as_bytes()).map_err(write)?;
    if !archive.sink.is_directory() {
        archive.file("manifest.json", Value::from(saved).to_string().as_bytes()).map_err(write)?;
    }
    Ok(sizes.len() as u64)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What is on its way out.
struct Archive<'a> {
    sink: Sink,
    work: &'a Work,
}

impl Archive<'_> {
    /// A counter for each layer.
    fn parts(
        &self,
        shared: &Shared,
        images: &[(Arc<Image>, Vec<String>)],
    ) -> BTreeMap<Digest, Arc<LayerProgress>> {
        let mut seen = BTreeSet::new();
        let all = images.iter().flat_map(|(image, _)| &image.layers);
        let new: Vec<Digest> = all.filter(|id| seen.insert(*id)).cloned().collect();
        let sizes = new.iter().map(|id| (id.to_string(), shared.tar_size(id).unwrap_or(0)));
        let parts = self.work.progress.parts(sizes);
        new.into_iter().zip(parts).collect()
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.sink.begin(name, bytes.len() as u64)?;
        self.sink.write(bytes)?;
        self.sink.end_file(bytes.len() as u64)
    }

    /// A layer's size stands before it. Where an older Berth did not write that down, the stream is made twice; the second
    /// time it is from memory mostly.
    fn layer(
        &mut self,
        shared: &Shared,
        id: &Digest,
        part: Option<&Arc<LayerProgress>>,
    ) -> Result<u64, ImageError> {
        let damaged = || ImageError::Damaged { layer: id.clone() };
        let size = match shared.tar_size(id) {
            Some(size) => size,
            None => {
                if let Some(part) = part {
                    part.enter(PartState::Preparing);
                }
                let (size, found) = pass(shared, id, self.work, |_| Ok(()))?;
                if found != *id {
                    return Err(damaged());
                }
                size
            }
        };
        if let Some(part) = part {
            part.size(size);
            part.enter(PartState::Moving);
        }
        self.sink.begin(&blob(id), size).map_err(ImageError::export)?;
        let work = self.work;
        let written = pass(shared, id, work, |piece| {
            if let Some(part) = part {
                part.add(piece.len() as u64);
            }
            self.sink.write(piece)
        })?;
        if written != (size, id.clone()) {
            return Err(damaged());
        }
        self.sink.end_file(size).map_err(ImageError::export)?;
        if let Some(part) = part {
            part.done();
        }
        Ok(size)
    }
}

/// Makes a layer's stream; its size and digest.
fn pass(
    shared: &Shared,
    id: &Digest,
    work: &Work,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(u64, Digest), ImageError> {
    let mut stream = shared.tar(id, work.ended())?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        work.check()?;
        let got = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImageError::file("read back the layer", shared.layer_path(id))(error)),
        };
        hash.update(&buffer[..got]);
        take(&buffer[..got]).map_err(ImageError::export)?;
        size += got as u64;
    }
    Ok((size, Digest::from_sha256(hash.finalize().into())))
}
