//! Documents and layers of every media type that a registry may have, and which of an index is taken: where another than the
//! right one were, it would not be there.

use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::cases::{End, Table};
use super::image::{INDEX, MANIFEST, Served};
use crate::image::{ARCHITECTURE, LAYER, described};

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The bytes of a frame that readers of zstd skip (RFC 8878, section 3.1.2).
fn skipped(content: &[u8]) -> Vec<u8> {
    let mut frame = 0x184d_2a50_u32.to_le_bytes().to_vec();
    frame.extend(u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
    frame.extend(content);
    frame
}

fn entry(kind: &str, digest: &str, platform: &Value) -> Value {
    let mut entry = json!({ "mediaType": kind, "digest": digest, "size": 1 });
    if !platform.is_null() {
        entry["platform"] = platform.clone();
    }
    entry
}

/// One that nobody has.
fn nowhere(platform: &Value) -> Value {
    entry(MANIFEST, &format!("sha256:{}", "1".repeat(64)), platform)
}

/// For this machine, with another field.
fn platform(key: &str, value: &str) -> Value {
    let mut platform = json!({ "os": "linux", "architecture": ARCHITECTURE });
    if !key.is_empty() {
        platform[key] = json!(value);
    }
    platform
}

fn index(served: &mut Served, entries: &[Value]) {
    served.point(INDEX, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }));
}

fn compressed(tar: &[u8], with: impl FnOnce(&[u8]) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    with(tar).unwrap_or_default()
}

fn gzip(tar: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(tar)?;
    writer.finish()
}

/// The layer is sent as this.
fn sent(served: &mut Served, kind: &str, bytes: Vec<u8>) {
    let layer = described(kind, &bytes);
    served.blobs.insert(layer["digest"].as_str().unwrap_or_default().to_owned(), bytes);
    served.manifest["layers"][0] = layer;
    served.settle();
}

fn tar(served: &Served) -> Vec<u8> {
    served.blobs.get(&served.layer).cloned().unwrap_or_default()
}

pub(super) fn add(table: &mut Table) -> Result<()> {
    let mut comes = |what: &'static str, make: fn(&mut Served)| {
        table.push(what, End::Comes, make, Arc::new(|_, _, good| good))
    };
    comes("docker's manifest list, manifest, config and layer", |served| {
        let layer = compressed(&tar(served), gzip);
        sent(served, DOCKER_LAYER, layer);
        served.manifest["mediaType"] = json!(DOCKER_MANIFEST);
        served.manifest["config"]["mediaType"] = json!(DOCKER_CONFIG);
        let manifest = served.manifest.clone();
        served.point(DOCKER_MANIFEST, manifest);
        let entry = entry(DOCKER_MANIFEST, &served.tag, &platform("", ""));
        let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry] });
        served.point(DOCKER_LIST, list);
    })?;
    comes("an index in an index, after one that has none for this machine", |served| {
        let own = entry(MANIFEST, &served.tag, &platform("", ""));
        index(served, &[own]);
        let inner = entry(INDEX, &served.tag, &Value::Null);
        index(served, &[nowhere(&json!({ "os": "linux", "architecture": "s390x" }))]);
        let empty = entry(INDEX, &served.tag, &Value::Null);
        index(served, &[empty, inner]);
    })?;
    comes("zstd with frames to skip before and after, as zstd:chunked has them", |served| {
        let frame = compressed(&tar(served), |tar| zstd::encode_all(tar, 3));
        let layer = [skipped(b"table of contents"), frame, skipped(&[7; 64])].concat();
        sent(served, &format!("{LAYER}+zstd"), layer);
    })?;
    comes("zstd in two frames", |served| {
        let tar = tar(served);
        let (first, second) = tar.split_at(tar.len() / 2);
        let layer = [first, second].map(|part| compressed(part, |part| zstd::encode_all(part, 3))).concat();
        sent(served, &format!("{LAYER}+zstd"), layer);
    })?;
    comes("one without os.version goes before one with it", |served| {
        let own = entry(MANIFEST, &served.tag, &platform("", ""));
        index(served, &[nowhere(&platform("os.version", "10.0.1")), own]);
    })?;
    comes("one with os.version, where there is no other", |served| {
        let own = entry(MANIFEST, &served.tag, &platform("os.version", "10.0.1"));
        index(served, &[own]);
    })?;
    comes("the variant that this machine runs, after one that it does not", |served| {
        let usual = if ARCHITECTURE == "arm64" { "v8" } else { "v1" };
        let own = entry(MANIFEST, &served.tag, &platform("variant", usual));
        index(served, &[nowhere(&platform("variant", "v99")), own]);
    })?;
    table.content(
        "a layer that is WebAssembly",
        &["layer sha256:", "\"application/vnd.wasm.content.layer.v1+wasm\", which is no tar"],
        |served| {
            served.manifest["layers"][0]["mediaType"] = json!("application/vnd.wasm.content.layer.v1+wasm");
            served.settle();
        },
    )
}
