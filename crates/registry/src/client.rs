//! Registries as one reference sees them: places in order, connections, and who asks.

mod answer;
mod ask;
mod authorize;
mod send;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_ids::Digest;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

pub(crate) use answer::{retry_after, said};
pub(crate) use ask::{Ask, Need};
pub(crate) use send::Message;

use crate::auth::secret;
use crate::connect::{Connection, Connections};
use crate::hosts::{Endpoint, places};
use crate::token::Tokens;
use crate::{Login, Reference, RegistryError};

/// Where registries' settings are, and how patient the client is.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Directories with a directory for each host, looked at in order and anew for each pull.
    pub certs_d: Vec<PathBuf>,
    /// Files in the form of docker's config.json, in order, read when a registry asks for credentials.
    pub auth_files: Vec<PathBuf>,
    /// Without a byte for this long a transfer is dead.
    pub stall: Duration,
}

/// Fetches from registries and sends to them. Clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    connections: Connections,
    tokens: Tokens,
}

/// One place with its connection.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    /// Of hosts.toml, without Authorization.
    headers: HeaderMap,
    /// hosts.toml's Authorization.
    authorization: Option<HeaderValue>,
}

/// Everything about one reference: its places as the files say at this moment, and who asks. Clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reference: Reference,
    pub(crate) login: Option<Login>,
    pub(crate) places: Vec<Place>,
    /// Of hosts.toml, for a person.
    pub(crate) file: Option<PathBuf>,
    /// Its keys that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

impl Client {
    pub fn new(config: ClientConfig) -> Self {
        // One provider for the process; a second call finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shared = Shared { config, connections: Connections::default(), tokens: Tokens::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Reads what the files say about the reference's host.
    pub async fn session(
        &self,
        reference: &Reference,
        login: Option<Login>,
    ) -> Result<Session, RegistryError> {
        let (shared, reference) = (self.shared.clone(), reference.clone());
        let host = reference.host().to_owned();
        let made = tokio::task::spawn_blocking(move || {
            let found = places(&shared.config.certs_d, reference.host())?;
            for key in &found.unknown {
                tracing::warn!(file = ?found.file, key, "means nothing here");
            }
            let place = |endpoint: Endpoint| {
                let connection = shared.connections.to(&endpoint)?;
                let (headers, authorization) = headers(&endpoint);
                Ok::<_, RegistryError>(Place { endpoint, connection, headers, authorization })
            };
            let places = found.endpoints.into_iter().map(place).collect::<Result<_, _>>()?;
            let (file, unknown) = (found.file, found.unknown);
            Ok(Session { inner: Arc::new(Inner { shared, reference, login, places, file, unknown }) })
        });
        let lost = |_| Err(RegistryError::Nowhere { host, need: "be asked" });
        made.await.unwrap_or_else(lost)
    }
}

fn headers(endpoint: &Endpoint) -> (HeaderMap, Option<HeaderValue>) {
    let (mut headers, mut authorization) = (HeaderMap::new(), None);
    for (name, value) in &endpoint.header {
        // Checked when the file was read.
        let Ok(name) = name.parse::<reqwest::header::HeaderName>() else { continue };
        let Some(value) = secret(value) else { continue };
        if name == AUTHORIZATION {
            authorization = Some(value);
        } else {
            headers.append(name, value);
        }
    }
    (headers, authorization)
}

pub(crate) fn hash(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Host and port of an address; never its user.
pub(crate) fn address_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Session {
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    pub(crate) fn name(&self) -> String {
        self.inner.reference.to_string()
    }

    pub(crate) fn stall(&self) -> Duration {
        self.inner.shared.config.stall
    }

    pub(crate) fn stalled(&self, place: &Place) -> RegistryError {
        RegistryError::Stalled {
            host: place.endpoint.authority().to_owned(),
            seconds: self.stall().as_secs(),
        }
    }

    pub(crate) fn url(&self, place: &Place, path: &str) -> Result<Url, RegistryError> {
        let text = format!("{}/{}/{path}", place.endpoint.base, self.inner.reference.repository());
        Url::parse(&text)
            .map_err(|error| self.malformed("the address", place.endpoint.authority(), error.to_string()))
    }

    pub(crate) fn malformed(&self, what: &'static str, host: &str, problem: String) -> RegistryError {
        RegistryError::Malformed { what, host: host.to_owned(), reference: self.name(), problem }
    }

    pub(crate) fn unreachable(&self, place: &Place, source: reqwest::Error) -> RegistryError {
        let (host, reference) = (place.endpoint.authority().to_owned(), self.name());
        // Addresses that a redirect gave may hold a signature.
        RegistryError::Unreachable { host, reference, source: source.without_url() }
    }

    pub(crate) fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.inner.reference.repository())
    }
}
