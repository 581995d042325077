//! The test image: an OCI archive of the guest program, in two layers so that a second image can share one.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer's tar, in the order of the calls.
pub(crate) struct Layer {
    tar: tar::Builder<Vec<u8>>,
    /// User and group of what comes next.
    pub(crate) owner: (u64, u64),
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), owner: (0, 0) }
    }
}

impl Layer {
    fn header(&self, kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(0);
        header
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8], mode: u32) -> Result<()> {
        let mut header = self.header(tar::EntryType::Regular, mode, data.len());
        Ok(self.tar.append_data(&mut header, name, data)?)
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        let mut header = self.header(tar::EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, name, std::io::empty())?)
    }

    /// A hard link.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        let mut header = self.header(tar::EntryType::Link, 0o755, 0);
        Ok(self.tar.append_link(&mut header, name, target)?)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &Path) -> Result<()> {
        let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, name, target)?)
    }

    pub(crate) fn fifo(&mut self, name: &str) -> Result<()> {
        let mut header = self.header(tar::EntryType::Fifo, 0o644, 0);
        Ok(self.tar.append_data(&mut header, name, std::io::empty())?)
    }

    pub(crate) fn blob(self) -> Result<Blob> {
        Ok(Blob::new(self.into_tar()?))
    }

    pub(crate) fn into_tar(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

fn layer_of(name: &str, data: &[u8]) -> Result<Layer> {
    let mut layer = Layer::default();
    layer.file(name, data, 0o644)?;
    Ok(layer)
}

/// An image as the directory that OCI's image-layout.md describes, with one manifest.
pub(crate) struct Layout {
    blobs: Vec<Blob>,
    index: String,
    digest: String,
}

pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Of this machine, as Go calls it.
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What the file oci-layout has.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A document's or layer's descriptor.
pub(crate) fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

/// Of an image whose layers have these diff ids; `config` is what the key of that name has.
pub(crate) fn config_of(architecture: &str, config: &Value, diff_ids: &[&str]) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [],
    })
}

/// Of descriptors; the config's is null where it comes later.
pub(crate) fn manifest_of(config: &Value, layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
}

/// The documents of an image of plain layers.
fn documents(architecture: &str, layers: &[&Blob], config: &Value) -> [Blob; 2] {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &*layer.digest).collect();
    let config = Blob::new(config_of(architecture, config, &diff_ids).to_string().into_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| layer.described(LAYER)).collect();
    let manifest = manifest_of(&config.described(CONFIG), &layers);
    [config, Blob::new(manifest.to_string().into_bytes())]
}

impl Layout {
    /// `config` is what the image's `config` key has.
    pub(crate) fn new(layers: &[&Blob], config: &Value) -> Self {
        let [config, manifest] = documents(ARCHITECTURE, layers, config);
        let index = json!({ "schemaVersion": 2, "manifests": [manifest.described(MANIFEST)] }).to_string();
        let digest = manifest.digest.clone();
        let blobs = layers.iter().copied().cloned().chain([config, manifest]).collect();
        Self { blobs, index, digest }
    }

    /// Of the manifest.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn write(&self, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at.join("blobs/sha256"))?;
        std::fs::write(at.join("oci-layout"), LAYOUT)?;
        std::fs::write(at.join("index.json"), &self.index)?;
        for blob in &self.blobs {
            std::fs::write(at.join(blob.path()), &blob.bytes)?;
        }
        Ok(())
    }
}

/// Bytes with their digest.
#[derive(Clone)]
pub(crate) struct Blob {
    bytes: Rc<[u8]>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes: bytes.into() }
    }

    fn described(&self, kind: &str) -> Value {
        described(kind, &self.bytes)
    }

    /// Where an archive or a directory has it.
    fn path(&self) -> String {
        format!("blobs/sha256/{}", &self.digest["sha256:".len()..])
    }
}

/// Writes an archive with one image: the guest program below, `greeting` above.
pub(crate) fn write(at: &Path, name: &str, greeting: &str) -> Result<()> {
    write_bytes(at, name, greeting.as_bytes())
}

pub(crate) fn write_bytes(at: &Path, name: &str, greeting: &[u8]) -> Result<()> {
    archive(at, name, layer_of("greeting", greeting)?)
}

/// What an image may have that no honest one has.
pub(crate) enum Entry<'a> {
    Link(&'a str, &'a str),
    Fifo(&'a str),
}

/// Writes an archive with one image: the guest program below, these above.
pub(crate) fn write_entries(at: &Path, name: &str, entries: &[Entry<'_>]) -> Result<()> {
    let mut layer = Layer::default();
    for entry in entries {
        match entry {
            Entry::Link(name, target) => layer.symlink(name, target.as_ref())?,
            Entry::Fifo(name) => layer.fifo(name)?,
        }
    }
    archive(at, name, layer)
}

/// The guest program alone, as a layer.
pub(crate) fn program() -> Result<Layer> {
    let guest = std::env::var("BERTH_E2E_GUEST").context("BERTH_E2E_GUEST names the guest program")?;
    let mut layer = Layer::default();
    layer.file("guest", &std::fs::read(&guest).with_context(|| guest.clone())?, 0o755)?;
    Ok(layer)
}

fn archive(at: &Path, name: &str, top: Layer) -> Result<()> {
    let mut base = program()?;
    base.file("etc/passwd", b"root:x:0:0:root:/root:/guest\nweb:x:33:33:web:/srv:/guest\n", 0o644)?;
    base.file("etc/group", b"root:x:0:\nweb:x:33:\nextra:x:50:web\n", 0o644)?;
    // What critest runs when it does not care.
    base.link("top", "guest")?;
    let config = json!({ "Entrypoint": ["/guest"], "Cmd": ["sleep", "1000000"], "Env": ["PATH=/"] });
    write_layers(at, name, vec![base, top], &config)
}

/// Writes an archive with one image of these layers, the lowest first; `config` is what the image's `config` key has.
pub(crate) fn write_layers(at: &Path, name: &str, layers: Vec<Layer>, config: &Value) -> Result<()> {
    let layers = layers.into_iter().map(Layer::blob).collect::<Result<Vec<_>>>()?;
    let layers: Vec<_> = layers.iter().collect();
    let [config, manifest] = documents(ARCHITECTURE, &layers, config);
    let mut entry = manifest.described(MANIFEST);
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    let mut archive = Layer::default();
    archive.file("oci-layout", LAYOUT, 0o644)?;
    archive.file("index.json", index.as_bytes(), 0o644)?;
    for blob in [&config, &manifest].into_iter().chain(layers) {
        archive.file(&blob.path(), &blob.bytes, 0o644)?;
    }
    std::fs::write(at, archive.into_tar()?).with_context(|| at.display().to_string())
}

/// Writes a directory in OCI layout whose one entry is an index of two platforms; the index's digest.
pub(crate) fn write_index(at: &Path) -> Result<String> {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let shared = layer_of("shared", b"shared")?.blob()?;
    let (mut blobs, mut manifests) = (vec![shared.clone()], Vec::new());
    for architecture in ["amd64", "s390x"] {
        let own = layer_of("own", architecture.as_bytes())?.blob()?;
        let [config, manifest] = documents(architecture, &[&shared, &own], &json!({}));
        let mut entry = manifest.described(MANIFEST);
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        manifests.push(entry);
        blobs.extend([own, config, manifest]);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let index = Blob::new(index.to_string().into_bytes());
    let top = json!({ "schemaVersion": 2, "manifests": [index.described(INDEX)] }).to_string();
    let digest = index.digest.clone();
    blobs.push(index);
    Layout { blobs, index: top, digest: digest.clone() }.write(at)?;
    Ok(digest)
}
