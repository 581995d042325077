//! The other direction: blobs that are not there yet, then the manifest that names them.

use std::io::Read;

use berth_ids::Digest;
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use crate::client::{Body, Need, Place, Session, hash};
use crate::{Reference, RegistryError};

/// Pieces of a blob between the disk and the network.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;
/// Attempts at one blob.
const ATTEMPTS: u32 = 3;

/// How a blob came to be at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was there.
    There,
    /// The registry took it from another repository of its own.
    Mounted,
    Sent,
}

/// A blob that can be read from its beginning, as often as need be. Reading blocks.
pub struct Upload<'a> {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// A repository of the same registry that may have it.
    pub mount: Option<&'a str>,
    pub open: &'a (dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Send + Sync),
    /// Told of bytes as they go.
    pub gone: &'a (dyn Fn(u64) + Send + Sync),
}

impl std::fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The registry itself before any mirror that takes pushes.
    fn target(&self) -> Result<&Place, RegistryError> {
        let able = || self.inner.places.iter().filter(|place| place.endpoint.push);
        able().find(|place| place.endpoint.own).or_else(|| able().next()).ok_or_else(|| {
            RegistryError::Nowhere { host: self.inner.reference.host().to_owned(), need: "push" }
        })
    }

    async fn has(&self, place: &Place, path: &str) -> Result<bool, RegistryError> {
        let url = self.url(place, path)?;
        let answer = self.send(place, Need::Push, &Method::HEAD, url, &HeaderMap::new(), Body::None).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.good(place, answer).await.map(|_| true),
        }
    }

    /// Sends a blob unless the repository has it or the registry can take it from `mount`.
    pub async fn push_blob(&self, upload: &Upload<'_>) -> Result<Sent, RegistryError> {
        let place = self.target()?;
        let mut attempt = 1;
        loop {
            match self.try_blob(place, upload).await {
                Err(error) if error.passes() && attempt < ATTEMPTS => {
                    tokio::time::sleep(error.after().unwrap_or_default().min(crate::retry::PATIENCE)).await;
                    tokio::time::sleep(std::time::Duration::from_millis(250 << attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn try_blob(&self, place: &Place, upload: &Upload<'_>) -> Result<Sent, RegistryError> {
        let host = place.endpoint.authority();
        if self.has(place, &format!("blobs/{}", upload.digest)).await? {
            return Ok(Sent::There);
        }
        let mut url = self.url(place, "blobs/uploads/")?;
        let own = self.inner.reference.repository();
        if let Some(from) = upload.mount.filter(|from| *from != own) {
            url.query_pairs_mut().append_pair("mount", upload.digest.as_str()).append_pair("from", from);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = self.send(place, Need::Push, &Method::POST, url.clone(), &headers, Body::None).await?;
        let answer = self.good(place, answer).await?;
        match answer.status() {
            StatusCode::CREATED => return Ok(Sent::Mounted),
            StatusCode::ACCEPTED => {}
            other => {
                let problem = format!("it answered {} to the beginning of an upload", other.as_u16());
                return Err(self.malformed("a blob", host, problem));
            }
        }
        let mut at = self.location(place, &url, &answer)?;
        at.query_pairs_mut().append_pair("digest", upload.digest.as_str());
        let done = self.put(place, at, upload).await?;
        self.good(place, done).await?;
        Ok(Sent::Sent)
    }

    fn location(&self, place: &Place, asked: &Url, answer: &Response) -> Result<Url, RegistryError> {
        let host = place.endpoint.authority();
        let to = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let to = to.and_then(|to| asked.join(to).ok());
        let to = to.ok_or_else(|| {
            self.malformed("a blob", host, "it does not say where an upload goes on".to_owned())
        })?;
        // Credentials and content go to the place that was asked and to no other.
        match to.origin() == asked.origin() {
            true => Ok(to),
            false => Err(RegistryError::Redirect {
                host: host.to_owned(),
                reference: self.name(),
                problem: "an upload to another host".into(),
            }),
        }
    }

    async fn put(&self, place: &Place, url: Url, upload: &Upload<'_>) -> Result<Response, RegistryError> {
        let host = place.endpoint.authority().to_owned();
        let source = |source| RegistryError::Source { host: host.clone(), source };
        let mut from = (upload.open)().map_err(source)?;
        let (send, receive) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
        let reading = tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = from.read(&mut piece);
                let piece = match read {
                    Ok(0) => return,
                    Ok(length) => {
                        piece.truncate(length);
                        Ok(Bytes::from(piece))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                if send.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        let body = Body::stream(receive, upload.size);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let sent = self.send(place, Need::Push, &Method::PUT, url, &headers, body.clone());
        tokio::pin!(sent);
        let mut told = 0;
        let outcome = loop {
            tokio::select! {
                outcome = &mut sent => break outcome,
                () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {
                    let gone = body.gone();
                    (upload.gone)(gone - told);
                    told = gone;
                }
            }
        };
        (upload.gone)(body.gone() - told);
        // It ends with its channel; a panic in it has said so itself.
        let _ = reading.await;
        outcome
    }

    /// Puts the manifest under the reference's tag, or under its digest where there is none.
    pub async fn push_manifest(&self, bytes: Bytes, kind: &str) -> Result<Digest, RegistryError> {
        let place = self.target()?;
        let digest = hash(&bytes);
        let reference: &Reference = &self.inner.reference;
        let name = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let url = self.url(place, &format!("manifests/{name}"))?;
        let mut headers = HeaderMap::new();
        headers.extend(HeaderValue::from_str(kind).ok().map(|kind| (CONTENT_TYPE, kind)));
        let answer = self.send(place, Need::Push, &Method::PUT, url, &headers, Body::Bytes(bytes)).await?;
        self.good(place, answer).await?;
        Ok(digest)
    }
}
