//! A small image as a registry serves it, whose documents a case may write anew.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::server::{Answer, Reply, Request};
pub(super) use crate::image::MANIFEST;
use crate::image::{ARCHITECTURE, CONFIG, LAYER, Layer, config_of, described, digest, manifest_of};

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) const NAME: &str = "lane/image";

/// The documents under their digests, and what the tag `1` stands for.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) blobs: HashMap<String, Vec<u8>>,
    pub(super) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(super) tag: String,
    pub(super) config: Value,
    pub(super) manifest: Value,
    /// Digest of the one layer.
    pub(super) layer: String,
}

impl Served {
    /// Of one layer that no other image has.
    pub(super) fn new(content: &str) -> Result<Self> {
        let mut layer = Layer::default();
        layer.file("content", content.as_bytes(), 0o644)?;
        // Large enough to be cut in the middle.
        let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        layer.file("noise", &noise, 0o644)?;
        Ok(Self::of(layer.into_tar()?))
    }

    pub(super) fn of(layer: Vec<u8>) -> Self {
        let mut served = Self {
            blobs: HashMap::new(),
            manifests: HashMap::new(),
            tag: String::new(),
            config: config_of(ARCHITECTURE, &json!({ "Cmd": ["/content"] }), &[&digest(&layer)]),
            manifest: manifest_of(&Value::Null, &[described(LAYER, &layer)]),
            layer: digest(&layer),
        };
        served.blobs.insert(served.layer.clone(), layer);
        served.settle();
        served
    }

    /// After a change of config or manifest: the digests again.
    pub(super) fn settle(&mut self) {
        let config = self.config.to_string().into_bytes();
        if self.manifest["config"]["own"].is_null() {
            self.manifest["config"] = described(CONFIG, &config);
        }
        self.blobs.insert(digest(&config), config);
        let manifest = self.manifest.to_string();
        self.tag = self.add(MANIFEST, manifest.into_bytes());
    }

    /// Under its digest, which it gives.
    pub(super) fn add(&mut self, kind: &str, document: Vec<u8>) -> String {
        let digest = digest(&document);
        self.manifests.insert(digest.clone(), (kind.to_owned(), document));
        digest
    }

    /// What the tag stands for from now on.
    pub(super) fn point(&mut self, kind: &str, document: Value) {
        self.tag = self.add(kind, document.to_string().into_bytes());
    }

    pub(super) fn config_digest(&self) -> String {
        self.manifest["config"]["digest"].as_str().unwrap_or_default().to_owned()
    }

    /// As the distribution specification has it.
    pub(super) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        let Some(rest) =
            path.strip_prefix("/v2/").and_then(|rest| rest.split_once(NAME)).map(|(_, rest)| rest)
        else {
            return Reply::new(404, "");
        };
        if let Some(wanted) = rest.strip_prefix("/manifests/") {
            let wanted = if wanted == "1" { &self.tag } else { wanted };
            return match self.manifests.get(wanted) {
                Some((kind, bytes)) => Reply::new(200, bytes.clone())
                    .with("Content-Type", kind)
                    .with("Docker-Content-Digest", &digest(bytes)),
                None => Reply::new(
                    404,
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                ),
            };
        }
        let blob = rest.strip_prefix("/blobs/").and_then(|wanted| self.blobs.get(wanted));
        match (blob, request.from()) {
            (None, _) => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
            (Some(bytes), 0) => Reply::new(200, bytes.clone()),
            (Some(bytes), from) if from < bytes.len() => Reply::new(206, bytes[from..].to_vec())
                .with("Content-Range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
            _ => Reply::new(416, ""),
        }
    }

    pub(super) fn answers(self) -> Answer {
        Arc::new(move |request, _| self.answer(request))
    }
}
