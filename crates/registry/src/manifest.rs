use std::collections::BTreeMap;

use berth_ids::Digest;
use serde::Deserialize;

use crate::Platform;

/// A layer as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// An image's manifest, checked against its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<LayerDescriptor>,
    /// Those that together are not too long for a list of images.
    pub annotations: BTreeMap<String, String>,
}

/// Either kind of document; OCI and Docker agree on the fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
    urls: Option<Vec<String>>,
}

/// What a document turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Manifest(Manifest),
    /// The digests of the platform's manifests, the best first; and what there is.
    Index(Vec<Digest>, String),
}

/// Layers of an image; the overlay takes 500.
const LAYERS: usize = 500;
/// Manifests of an index.
const MANIFESTS: usize = 1000;
/// Bytes of the annotations that are kept of one manifest: a list has a thousand images.
const ANNOTATED: usize = 4096;
/// Platforms that an error names.
const NAMED: usize = 12;

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What a client says it understands.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A `Content-Type` without its parameters; what the answer says must not contradict what it has.
fn check_type(said: &str, document: &Document) -> Result<(), String> {
    let said = said.split(';').next().unwrap_or_default().trim();
    let index = document.manifests.is_some();
    for (name, claim) in [("its Content-Type", said), ("its mediaType", document.media_type.as_str())] {
        match claim {
            "" | "application/json" | "application/octet-stream" | "binary/octet-stream" | "text/plain" => {}
            other if INDEXES.contains(&other) && index => {}
            other if MANIFESTS_TYPES.contains(&other) && !index => {}
            other => {
                let what = if index { "an index" } else { "a manifest" };
                let other: String = other.chars().take(100).collect();
                return Err(format!("it is {what}, but {name} says {other:?}"));
            }
        }
    }
    Ok(())
}

impl Manifest {
    /// Of a document in an archive or from a registry; `digest` is what its bytes hash to, `said` the Content-Type.
    pub(crate) fn parse(
        bytes: &[u8],
        digest: Digest,
        said: &str,
        platform: &Platform,
    ) -> Result<Parsed, String> {
        if said.contains("docker.distribution.manifest.v1") {
            return Err("it is of docker's schema 1, which has no config; push the image anew".into());
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            let kind = said.split(';').next().unwrap_or_default().trim();
            match kind.is_empty() || kind.ends_with("json") {
                true => error.to_string(),
                false => format!("it came as {kind:?} and is no JSON: {error}"),
            }
        })?;
        match document.schema_version {
            Some(1) => {
                return Err("it is of docker's schema 1, which has no config; push the image anew".into());
            }
            Some(2) | None => {}
            Some(other) => return Err(format!("it is of schema {other}")),
        }
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            // CVE-2021-41190: two readers would see two images.
            return Err("it is an index and a manifest at once".into());
        }
        check_type(said, &document)?;
        if let Some(manifests) = document.manifests {
            if manifests.len() > MANIFESTS {
                return Err(format!("it has more than {MANIFESTS} manifests"));
            }
            let has = has(&manifests);
            return Ok(Parsed::Index(choose(manifests, platform), has));
        }
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err("it has neither config and layers nor manifests".into());
        };
        // An artifact says so, or has another config than an image's (OCI image spec, manifest.md).
        let known = config.media_type.is_empty() || CONFIGS.contains(&config.media_type.as_str());
        if !document.artifact_type.is_empty() || !known {
            let kind = Some(document.artifact_type).filter(|kind| !kind.is_empty());
            let kind: String = kind.unwrap_or(config.media_type).chars().take(100).collect();
            return Err(format!("it is an artifact of type {kind:?} and no image"));
        }
        if layers.len() > LAYERS {
            return Err(format!("it has more than {LAYERS} layers"));
        }
        let foreign = |l: &Descriptor| {
            l.media_type.contains("foreign")
                || l.media_type.contains("nondistributable")
                || l.urls.as_ref().is_some_and(|u| !u.is_empty())
        };
        if layers.iter().any(foreign) {
            return Err("it has foreign layers, which come from other hosts and are not fetched".into());
        }
        if let Some(layer) = layers.iter().find(|layer| layer.media_type.contains("encrypted")) {
            return Err(format!("layer {} is encrypted, and no key is known here", layer.digest));
        }
        // Every layer's type says in one way or another that it is a tar, also those that nobody specifies.
        let other = |l: &&Descriptor| !l.media_type.is_empty() && !l.media_type.contains("tar");
        if let Some(layer) = layers.iter().find(other) {
            let kind: String = layer.media_type.chars().take(100).collect();
            return Err(format!("layer {} is of type {kind:?}, which is no tar of files", layer.digest));
        }
        let layers = layers.into_iter().map(|l| LayerDescriptor { digest: l.digest, size: l.size }).collect();
        let mut annotated = 0;
        let mut annotations = document.annotations.unwrap_or_default();
        annotations.retain(|key, value| {
            annotated += key.len() + value.len();
            annotated <= ANNOTATED
        });
        Ok(Parsed::Manifest(Self { digest, config: config.digest, layers, annotations }))
    }

    /// As a registry's answer is read, for readers of archives: for this machine. Of an index, its manifests, the best first.
    pub fn read(bytes: &[u8], digest: Digest) -> Result<Result<Self, Vec<Digest>>, String> {
        match Self::parse(bytes, digest, "", &Platform::host())? {
            Parsed::Manifest(manifest) => Ok(Ok(manifest)),
            Parsed::Index(next, _) => Ok(Err(next)),
        }
    }
}

/// The entries for a machine, the best first; one without a platform (an index in an index) comes last, and is taken
/// when nothing else fits. Attestations and other artifacts are none.
fn choose(manifests: Vec<Descriptor>, host: &Platform) -> Vec<Digest> {
    const NESTED: u32 = u32::MAX;
    let ranked = manifests.into_iter().filter_map(|entry| {
        let known = entry.media_type.is_empty()
            || INDEXES.contains(&entry.media_type.as_str())
            || MANIFESTS_TYPES.contains(&entry.media_type.as_str());
        if !known || !entry.artifact_type.is_empty() {
            return None;
        }
        let rank = match &entry.platform {
            None => NESTED,
            Some(platform) => platform.rank(host)?,
        };
        Some((rank, entry.digest))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, digest)| digest).collect()
}

fn has(manifests: &[Descriptor]) -> String {
    let mut names: Vec<String> = Vec::new();
    for platform in manifests.iter().filter_map(|entry| entry.platform.as_ref()) {
        let name: String = platform.to_string().chars().take(60).collect();
        if !names.contains(&name) && platform.os != "unknown" {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), more) {
        (true, _) => "none".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_sha256([n; 32])
    }

    fn parse(text: &serde_json::Value, said: &str) -> Result<Parsed, String> {
        Manifest::parse(text.to_string().as_bytes(), digest(0), said, &Platform::host())
    }

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next(), os_version: next() }
    }

    /// Which of these a machine takes, in order.
    fn order(host: &str, offered: &[&str]) -> Vec<usize> {
        let descriptors = offered.iter().enumerate().map(|(n, text)| Descriptor {
            media_type: String::new(),
            artifact_type: String::new(),
            digest: digest(n.try_into().unwrap()),
            size: 1,
            platform: (!text.is_empty()).then(|| platform(text)),
            urls: None,
        });
        let chosen = choose(descriptors.collect(), &platform(host));
        chosen.iter().map(|found| (0..offered.len()).find(|n| digest(*n as u8) == *found).unwrap()).collect()
    }

    #[test]
    fn platforms() {
        for (host, offered, expected) in [
            ("linux/amd64", vec!["linux/s390x", "linux/amd64", "windows/amd64"], vec![1]),
            ("linux/amd64", vec!["linux/amd64/v3", "linux/amd64/v1"], vec![1]),
            ("linux/amd64", vec!["linux/amd64/v2"], vec![]),
            ("linux/amd64/v2", vec!["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], vec![2, 0]),
            ("linux/amd64", vec!["linux/x86_64"], vec![0]),
            ("linux/amd64", vec!["linux/amd64//10.0", "linux/amd64"], vec![1, 0]),
            ("linux/arm64/v8", vec!["linux/arm64", "linux/arm64/v9"], vec![0]),
            ("linux/arm64/v8", vec!["linux/aarch64/v8"], vec![0]),
            ("linux/arm/v7", vec!["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], vec![1, 0]),
            ("linux/riscv64", vec!["linux/riscv64"], vec![0]),
            ("linux/amd64", vec!["", "linux/amd64"], vec![1, 0]),
            ("linux/amd64", vec![""], vec![0]),
        ] {
            assert_eq!(order(host, &offered), expected, "{host} of {offered:?}");
        }
    }

    #[test]
    fn a_manifest_is_its_config_and_layers() {
        let text = serde_json::json!({"config": {"digest": digest(1)}, "layers": [{"digest": digest(2), "size": 5}]});
        let manifest = Manifest::read(text.to_string().as_bytes(), digest(9)).unwrap().unwrap();
        assert_eq!((manifest.config, manifest.layers[0].size, manifest.digest), (digest(1), 5, digest(9)));
        for bad in ["{}", "[]", "{\"config\":{\"digest\":\"x\"},\"layers\":[]}", "\u{0}"] {
            assert!(Manifest::read(bad.as_bytes(), digest(0)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_image_says_what_it_is() {
        let config = serde_json::json!({"digest": digest(1)});
        let layer = |more: serde_json::Value| {
            let mut layer = serde_json::json!({"digest": digest(2), "size": 1});
            layer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::json!({"config": config, "layers": [layer]})
        };
        let oci = "application/vnd.oci.image.manifest.v1+json";
        for (text, said, problem) in [
            (layer(serde_json::json!({"urls": ["http://x"]})), "", "foreign"),
            (
                layer(
                    serde_json::json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}),
                ),
                "",
                "foreign",
            ),
            (
                layer(
                    serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"}),
                ),
                "",
                "encrypted",
            ),
            (
                layer(serde_json::json!({"mediaType": "application/vnd.wasm.content.layer.v1+wasm"})),
                "",
                "\"application/vnd.wasm.content.layer.v1+wasm\", which is no tar",
            ),
            (serde_json::json!({"schemaVersion": 1, "fsLayers": []}), "", "schema 1"),
            (serde_json::json!({}), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
            (serde_json::json!({"schemaVersion": 3}), "", "schema 3"),
            (serde_json::json!({"manifests": [], "layers": []}), "", "at once"),
            (serde_json::json!({"manifests": []}), oci, "Content-Type"),
            (serde_json::json!({"config": config, "layers": [], "mediaType": INDEXES[0]}), oci, "mediaType"),
            (serde_json::json!({"config": config, "layers": []}), "text/html", "text/html"),
            (
                serde_json::json!({"config": {"digest": digest(1), "mediaType": "application/vnd.cncf.helm.config.v1+json"}, "layers": []}),
                "",
                "helm",
            ),
            (
                serde_json::json!({"artifactType": "a/b", "config": config, "layers": []}),
                "",
                "artifact of type \"a/b\"",
            ),
            (
                serde_json::json!({"config": config, "layers": vec![serde_json::json!({"digest": digest(2)}); 501]}),
                "",
                "more than 500",
            ),
        ] {
            let error = parse(&text, said).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let page = Manifest::parse(b"<html>", digest(0), "text/html", &Platform::host());
        assert!(page.unwrap_err().contains("text/html"));
    }

    #[test]
    fn an_index_says_what_it_has() {
        let text = serde_json::json!({"manifests": [
            {"digest": digest(1), "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.1"}},
            {"digest": digest(2), "platform": {"os": "unknown", "architecture": "unknown"}},
            {"digest": digest(3), "artifactType": "x"},
        ]});
        assert_eq!(parse(&text, "").unwrap(), Parsed::Index(vec![], "windows/amd64 (10.0.1)".into()));
    }
}
