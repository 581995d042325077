//! Images: the manifest for this machine, its config, and blobs that go on where they were cut.

use std::ops::Range;

use bytes::Bytes;
use reqwest::Response;

use berth_ids::Digest;

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
/// Cuts in a row without so many bytes between them.
const CUTS: u32 = 5;
const WORTH: u64 = 1024 * 1024;

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
        let reply = self.ask(&Ask { path, need, from: 0, until: None, small, digest, size: None }).await?;
        Ok((hash(&reply.bytes), reply.host, reply.bytes, reply.kind))
    }

    async fn config(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let path = format!("blobs/{digest}");
        let small = Some(("the config", CONFIG_MAX));
        let digest = Some(digest.clone());
        Ok(self
            .ask(&Ask { path, need: Need::Pull, from: 0, until: None, small, digest, size: None })
            .await?
            .bytes)
    }

    /// A part of a layer's bytes, or all of them, as they come.
    pub async fn blob(&self, layer: &LayerDescriptor, part: Range<u64>) -> Result<Blob, RegistryError> {
        let mut blob = Blob {
            session: self.clone(),
            layer: layer.clone(),
            at: part.start,
            end: part.end,
            body: None,
            host: String::new(),
            skip: 0,
            cuts: 0,
            since: part.start,
        };
        blob.open().await?;
        Ok(blob)
    }
}

/// A blob on its way. A cut connection is made anew where it ended.
#[derive(Debug)]
pub struct Blob {
    session: Session,
    layer: LayerDescriptor,
    /// The next byte that is handed out.
    at: u64,
    /// Behind the last one that is wanted.
    end: u64,
    body: Option<Response>,
    host: String,
    /// Bytes that come once more.
    skip: u64,
    cuts: u32,
    /// Where the last cut was that was worth its connection.
    since: u64,
}

impl Blob {
    async fn open(&mut self) -> Result<(), RegistryError> {
        if self.at >= self.end && self.at > 0 {
            return Ok(());
        }
        let ask = Ask {
            path: format!("blobs/{}", self.layer.digest),
            need: Need::Pull,
            from: self.at,
            until: Some(self.end).filter(|end| *end < self.layer.size),
            small: None,
            digest: Some(self.layer.digest.clone()),
            size: Some(self.layer.size),
        };
        let reply = self.session.ask(&ask).await?;
        self.host = reply.host;
        self.skip = self.at - reply.from;
        self.body = reply.body;
        Ok(())
    }

    fn size(&self, found: String) -> RegistryError {
        let (digest, wanted) = (self.layer.digest.clone(), self.layer.size);
        RegistryError::Size { host: self.host.clone(), digest, wanted, found }
    }

    /// The next piece; `None` at the end. The length is checked; the digest is whoever's reads it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            let stall = self.session.stall();
            let cut = match tokio::time::timeout(stall, body.chunk()).await {
                Ok(Ok(Some(mut piece))) => {
                    let again = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
                    let mut piece = piece.split_off(again);
                    self.skip -= again as u64;
                    if piece.is_empty() {
                        continue;
                    }
                    self.at += piece.len() as u64;
                    if self.at > self.layer.size {
                        self.body = None;
                        return Err(self.size("more".into()));
                    }
                    if self.at >= self.end && self.end < self.layer.size {
                        // A place that knows no ranges sends the rest, too.
                        let more = usize::try_from(self.at - self.end).unwrap_or(usize::MAX);
                        piece.truncate(piece.len().saturating_sub(more));
                        (self.body, self.at) = (None, self.end);
                    }
                    return Ok(Some(piece));
                }
                Ok(Ok(None)) if self.at == self.end => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(Ok(None)) => {
                    self.body = None;
                    return Err(self.size(self.at.to_string()));
                }
                Ok(Err(source)) => {
                    let (host, reference) = (self.host.clone(), self.session.name());
                    RegistryError::Unreachable { host, reference, source: source.without_url() }
                }
                Err(_) => RegistryError::Stalled { host: self.host.clone(), seconds: stall.as_secs() },
            };
            self.body = None;
            if self.at == self.end {
                return Ok(None);
            }
            if self.at - self.since >= WORTH {
                (self.cuts, self.since) = (0, self.at);
            }
            self.cuts += 1;
            if self.cuts > CUTS {
                return Err(cut);
            }
            tracing::debug!(
                blob = %self.layer.digest,
                at = self.at,
                error = &cut as &dyn std::error::Error,
                "a transfer is taken up again"
            );
            tokio::time::sleep(std::time::Duration::from_millis(100 << self.cuts)).await;
            self.open().await?;
        }
    }
}
