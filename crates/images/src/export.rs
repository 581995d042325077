//! Images to an archive that is an OCI layout and a `docker save` in one: `docker load`, containerd, skopeo and we read
//! it. Layers are made into the tar streams they came as, so the image keeps its id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use berth_ids::Digest;
use berth_registry::Reference;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::layers::Wanted;
use crate::{Image, ImageError, Images, Shared};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Images {
    /// Writes the images that `references` name, each layer once. A name that is given by tag is what the archive calls the
    /// image; by id, it is called by all its names. Blocks.
    pub fn export(&self, references: &[String], to: File) -> Result<(), ImageError> {
        let mut wanted = Vec::new();
        for reference in references {
            let unknown = || ImageError::Unknown { id: reference.clone() };
            let image = self.resolve(reference).ok_or_else(unknown)?;
            let tag = reference.parse::<Reference>().ok().and_then(|reference| reference.tagged());
            let names = match tag.filter(|tag| image.repo_tags.contains(tag)) {
                Some(tag) => vec![tag],
                None => image.repo_tags.clone(),
            };
            wanted.push((image, names));
        }
        let layers: Vec<Digest> = wanted.iter().flat_map(|(image, _)| image.layers.clone()).collect();
        let _wanted = Wanted::new(&self.shared, &layers);
        let mut archive = Archive { out: BufWriter::with_capacity(1 << 18, to) };
        export(&self.shared, &wanted, &mut archive)
    }
}

fn export(
    shared: &Shared,
    images: &[(Arc<Image>, Vec<String>)],
    archive: &mut Archive,
) -> Result<(), ImageError> {
    let write = ImageError::export;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(write)?;
    let (mut index, mut saved) = (Vec::new(), Vec::new());
    let mut written = BTreeSet::new();
    let mut sizes = BTreeMap::new();
    for (image, names) in images {
        for layer in &image.layers {
            if !sizes.contains_key(layer) {
                sizes.insert(layer.clone(), archive.layer(shared, layer)?);
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
    archive.file("manifest.json", Value::from(saved).to_string().as_bytes()).map_err(write)?;
    archive.end().map_err(write)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A tar file on its way out.
struct Archive {
    out: BufWriter<File>,
}

impl Archive {
    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let header = berth_unpack::file_header(name, size)?;
        self.out.write_all(&header)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let fill = size.next_multiple_of(512) - size;
        self.out.write_all(&[0; 512][..fill as usize])
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Two passes over a layer: its size stands before it, and nobody wrote that down. The second is from memory mostly.
    fn layer(&mut self, shared: &Shared, id: &Digest) -> Result<u64, ImageError> {
        let (size, found) = pass(shared, id, &mut io::sink())?;
        if found != *id {
            return Err(ImageError::Damaged { layer: id.clone() });
        }
        self.header(&blob(id), size).map_err(ImageError::export)?;
        let (_, found) = pass(shared, id, &mut self.out)?;
        if found != *id {
            return Err(ImageError::Damaged { layer: id.clone() });
        }
        self.pad(size).map_err(ImageError::export)?;
        Ok(size)
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()
    }
}

fn pass(shared: &Shared, id: &Digest, to: &mut dyn Write) -> Result<(u64, Digest), ImageError> {
    let mut stream = shared.stream(id)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let got = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImageError::file("read back the layer", shared.layer_path(id))(error)),
        };
        hash.update(&buffer[..got]);
        to.write_all(&buffer[..got]).map_err(ImageError::export)?;
        size += got as u64;
    }
    Ok((size, Digest::from_sha256(hash.finalize().into())))
}
