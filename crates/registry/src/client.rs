use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_ids::Digest;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::auth::{Challenge, Token};
use crate::hosts::{Endpoint, endpoints};
use crate::manifest::{Parsed, host_platform};
use crate::{Credentials, Manifest, Reference, RegistryError};

/// Distribution spec: manifests are at most 4 MiB.
const MANIFEST_MAX: u64 = 4 * 1024 * 1024;
/// A config names layers and history; real ones are a few KiB.
const CONFIG_MAX: u64 = 8 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(30);
/// Without a byte for this long a transfer is dead.
const STALL: Duration = Duration::from_secs(60);
/// Indexes in indexes.
const NESTED: usize = 4;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Fetches from registries. Clones are cheap and share connections and tokens.
#[derive(Debug)]
pub struct Client {
    certs_d: Vec<PathBuf>,
    connections: Mutex<HashMap<String, reqwest::Client>>,
    /// Authorization headers by (endpoint, repository, user): each goes where it was asked for, nowhere else.
    tokens: Mutex<HashMap<(String, String, String), HeaderValue>>,
}

/// A blob on its way.
#[derive(Debug)]
pub struct Blob {
    response: Response,
    host: String,
}

impl Blob {
    /// The next piece; `None` at the end. Nothing is verified here: whoever reads it hashes it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match tokio::time::timeout(STALL, self.response.chunk()).await {
            Err(_) => Err(RegistryError::Stalled { host: self.host.clone(), seconds: STALL.as_secs() }),
            Ok(piece) => piece.map_err(|source| RegistryError::Unreachable {
                host: self.host.clone(),
                reference: "a blob".into(),
                source,
            }),
        }
    }
}

impl Client {
    /// `certs_d`: directories with a directory for each host, looked at in order and anew for each pull.
    pub fn new(certs_d: Vec<PathBuf>) -> Self {
        // One provider for the process; a second call finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { certs_d, connections: Mutex::default(), tokens: Mutex::default() }
    }

    /// The manifest for this platform and the config it names, both checked.
    pub async fn resolve(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<(Manifest, Digest, Bytes), RegistryError> {
        let mut wanted = reference.wanted();
        let mut top = None;
        for _ in 0..NESTED {
            let path = format!("manifests/{wanted}");
            let (endpoint, bytes) =
                self.small(reference, credentials, &path, "the manifest", MANIFEST_MAX).await?;
            let digest = hash(&bytes);
            if let Ok(expected) = wanted.parse::<Digest>() {
                verify("the manifest", reference, expected, &digest)?;
            }
            let malformed = |problem| RegistryError::Malformed {
                what: "the manifest",
                host: endpoint.clone(),
                reference: reference.to_string(),
                problem,
            };
            let named = top.get_or_insert_with(|| digest.clone()).clone();
            match Manifest::parse(&bytes, digest).map_err(malformed)? {
                Parsed::Manifest(manifest) => {
                    let path = format!("blobs/{}", manifest.config);
                    let (_, config) =
                        self.small(reference, credentials, &path, "the config", CONFIG_MAX).await?;
                    verify("the config", reference, manifest.config.clone(), &hash(&config))?;
                    return Ok((manifest, named, config));
                }
                Parsed::Index(Some(next)) => wanted = next.to_string(),
                Parsed::Index(None) => {
                    let (os, architecture) = host_platform();
                    let platform = format!("{os}/{architecture}");
                    return Err(RegistryError::Platform { reference: reference.to_string(), platform });
                }
            }
        }
        Err(RegistryError::Malformed {
            what: "the index",
            host: reference.host().to_owned(),
            reference: reference.to_string(),
            problem: format!("indexes are nested deeper than {NESTED}"),
        })
    }

    /// A layer's bytes as they come.
    pub async fn blob(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        digest: &Digest,
    ) -> Result<Blob, RegistryError> {
        let (host, response) = self.get(reference, credentials, &format!("blobs/{digest}")).await?;
        Ok(Blob { response, host })
    }

    async fn small(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        path: &str,
        what: &'static str,
        limit: u64,
    ) -> Result<(String, Bytes), RegistryError> {
        let (host, response) = self.get(reference, credentials, path).await?;
        let large =
            || RegistryError::Large { what, host: host.clone(), reference: reference.to_string(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(large());
        }
        let mut blob = Blob { response, host: host.clone() };
        let mut bytes = Vec::new();
        while let Some(piece) = blob.chunk().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit {
                return Err(large());
            }
        }
        Ok((host, bytes.into()))
    }

    /// Tries the places in order; what the last one said is the answer, "not there" only when no other went wrong.
    async fn get(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        path: &str,
    ) -> Result<(String, Response), RegistryError> {
        let places = endpoints(&self.certs_d, reference.host())?;
        let mut last = None;
        for place in &places {
            match self.ask(place, reference, credentials, path).await {
                Ok(response) => return Ok((place.base.clone(), response)),
                Err(error) => {
                    tracing::debug!(
                        endpoint = place.base,
                        error = &error as &dyn std::error::Error,
                        "not from here"
                    );
                    let quieter = matches!(error, RegistryError::NotFound { .. }) && last.is_some();
                    if !quieter {
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::NotFound {
            host: reference.host().to_owned(),
            reference: reference.to_string(),
        }))
    }

    async fn ask(
        &self,
        place: &Endpoint,
        reference: &Reference,
        credentials: Option<&Credentials>,
        path: &str,
    ) -> Result<Response, RegistryError> {
        let url = format!("{}/{}/{path}", place.base, reference.repository());
        let user = credentials.map(|c| c.username.clone()).unwrap_or_default();
        let key = (place.base.clone(), reference.repository().to_owned(), user);
        let connection = self.connection(place)?;
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let response = send(&connection, &url, known.as_ref(), place, reference).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            let header = authorize(&connection, &response, place, reference, credentials).await?;
            self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(key, header.clone());
            send(&connection, &url, Some(&header), place, reference).await?
        } else {
            response
        };
        let (host, name) = (place.base.clone(), reference.to_string());
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound { host, reference: name }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = if credentials.is_some() {
                    "the credentials are not accepted"
                } else {
                    "it wants credentials, and none were given"
                };
                Err(RegistryError::Refused { host, reference: name, why })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let why = "too many requests; it limits how much one address may pull";
                Err(RegistryError::Refused { host, reference: name, why })
            }
            status => Err(RegistryError::Status { host, reference: name, status: status.as_u16() }),
        }
    }

    fn connection(&self, place: &Endpoint) -> Result<reqwest::Client, RegistryError> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connections.get(&place.base) {
            return Ok(known.clone());
        }
        let tls = |source| RegistryError::Tls { host: place.base.clone(), source };
        // Redirects stay few; reqwest drops the Authorization header when one leaves the host.
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::limited(5))
            .tls_danger_accept_invalid_certs(place.skip_verify);
        for path in &place.ca {
            let fail = |problem: String| RegistryError::Hosts { path: path.clone(), problem };
            let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
            for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(tls)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let made = builder.build().map_err(tls)?;
        connections.insert(place.base.clone(), made.clone());
        Ok(made)
    }
}

async fn send(
    connection: &reqwest::Client,
    url: &str,
    authorization: Option<&HeaderValue>,
    place: &Endpoint,
    reference: &Reference,
) -> Result<Response, RegistryError> {
    let mut request = connection.get(url).header(ACCEPT, MANIFEST_TYPES);
    if let Some(header) = authorization {
        request = request.header(AUTHORIZATION, header);
    }
    let unreachable = |source| RegistryError::Unreachable {
        host: place.base.clone(),
        reference: reference.to_string(),
        source,
    };
    match tokio::time::timeout(STALL, request.send()).await {
        Ok(sent) => sent.map_err(unreachable),
        Err(_) => Err(RegistryError::Stalled { host: place.base.clone(), seconds: STALL.as_secs() }),
    }
}

/// The header that answers a 401.
async fn authorize(
    connection: &reqwest::Client,
    response: &Response,
    place: &Endpoint,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<HeaderValue, RegistryError> {
    let refused =
        |why| RegistryError::Refused { host: place.base.clone(), reference: reference.to_string(), why };
    let secret = |text: String| {
        let mut header = HeaderValue::from_str(&text).map_err(|_| refused("its token is no header text"))?;
        header.set_sensitive(true);
        Ok::<_, RegistryError>(header)
    };
    let basic = |c: &Credentials| {
        secret(format!("Basic {}", STANDARD.encode(format!("{}:{}", c.username, c.password))))
    };
    let asked = response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|h| Challenge::parse(h.to_str().ok()?))
        .next();
    match (asked, credentials) {
        (Some(Challenge::Basic), Some(credentials)) => basic(credentials),
        (Some(Challenge::Basic), None) => Err(refused("it wants credentials, and none were given")),
        (None, _) => Err(refused("it wants an authentication that Berth does not know")),
        (Some(Challenge::Bearer { realm, service, scope }), credentials) => {
            let scope = match scope.is_empty() {
                true => format!("repository:{}:pull", reference.repository()),
                false => scope,
            };
            let query = [("service", service.as_str()), ("scope", scope.as_str())];
            let address = reqwest::Url::parse_with_params(&realm, query);
            let address = address.map_err(|_| refused("its token address is no address"))?;
            let mut request = connection.get(address);
            if let Some(credentials) = credentials {
                request = request.header(AUTHORIZATION, basic(credentials)?);
            }
            let unreachable = |source| RegistryError::Unreachable {
                host: realm.clone(),
                reference: reference.to_string(),
                source,
            };
            let mut answer = request.timeout(STALL).send().await.map_err(unreachable)?;
            if !answer.status().is_success() {
                return Err(refused("its token server refuses the credentials"));
            }
            let mut bytes = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() > 1024 * 1024 {
                    return Err(refused("its token is larger than 1 MiB"));
                }
            }
            let token: Option<String> =
                serde_json::from_slice::<Token>(&bytes).ok().and_then(Token::into_text);
            secret(format!("Bearer {}", token.ok_or_else(|| refused("its token server gave no token"))?))
        }
    }
}

fn hash(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn verify(
    what: &'static str,
    reference: &Reference,
    wanted: Digest,
    found: &Digest,
) -> Result<(), RegistryError> {
    match wanted == *found {
        true => Ok(()),
        false => Err(RegistryError::Digest {
            what,
            reference: reference.to_string(),
            wanted,
            found: found.clone(),
        }),
    }
}
