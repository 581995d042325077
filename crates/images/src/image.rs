use std::collections::{BTreeMap, BTreeSet};

use berth_ids::{Digest, ImageId};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ImageError;

/// An image of this node.
#[derive(Debug, Clone)]
pub struct Image {
    /// The config's digest.
    pub id: ImageId,
    /// `host/repository:tag`
    pub repo_tags: Vec<String>,
    /// `host/repository@digest`
    pub repo_digests: Vec<String>,
    /// Bytes of its layers on disk and of its config; never 0.
    pub size: u64,
    pub config: ImageConfiguration,
    /// Diff ids, the lowest layer first.
    pub layers: Vec<Digest>,
    /// Of the manifest that it came by first.
    pub annotations: BTreeMap<String, String>,
    /// Runtime handlers that it was pulled for; the empty one is the default.
    pub handlers: BTreeSet<String>,
    /// The last one is the newest.
    pub(crate) manifests: Vec<KnownManifest>,
    /// As it came; its hash is the id.
    raw: String,
}

/// A manifest under which a registry has an image: pushed again it keeps its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownManifest {
    /// `host/repository`
    pub(crate) repository: String,
    pub(crate) document: String,
}

/// Manifests of one image that are kept, and the bytes of one.
const MANIFESTS: usize = 4;
const MANIFEST_MAX: usize = 64 * 1024;

/// What the store keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    size: u64,
    id: ImageId,
    config: String,
    #[serde(default)]
    manifests: Vec<KnownManifest>,
    /// Forgotten by name and id, but a container still has it.
    #[serde(default)]
    pub(crate) removed: bool,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    handlers: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Bytes on disk.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Bytes of its tar stream; 0 where an older release did not write it down.
    #[serde(default)]
    pub(crate) tar: u64,
    /// Found not to be what was unpacked: who needs it next fetches it again.
    #[serde(default)]
    pub(crate) damaged: bool,
}

impl Image {
    /// Of all layers together (OCI image spec, config.md, "Layer ChainID"); `None` without any.
    pub fn chain_id(&self) -> Option<Digest> {
        let (first, rest) = self.layers.split_first()?;
        Some(rest.iter().fold(first.clone(), |below, layer| {
            Digest::from_sha256(Sha256::digest(format!("{below} {layer}")).into())
        }))
    }

    /// From a config whose bytes hash to `id`.
    pub(crate) fn new(id: Digest, raw: &[u8]) -> Result<Self, ImageError> {
        let broken = |problem: String| ImageError::Config { problem };
        let raw = std::str::from_utf8(raw).map_err(|error| broken(error.to_string()))?.to_owned();
        let config: ImageConfiguration =
            serde_json::from_str(&raw).map_err(|error| broken(error.to_string()))?;
        let layers =
            config.rootfs().diff_ids().iter().map(|text| {
                text.parse::<Digest>().map_err(|error| broken(format!("rootfs.diff_ids: {error}")))
            });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            id: ImageId(id),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: raw.len() as u64,
            config,
            layers,
            annotations: BTreeMap::new(),
            handlers: BTreeSet::new(),
            manifests: Vec::new(),
            raw,
        })
    }

    pub(crate) fn to_record(&self) -> ImageRecord {
        ImageRecord {
            repo_tags: self.repo_tags.clone(),
            repo_digests: self.repo_digests.clone(),
            size: self.size,
            id: self.id.clone(),
            config: self.raw.clone(),
            manifests: self.manifests.clone(),
            removed: false,
            annotations: self.annotations.clone(),
            handlers: self.handlers.clone(),
        }
    }

    pub(crate) fn from_record(record: ImageRecord) -> Result<Self, ImageError> {
        let image = Self::new(record.id.0, record.config.as_bytes())?;
        let (repo_tags, repo_digests, manifests) = (record.repo_tags, record.repo_digests, record.manifests);
        let (annotations, handlers) = (record.annotations, record.handlers);
        Ok(Self { repo_tags, repo_digests, manifests, size: record.size, annotations, handlers, ..image })
    }

    /// The config as it came.
    pub fn raw_config(&self) -> &str {
        &self.raw
    }

    /// Where a registry has it, from now on.
    pub(crate) fn found_at(&mut self, repository: String, document: &[u8]) {
        let Ok(document) = std::str::from_utf8(document) else { return };
        if document.len() > MANIFEST_MAX {
            return;
        }
        let known = KnownManifest { repository, document: document.to_owned() };
        self.manifests.retain(|other| *other != known);
        self.manifests.push(known);
        let surplus = self.manifests.len().saturating_sub(MANIFESTS);
        self.manifests.drain(..surplus);
    }

    /// What is known of the same image under other names.
    pub(crate) fn adopt(&mut self, other: &Self) {
        let newer = std::mem::replace(&mut self.manifests, other.manifests.clone());
        for known in newer {
            self.found_at(known.repository, known.document.as_bytes());
        }
        for (mine, theirs) in
            [(&mut self.repo_tags, &other.repo_tags), (&mut self.repo_digests, &other.repo_digests)]
        {
            mine.extend(theirs.iter().cloned());
            mine.sort();
            mine.dedup();
        }
        self.handlers.extend(other.handlers.iter().cloned());
        if !other.annotations.is_empty() {
            self.annotations = other.annotations.clone();
        }
    }

    /// The user of the config as CRI splits it: a number or a name.
    pub fn user(&self) -> (Option<i64>, String) {
        let user = self.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
        let user = user.split(':').next().unwrap_or_default();
        match user.parse::<i64>() {
            Ok(uid) if uid >= 0 => (Some(uid), String::new()),
            _ if user.is_empty() => (Some(0), String::new()),
            _ => (None, user.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_places_are_kept() {
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let id = Digest::from_sha256(Sha256::digest(config).into());
        let mut image = Image::new(id, config).unwrap();
        for place in ["a", "b", "c", "a", "d", "e"] {
            image.found_at(place.to_owned(), b"{}");
        }
        image.found_at("large".to_owned(), &vec![b' '; MANIFEST_MAX + 1]);
        let mut newer = Image::from_record(image.to_record()).unwrap();
        newer.manifests.clear();
        newer.found_at("c".to_owned(), b"{}");
        newer.adopt(&image);
        let places: Vec<_> = newer.manifests.iter().map(|known| known.repository.as_str()).collect();
        assert_eq!(places, ["a", "d", "e", "c"]);
    }
}
