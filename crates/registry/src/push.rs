//! The other direction: blobs that are not there yet, then the manifest that names them (distribution spec, "Push").

use std::sync::atomic::Ordering;

use berth_ids::Digest;
use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::body::{Body, Section};
use crate::client::{Message, Place, Session, hash};
use crate::{RegistryError, retry};

/// Attempts at one step.
const ATTEMPTS: u32 = 5;
/// Bytes sent at once to a registry that did not take a blob as a whole.
const CHUNK: u64 = 16 * 1024 * 1024;
/// The most that a registry may ask for at once.
const CHUNK_MAX: u64 = 256 * 1024 * 1024;
/// The least that a registry takes at once (distribution spec, "Pushing a blob in chunks").
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An upload that the registry has begun.
struct Begun {
    /// Where it goes on.
    at: Url,
    /// Bytes of a chunk.
    chunk: u64,
}

impl Session {
    /// Where a push goes: the first place that is said to take pushes, else the registry itself.
    pub(crate) fn target(&self) -> Result<&Place, RegistryError> {
        self.inner.places.iter().find(|place| place.endpoint.push).ok_or_else(|| RegistryError::Nowhere {
            host: self.inner.reference.host().to_owned(),
            need: "push",
        })
    }

    fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.inner.reference.repository())
    }

    fn message(&self, method: Method, url: Url) -> Message {
        let (headers, scope) = (HeaderMap::new(), self.push_scope());
        Message { method, url, headers, body: Body::none(), scope }
    }

    /// The answer, when it is a good one or one of `fine`; once more, after a while, what failed for a reason that passes.
    async fn step(
        &self,
        place: &Place,
        message: &Message,
        fine: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        let mut round = 0;
        loop {
            let answer = match self.send(place, message).await {
                Ok(answer) if fine.contains(&answer.status()) => return Ok(answer),
                Ok(answer) => self.good(place, answer).await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match retry::pause(round, std::slice::from_ref(&error)) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            round += 1;
        }
    }

    /// Whether the repository has a blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let place = self.target()?;
        let message = self.message(Method::HEAD, self.url(place, &format!("blobs/{digest}"))?);
        let answer = self.step(place, &message, &[StatusCode::NOT_FOUND]).await?;
        Ok(answer.status() != StatusCode::NOT_FOUND)
    }

    /// Asks the registry to take a blob from another repository of its own; whether it did.
    pub async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        /// Not to be had in this way: the blob is sent then, and what is really wrong comes out.
        const REFUSED: [StatusCode; 5] = [
            StatusCode::NOT_FOUND,
            StatusCode::FORBIDDEN,
            StatusCode::UNAUTHORIZED,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::BAD_REQUEST,
        ];
        let place = self.target()?;
        let mut url = self.url(place, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        let mut message = self.message(Method::POST, url);
        // Not every registry asks for a token that is good for the other repository, too.
        message.scope = format!("{} repository:{from}:pull", message.scope);
        let answer = match self.step(place, &message, &REFUSED).await {
            Err(RegistryError::Refused { .. }) => return Ok(false),
            answer => answer?,
        };
        if answer.status() == StatusCode::ACCEPTED
            && let Ok(begun) = self.begun(place, &message.url, &answer)
        {
            // An upload was begun in its place, which nobody wants.
            let cancelled = self.send(place, &self.message(Method::DELETE, begun.at)).await;
            tracing::debug!(cancelled = cancelled.is_ok(), "a mount became an upload");
        }
        Ok(answer.status() == StatusCode::CREATED)
    }

    /// Sends a blob: at once, or in chunks where that did not work, and from where a chunk was cut.
    pub async fn push_blob(&self, digest: &Digest, body: Body) -> Result<(), RegistryError> {
        let place = self.target()?;
        let mut chunks = false;
        let mut attempt = 0;
        loop {
            let done = match &body {
                Body::File(section) if chunks => self.in_chunks(place, digest, section).await,
                _ => self.at_once(place, digest, body.clone()).await,
            };
            let error = match done {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let too_large = matches!(error, RegistryError::Status { status: 413, .. });
            let pause = retry::pause(attempt.min(retry::ROUNDS - 2), std::slice::from_ref(&error));
            attempt += 1;
            match (chunks, too_large, pause) {
                (false, true, _) => {}
                (_, _, Some(pause)) if attempt < ATTEMPTS => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
            tracing::debug!(blob = %digest, error = &error as &dyn std::error::Error, "sent again");
            chunks = true;
            if let Body::File(section) = &body {
                section.gone.store(0, Ordering::Relaxed);
            }
        }
    }

    async fn at_once(&self, place: &Place, digest: &Digest, body: Body) -> Result<(), RegistryError> {
        let begun = self.begin(place).await?;
        self.finish(place, begun.at, digest, body).await
    }

    async fn begin(&self, place: &Place) -> Result<Begun, RegistryError> {
        let message = self.message(Method::POST, self.url(place, "blobs/uploads/")?);
        let answer = self.good(place, self.send(place, &message).await?).await?;
        self.begun(place, &message.url, &answer)
    }

    async fn finish(
        &self,
        place: &Place,
        mut at: Url,
        digest: &Digest,
        body: Body,
    ) -> Result<(), RegistryError> {
        at.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut message = self.message(Method::PUT, at);
        message.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        message.body = body;
        self.good(place, self.send(place, &message).await?).await.map(drop)
    }

    async fn in_chunks(
        &self,
        place: &Place,
        digest: &Digest,
        section: &Section,
    ) -> Result<(), RegistryError> {
        let Begun { at: mut url, chunk } = self.begin(place).await?;
        let (mut at, mut cuts) = (0, 0);
        while at < section.size {
            let size = chunk.min(section.size - at);
            let mut message = self.message(Method::PATCH, url.clone());
            let range = HeaderValue::from_str(&format!("{at}-{}", at + size - 1));
            message.headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
            message.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            message.body = Body::File(section.part(at, size));
            let sent = match self.send(place, &message).await {
                Ok(answer) => self.good(place, answer).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(answer) => {
                    url = self.begun(place, &url, &answer)?.at;
                    (at, cuts) = (at + size, 0);
                }
                Err(error) if error.passes() && cuts < ATTEMPTS => {
                    cuts += 1;
                    tokio::time::sleep(retry::FIRST * 2_u32.pow(cuts - 1)).await;
                    (url, at) = self.so_far(place, url).await?;
                    section.gone.store(at, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        self.finish(place, url, digest, Body::none()).await
    }

    /// How much of an upload has arrived.
    async fn so_far(&self, place: &Place, url: Url) -> Result<(Url, u64), RegistryError> {
        let message = self.message(Method::GET, url);
        let answer = self.good(place, self.send(place, &message).await?).await?;
        let range = answer.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let range = range.trim_start_matches("bytes=");
        let last = range.split_once('-').and_then(|(_, last)| last.parse::<u64>().ok());
        // `0-0` is how nothing is said, and one byte: to send that one again does no harm.
        let at = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        Ok((self.begun(place, &message.url, &answer)?.at, at))
    }

    /// What the answer to a part of an upload says of the next.
    fn begun(&self, place: &Place, asked: &Url, answer: &Response) -> Result<Begun, RegistryError> {
        let host = place.endpoint.authority();
        let text = |name: HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let to = text(LOCATION).and_then(|to| asked.join(to).ok());
        let at = to.ok_or_else(|| {
            self.malformed("an upload", host, "it does not say where the upload goes on".to_owned())
        })?;
        // Credentials and content go to the place that was asked and to no other.
        if at.origin() != asked.origin() {
            return Err(RegistryError::Redirect {
                host: host.to_owned(),
                reference: self.name(),
                problem: format!("an upload to {}", at.origin().ascii_serialization()),
            });
        }
        let least = text(CHUNK_MIN).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Ok(Begun { at, chunk: CHUNK.max(least.min(CHUNK_MAX)) })
    }

    /// Puts a manifest of type `kind` under `name`, a tag or its digest.
    pub async fn push_manifest(&self, bytes: Bytes, kind: &str, name: &str) -> Result<Digest, RegistryError> {
        let place = self.target()?;
        let digest = hash(&bytes);
        let mut message = self.message(Method::PUT, self.url(place, &format!("manifests/{name}"))?);
        message.headers.extend(HeaderValue::from_str(kind).ok().map(|kind| (CONTENT_TYPE, kind)));
        message.body = Body::Bytes(bytes);
        let answer = self.step(place, &message, &[]).await?;
        let said = answer.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        match said.and_then(|said| said.parse::<Digest>().ok()) {
            Some(found) if found != digest => Err(RegistryError::Digest {
                what: "the manifest, as the registry took it,",
                reference: self.name(),
                wanted: digest,
                found,
            }),
            _ => Ok(digest),
        }
    }
}
