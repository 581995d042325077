//! One row of the table: what is made, and what must come of it.

use serde_json::{Value, json};

use super::tarball::Tar;
use crate::image::{ARCHITECTURE, LAYER, LAYOUT, config_of, described, manifest_of};
pub(super) use crate::image::{CONFIG, MANIFEST, digest};

/// What must come of it.
pub(super) enum Want {
    /// The error has each of these words.
    Refused(Vec<String>),
    /// What each layer has on disk, the lowest first, as [`list`](super::tree::list) shows it.
    Trees(Vec<Vec<String>>),
}

pub(super) struct Layer {
    /// As it is sent.
    pub(super) blob: Vec<u8>,
    /// What the image's config says of it.
    pub(super) diff_id: String,
}

impl Layer {
    pub(super) fn plain(tar: Vec<u8>) -> Self {
        Self { diff_id: digest(&tar), blob: tar }
    }
}

pub(super) struct Case {
    pub(super) what: String,
    pub(super) layers: Vec<Layer>,
    pub(super) want: Want,
    /// Too slow for a second time, from a registry.
    pub(super) once: bool,
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// One layer that is refused with these words.
pub(super) fn refused(what: &str, tar: Vec<u8>, words: &[&str]) -> Case {
    Case {
        what: what.to_owned(),
        layers: vec![Layer::plain(tar)],
        want: Want::Refused(owned(words)),
        once: false,
    }
}

/// One layer that becomes this.
pub(super) fn becomes(what: &str, tar: Vec<u8>, lines: &[&str]) -> Case {
    become_each(what, vec![(tar, lines)])
}

/// Several layers, the lowest first.
pub(super) fn become_each(what: &str, layers: Vec<(Vec<u8>, &[&str])>) -> Case {
    let mut trees: Vec<Vec<String>> = layers.iter().map(|(_, lines)| owned(lines)).collect();
    trees.iter_mut().for_each(|tree| tree.sort());
    let layers = layers.into_iter().map(|(tar, _)| Layer::plain(tar)).collect();
    Case { what: what.to_owned(), layers, want: Want::Trees(trees), once: false }
}

/// An image as documents and blobs, each named by its digest. What is not honest about it is changed after.
#[derive(Clone)]
pub(super) struct Documents {
    pub(super) index: Value,
    pub(super) manifest: Value,
    pub(super) config: Value,
    /// By the digest that they are stored under.
    pub(super) blobs: Vec<(String, Vec<u8>)>,
}

impl Documents {
    pub(super) fn new(layers: &[Layer]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &*layer.diff_id).collect();
        let config = config_of(ARCHITECTURE, &json!({}), &diff_ids);
        let layers_described: Vec<_> = layers.iter().map(|layer| described(LAYER, &layer.blob)).collect();
        let manifest = manifest_of(&Value::Null, &layers_described);
        let blobs = layers.iter().map(|layer| (digest(&layer.blob), layer.blob.clone())).collect();
        Self { index: Value::Null, manifest, config, blobs }
    }

    /// The config's bytes and the manifest's.
    pub(super) fn written(&self) -> (Vec<u8>, Vec<u8>) {
        let config = self.config.to_string().into_bytes();
        let mut manifest = self.manifest.clone();
        if manifest.is_object() && manifest["config"].is_null() {
            manifest["config"] = described(CONFIG, &config);
        }
        (config, manifest.to_string().into_bytes())
    }

    /// As an OCI archive; `name` is what the index calls it.
    pub(super) fn archive(&self, name: &str) -> Vec<u8> {
        let (config, manifest) = self.written();
        let index = match &self.index {
            Value::Null => {
                let mut entry = described(MANIFEST, &manifest);
                entry["annotations"] = json!({ "io.containerd.image.name": name });
                json!({ "schemaVersion": 2, "manifests": [entry] })
            }
            other => other.clone(),
        };
        let mut tar = Tar::new()
            .file("oci-layout", LAYOUT)
            .file("index.json", index.to_string())
            .file(path(&digest(&config)), &config)
            .file(path(&digest(&manifest)), &manifest);
        for (digest, blob) in &self.blobs {
            tar = tar.file(path(digest), blob);
        }
        tar.end()
    }
}

/// Where a layout keeps a blob.
pub(super) fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
