//! Archives of images, file by file: each program that writes them has its own names and its own order.

use anyhow::Result;
use serde_json::{Value, json};

use crate::image::{self, CONFIG, LAYER, LAYOUT, Layer, MANIFEST, config_of, described, digest, manifest_of};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What containerd and docker write beside an entry, and what the image specification knows.
pub(crate) const FULL: &str = "io.containerd.image.name";
pub(crate) const REF: &str = "org.opencontainers.image.ref.name";

/// A file of an archive.
pub(crate) type File = (String, Vec<u8>);

/// An image of two layers, the upper one its own.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) layers: Vec<File>,
    pub(crate) config: File,
    pub(crate) manifest: File,
    /// What an index says of it.
    pub(crate) entry: Value,
    pub(crate) id: String,
}

/// Where a layout has it.
pub(crate) fn blob(bytes: Vec<u8>) -> File {
    (format!("blobs/{}", digest(&bytes).replacen(':', "/", 1)), bytes)
}

impl Parts {
    pub(crate) fn new(content: &str, architecture: &str) -> Result<Self> {
        let mut layers = Vec::new();
        for (name, content) in [("below", "below all"), ("content", content)] {
            let mut layer = Layer::default();
            layer.file(name, content.as_bytes(), 0o644)?;
            layers.push(layer.into_tar()?);
        }
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let config = config_of(architecture, &json!({ "Cmd": ["/content"] }), &ids).to_string().into_bytes();
        let layers_described: Vec<Value> = layers.iter().map(|layer| described(LAYER, layer)).collect();
        let manifest = manifest_of(&described(CONFIG, &config), &layers_described).to_string().into_bytes();
        let mut entry = described(MANIFEST, &manifest);
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        Ok(Self {
            id: digest(&config),
            layers: layers.into_iter().map(blob).collect(),
            config: blob(config),
            manifest: blob(manifest),
            entry,
        })
    }

    /// For this machine.
    pub(crate) fn here(content: &str) -> Result<Self> {
        Self::new(content, image::ARCHITECTURE)
    }

    /// For one that this one is not.
    pub(crate) fn elsewhere(content: &str) -> Result<Self> {
        Self::new(content, "s390x")
    }

    /// All that it has below `blobs`.
    pub(crate) fn blobs(&self) -> Vec<File> {
        let documents = [self.manifest.clone(), self.config.clone()];
        documents.into_iter().chain(self.layers.iter().cloned()).collect()
    }

    /// The `manifest.json` of `docker save`.
    pub(crate) fn saved(&self, tags: &Value) -> File {
        let layers: Vec<&String> = self.layers.iter().map(|(name, _)| name).collect();
        let saved = json!([{ "Config": self.config.0, "RepoTags": tags, "Layers": layers }]);
        ("manifest.json".to_owned(), saved.to_string().into_bytes())
    }
}

/// An index's document.
fn listed(entries: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes()
}

pub(crate) fn index(entries: &[Value]) -> File {
    ("index.json".to_owned(), listed(entries))
}

/// An index as a blob, and what the index above says of it.
pub(crate) fn nested(entries: &[Value]) -> (File, Value) {
    let bytes = listed(entries);
    let entry = described(INDEX, &bytes);
    (blob(bytes), entry)
}

pub(crate) fn named(entry: &Value, annotations: &[(&str, &str)]) -> Value {
    let mut entry = entry.clone();
    for (key, value) in annotations {
        entry["annotations"][*key] = json!(value);
    }
    entry
}

pub(crate) fn layout() -> File {
    ("oci-layout".to_owned(), LAYOUT.to_vec())
}

/// In this order.
pub(crate) fn tar<'a>(files: impl IntoIterator<Item = &'a File>) -> Result<Vec<u8>> {
    let mut archive = Layer::default();
    for (name, bytes) in files {
        archive.file(name, bytes, 0o644)?;
    }
    archive.into_tar()
}
