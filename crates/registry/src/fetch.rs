//! Images: the manifest for this machine, its config, and its blobs.

use std::ops::Range;

use bytes::Bytes;

use berth_ids::Digest;

use crate::blob::{Blob, Sources};
use crate::client::{Ask, Need, Session, hash};
use crate::manifest::Parsed;
use crate::{LayerDescriptor, Manifest, Platform, RegistryError};

/// Distribution spec: manifests are at most 4 MiB.
const MANIFEST_MAX: u64 = 4 * 1024 * 1024;
/// A config names layers and history; real ones are a few KiB.
const CONFIG_MAX: u64 = 8 * 1024 * 1024;
/// Indexes in indexes.
const NESTED: usize = 4;
/// Manifests looked at on the way to one.
const LOOKED_AT: usize = 16;

/// What a reference stands for on a platform; all of it checked against its digests.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub manifest: Manifest,
    /// Of what the name itself stands for: the index, where there is one.
    pub top: Digest,
    /// The manifest's bytes.
    pub raw: Bytes,
    pub config: Bytes,
}

impl Session {
    /// The manifest for a platform and the config it names; without one, for this machine.
    pub async fn resolve(&self, platform: Option<&Platform>) -> Result<Resolved, RegistryError> {
        let host = Platform::host();
        let wanted_platform = platform.unwrap_or(&host);
        let none = |has| {
            let (reference, platform) = (self.name(), wanted_platform.to_string());
            RegistryError::Platform { reference, platform, has }
        };
        // Depth first, the best entry first: one that names no platform may turn out to have none for us.
        let mut open = vec![(self.inner.reference.wanted(), 0)];
        let (mut top, mut has, mut looked) = (None, String::from("none"), 0);
        while let Some((wanted, depth)) = open.pop() {
            looked += 1;
            let (digest, host, bytes, kind) = self.manifest(&wanted, depth == 0).await?;
            let top = top.get_or_insert_with(|| digest.clone());
            let malformed = |problem| self.malformed("the manifest", &host, problem);
            match Manifest::parse(&bytes, digest, &kind, wanted_platform).map_err(malformed)? {
                Parsed::Manifest(manifest) => {
                    let config = self.config(&manifest.config).await?;
                    // A manifest that no index led to says nothing of it, and who asks for a platform means it.
                    let made_for = serde_json::from_slice::<Platform>(&config).unwrap_or_default();
                    if platform.is_some_and(|wanted| !made_for.is_like(wanted)) {
                        return Err(none(made_for.to_string().chars().take(60).collect()));
                    }
                    return Ok(Resolved { manifest, top: top.clone(), raw: bytes, config });
                }
                Parsed::Index(entries, offered) => {
                    if depth == 0 || !entries.is_empty() {
                        has = offered;
                    }
                    if depth >= NESTED {
                        return Err(malformed(format!("indexes are nested deeper than {NESTED}")));
                    }
                    open.extend(entries.into_iter().rev().map(|next| (next.to_string(), depth + 1)));
                    if looked >= LOOKED_AT && !open.is_empty() {
                        return Err(malformed(format!("it leads to more than {LOOKED_AT} manifests")));
                    }
                }
            }
        }
        Err(none(has))
    }

    async fn manifest(
        &self,
        wanted: &str,
        named: bool,
    ) -> Result<(Digest, String, Bytes, String), RegistryError> {
        let digest = wanted.parse::<Digest>().ok();
        let need = if named && digest.is_none() { Need::Resolve } else { Need::Pull };
        let path = format!("manifests/{wanted}");
        let small = Some(("the manifest", MANIFEST_MAX));
        let reply = self
            .ask(&Ask { path, need, from: 0, until: None, small, digest, size: None, without: Vec::new() })
            .await?;
        Ok((hash(&reply.bytes), reply.host, reply.bytes, reply.kind))
    }

    async fn config(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let path = format!("blobs/{digest}");
        let small = Some(("the config", CONFIG_MAX));
        let digest = Some(digest.clone());
        Ok(self
            .ask(&Ask {
                path,
                need: Need::Pull,
                from: 0,
                until: None,
                small,
                digest,
                size: None,
                without: Vec::new(),
            })
            .await?
            .bytes)
    }

    /// A part of a layer's bytes, or all of them, as they come.
    pub async fn blob<'a>(
        &self,
        layer: &LayerDescriptor,
        part: Range<u64>,
        sources: &'a mut Sources,
    ) -> Result<Blob<'a>, RegistryError> {
        Blob::begin(self.clone(), layer.clone(), part, sources).await
    }
}
