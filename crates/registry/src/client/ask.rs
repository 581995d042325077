//! One question to the places of a reference, and another round when it may help.

use berth_ids::Digest;
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::{Message, Place, Session, hash};
use crate::body::Body;
use crate::hosts::Endpoint;
use crate::manifest::ACCEPT as MANIFEST_TYPES;
use crate::{RegistryError, retry};

/// What a place must be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Resolve,
    Pull,
}

impl Need {
    fn word(self) -> &'static str {
        match self {
            Self::Resolve => "look up tags",
            Self::Pull => "pull",
        }
    }

    pub(crate) fn of(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Resolve => endpoint.resolve,
            Self::Pull => endpoint.pull,
        }
    }
}

/// A question below a repository.
pub(crate) struct Ask {
    /// After the repository's name.
    pub(crate) path: String,
    pub(crate) need: Need,
    /// The first byte that is wanted.
    pub(crate) from: u64,
    /// Behind the last one; `None`: all of them.
    pub(crate) until: Option<u64>,
    /// Read to the end, at most so many bytes of this.
    pub(crate) small: Option<(&'static str, u64)>,
    /// What the bytes must hash to; a place that gives others is passed over.
    pub(crate) digest: Option<Digest>,
    /// Bytes of the whole.
    pub(crate) size: Option<u64>,
    /// Places that are not asked, by their numbers.
    pub(crate) without: Vec<usize>,
}

/// What came.
pub(crate) struct Reply {
    pub(crate) host: String,
    /// The place's number.
    pub(crate) place: usize,
    pub(crate) kind: String,
    /// For [`Ask::small`].
    pub(crate) bytes: Bytes,
    /// For the others.
    pub(crate) body: Option<Response>,
    /// The body's first byte: a place that knows no ranges begins at 0.
    pub(crate) from: u64,
}

impl Session {
    /// The places for something, with their numbers.
    pub(crate) fn places<'a>(
        &'a self,
        need: Need,
        without: &'a [usize],
    ) -> impl Iterator<Item = (usize, &'a Place)> {
        let places = self.inner.places.iter().enumerate();
        places.filter(move |(at, place)| need.of(&place.endpoint) && !without.contains(at))
    }

    /// Tries the places in order, and what did not work for a reason that passes once more after a while. What the host
    /// itself said is the answer, or else the last place; "not there" only when none went wrong in another way.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Reply, RegistryError> {
        let mut open: Vec<(usize, &Place)> = self.places(ask.need, &ask.without).collect();
        let mut settled = None;
        for round in 0.. {
            let (mut failures, mut again) = (Vec::new(), Vec::new());
            for (at, place) in open {
                match self.try_place(place, ask).await {
                    Ok(reply) => return Ok(Reply { place: at, ..reply }),
                    Err(error) => {
                        tracing::debug!(
                            endpoint = place.endpoint.base,
                            error = &error as &dyn std::error::Error,
                            "not from here"
                        );
                        if error.passes() {
                            again.push((at, place));
                        }
                        failures.push(error);
                    }
                }
            }
            let pause = retry::pause(round, &failures);
            for error in failures {
                let quieter = matches!(error, RegistryError::NotFound { .. }) && settled.is_some();
                if !quieter {
                    settled = Some(error);
                }
            }
            let Some(pause) = pause else { break };
            tokio::time::sleep(pause).await;
            open = again;
        }
        Err(settled.unwrap_or_else(|| RegistryError::Nowhere {
            host: self.inner.reference.host().to_owned(),
            need: ask.need.word(),
        }))
    }

    pub(crate) async fn try_place(&self, place: &Place, ask: &Ask) -> Result<Reply, RegistryError> {
        let mut url = self.url(place, &ask.path)?;
        if !place.endpoint.own {
            // Mirrors of several hosts tell by it whose image is meant (as containerd asks them).
            url.query_pairs_mut().append_pair("ns", self.inner.reference.host());
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        if ask.from > 0 || ask.until.is_some() {
            // Ranges name their last byte (RFC 9110, section 14.1.2).
            let last = ask.until.map(|until| until.saturating_sub(1).to_string()).unwrap_or_default();
            let range = HeaderValue::from_str(&format!("bytes={}-{last}", ask.from));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let (body, scope) = (Body::none(), self.pull_scope());
        let message = Message { method: Method::GET, url, headers, body, scope };
        let response = self.send(place, &message).await?;
        let mut response = self.good(place, response).await?;
        let host = place.endpoint.authority().to_owned();
        let text = |name: &reqwest::header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let kind = text(&CONTENT_TYPE);
        let claimed = response.headers().get("docker-content-digest");
        let claimed = claimed.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&CONTENT_RANGE);
                let start = range.strip_prefix("bytes ").and_then(|r| r.split('-').next()?.parse().ok());
                match start {
                    Some(start) if start <= ask.from => start,
                    _ => {
                        let problem = format!("it was asked for byte {} and sends {range:?}", ask.from);
                        return Err(self.malformed("a blob", &host, problem));
                    }
                }
            }
            _ => 0,
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let wanted = ask.until.filter(|_| partial).or(ask.size);
        if let (Some(wanted), Some(length), Some(digest)) = (wanted, response.content_length(), &ask.digest)
            && from.saturating_add(length) != wanted
        {
            let (digest, found) =
                (digest.clone(), format!("{} by its own account", from.saturating_add(length)));
            return Err(RegistryError::Size { host, digest, wanted, found });
        }
        let Some((what, limit)) = ask.small else {
            return Ok(Reply { host, place: 0, kind, bytes: Bytes::new(), body: Some(response), from });
        };
        let large = || RegistryError::Large { what, host: host.clone(), reference: self.name(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(large());
        }
        let mut bytes = Vec::new();
        loop {
            let piece = tokio::time::timeout(self.stall(), response.chunk()).await;
            let piece = piece.map_err(|_| self.stalled(place))?;
            match piece.map_err(|source| self.unreachable(place, source))? {
                None => break,
                Some(piece) => bytes.extend_from_slice(&piece),
            }
            if bytes.len() as u64 > limit {
                return Err(large());
            }
        }
        // What the registry says it is counts for a tag: cut or changed on its way it is not taken.
        let claimed = claimed.and_then(|text| text.parse::<Digest>().ok());
        let found = hash(&bytes);
        if let Some(wanted) = ask.digest.clone().or(claimed).filter(|wanted| *wanted != found) {
            return Err(RegistryError::Digest { what, reference: self.name(), wanted, found });
        }
        Ok(Reply { host, place: 0, kind, bytes: bytes.into(), body: None, from })
    }
}
