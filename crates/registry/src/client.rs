//! One request to a registry: places in order, redirects, authorization, and another round when it may help.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_ids::Digest;
use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::auth::{Challenge, basic, secret};
use crate::body::Body;
use crate::connect::{Connection, Connections};
use crate::docker_config::{self, Found};
use crate::hosts::{Endpoint, is_loopback, places};
use crate::manifest::ACCEPT as MANIFEST_TYPES;
use crate::token::{self, Key, Tokens};
use crate::{Credentials, Login, Reference, RegistryError, retry};

/// Redirects of one request.
const REDIRECTS: usize = 5;
/// Bytes of an error's body that are read for what it says.
const SAID_MAX: usize = 4096;

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
}

/// A request as it goes out.
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// What a token has to be good for (distribution spec, token authentication).
    pub(crate) scope: String,
}

/// What came.
pub(crate) struct Reply {
    pub(crate) host: String,
    pub(crate) kind: String,
    /// For [`Ask::small`].
    pub(crate) bytes: Bytes,
    /// For the others.
    pub(crate) body: Option<Response>,
    /// The body's first byte: a place that knows no ranges begins at 0.
    pub(crate) from: u64,
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

pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    retry::after(response.headers(), now)
}

/// What an error's body says (distribution spec, "Error Codes"), made fit for one line.
pub(crate) fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return String::new() };
    let Some(first) = body.errors.into_iter().next() else { return String::new() };
    let text = format!("{} {}", first.code.to_lowercase().replace('_', " "), first.message);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
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

    /// Tries the places in order, and what did not work for a reason that passes once more after a while. What the host
    /// itself said is the answer, or else the last place; "not there" only when none went wrong in another way.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Reply, RegistryError> {
        let places: Vec<&Place> =
            self.inner.places.iter().filter(|place| ask.need.of(&place.endpoint)).collect();
        let mut open: Vec<&Place> = places;
        let mut settled = None;
        for round in 0.. {
            let (mut failures, mut again) = (Vec::new(), Vec::new());
            for place in open {
                match self.try_place(place, ask).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => {
                        tracing::debug!(
                            endpoint = place.endpoint.base,
                            error = &error as &dyn std::error::Error,
                            "not from here"
                        );
                        if error.passes() {
                            again.push(place);
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
            return Ok(Reply { host, kind, bytes: Bytes::new(), body: Some(response), from });
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
        Ok(Reply { host, kind, bytes: bytes.into(), body: None, from })
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

    /// With the authorization that is known, and once more with what the registry asks for.
    pub(crate) async fn send(&self, place: &Place, message: &Message) -> Result<Response, RegistryError> {
        let given = self.given(place);
        let who = given.map(Credentials::fingerprint).unwrap_or_default();
        let key: Key = (place.endpoint.base.clone(), message.scope.clone(), who);
        let tokens = &self.inner.shared.tokens;
        let known = tokens.get(&key).or_else(|| self.beforehand(place));
        let first = self.follow(place, message, known.as_ref()).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        tokens.forget(&key);
        let (header, holds) = self.authorize(place, first.headers(), &key.1).await?;
        tokens.put(key.clone(), header.clone(), holds);
        let second = self.follow(place, message, Some(&header)).await?;
        if second.status() == StatusCode::UNAUTHORIZED {
            tokens.forget(&key);
        }
        Ok(second)
    }

    /// The request's own credentials, where they are for this place.
    fn given(&self, place: &Place) -> Option<&Credentials> {
        let host = self.inner.reference.host();
        let login = self.inner.login.as_ref()?;
        let belongs = place.endpoint.belongs_to(login.server.as_deref().unwrap_or(host), host);
        belongs.then_some(&login.credentials)
    }

    /// What is sent without being asked for.
    pub(crate) fn beforehand(&self, place: &Place) -> Option<HeaderValue> {
        match self.given(place) {
            Some(Credentials::Bearer { token }) => secret(&format!("Bearer {token}")),
            Some(_) => None,
            None => place.authorization.clone(),
        }
    }

    /// The credentials for a place that asks for some, and where they are from.
    pub(crate) async fn credentials(&self, place: &Place) -> Result<Option<Found>, RegistryError> {
        let reference = &self.inner.reference;
        let image_host = reference.host();
        if let Some(given) = self.given(place) {
            return Ok(Some(Found { credentials: given.clone(), source: "the request".to_owned() }));
        }
        let hosts = [place.endpoint.authority(), image_host];
        // The host's own names: its address, and what images call it.
        let hosts = if place.endpoint.own { &hosts[..] } else { &hosts[..1] };
        let files = &self.inner.shared.config.auth_files;
        if let Some(found) = docker_config::find(files, hosts, reference.repository()).await? {
            return Ok(Some(found));
        }
        let header = place.authorization.as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default();
        let credentials = match header.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => Credentials::from_basic(rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => {
                Some(Credentials::Bearer { token: rest.trim().to_owned() })
            }
            _ => None,
        };
        let file = self.inner.file.as_ref().map_or("hosts.toml".into(), |path| path.display().to_string());
        Ok(credentials.map(|credentials| Found { credentials, source: format!("header in {file}") }))
    }

    /// The header that answers a 401 with these headers, and how long it holds.
    pub(crate) async fn authorize(
        &self,
        place: &Place,
        headers: &HeaderMap,
        scope: &str,
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let refused = |why: &str| RegistryError::Refused {
            host: place.endpoint.authority().to_owned(),
            reference: self.name(),
            why: why.to_owned(),
        };
        let challenge = Challenge::of(headers)
            .ok_or_else(|| refused("it wants an authentication that Berth does not know"))?;
        let found = self.credentials(place).await?.map(|found| found.credentials);
        match (challenge, found) {
            (_, Some(Credentials::Bearer { .. })) => Err(refused("the registry token is not accepted")),
            (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                let header = basic(&username, &password)
                    .ok_or_else(|| refused("the user or password is none for a header"))?;
                Ok((header, token::password_holds()))
            }
            (Challenge::Basic, Some(Credentials::Identity { .. })) => {
                Err(refused("it wants a password, and an identity token was given"))
            }
            (Challenge::Basic, None) => Err(refused("it wants credentials, and none were given")),
            (Challenge::Bearer { realm, service, scope: wanted, error: _ }, found) => {
                let request = token::Request {
                    realm: &realm,
                    service: &service,
                    scope: &token::scope(scope, &wanted),
                    credentials: found.as_ref(),
                    reference: &self.name(),
                    stall: self.stall(),
                };
                token::fetch(place, &request).await
            }
        }
    }

    /// Follows redirects. Once one leaves the place, nothing that belongs to it goes along: no credentials, no headers
    /// of hosts.toml, no client certificate.
    pub(crate) async fn follow(
        &self,
        place: &Place,
        message: &Message,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let problem = |problem: String| RegistryError::Redirect {
            host: place.endpoint.authority().to_owned(),
            reference: self.name(),
            problem,
        };
        let (mut url, mut at_home) = (message.url.clone(), true);
        for _ in 0..=REDIRECTS {
            let client = if at_home { &place.connection.own } else { &place.connection.stranger };
            let mut request = client.request(message.method.clone(), url.clone());
            request = request.headers(message.headers.clone());
            if at_home {
                request = request.headers(place.headers.clone());
                if let Some(header) = authorization {
                    request = request.header(AUTHORIZATION, header);
                }
            }
            let sending = message.body.attach(request).send();
            let response = self.patiently(place, &message.body, sending).await?;
            let response = response.map_err(|source| self.unreachable(place, source))?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            if !message.method.is_safe() && !matches!(status, 307 | 308) {
                return Err(problem(format!("with {status}, after which nothing can be sent")));
            }
            let to = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let to = to.ok_or_else(|| problem("it does not say where to".into()))?;
            let next = url.join(to).map_err(|_| problem("where to is no address".into()))?;
            check_redirect(&url, &next).map_err(problem)?;
            at_home = at_home && url.origin() == next.origin();
            url = next;
        }
        Err(problem(format!("more than {REDIRECTS} times")))
    }

    /// Waits for as long as something moves.
    async fn patiently<T>(
        &self,
        place: &Place,
        body: &Body,
        sending: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        tokio::pin!(sending);
        let mut gone = body.gone();
        loop {
            match tokio::time::timeout(self.stall(), &mut sending).await {
                Ok(sent) => return Ok(sent),
                Err(_) if body.gone() > gone => gone = body.gone(),
                Err(_) => return Err(self.stalled(place)),
            }
        }
    }

    /// The answer, when it is a good one.
    pub(crate) async fn good(&self, place: &Place, response: Response) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (host, reference) = (place.endpoint.authority().to_owned(), self.name());
        let after = retry_after(&response);
        let limits = limits(response.headers());
        let said = match tokio::time::timeout(self.stall(), beginning(response)).await {
            Ok(bytes) => said(&bytes),
            Err(_) => String::new(),
        };
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, reference, said },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = match self.credentials(place).await? {
                    Some(found) => {
                        format!("the credentials are not accepted{said}; they are from {}", found.source)
                    }
                    None => format!("it wants credentials, and none were given{said}"),
                };
                RegistryError::Refused { host, reference, why }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let asks = after.map(|after| format!("; it asks to wait {} s", after.as_secs()));
                let said = format!("{said}{}{}", asks.unwrap_or_default(), limits.unwrap_or_default());
                RegistryError::Limited { host, reference, said, after }
            }
            status => RegistryError::Status { host, reference, status: status.as_u16(), said, after },
        })
    }
}

/// Docker Hub's words for a limit: `100;w=21600` is a hundred in six hours.
fn limits(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok().filter(|text| text.len() < 64);
    let limit = text("ratelimit-limit")?;
    let readable = match limit.split_once(";w=").map(|(count, window)| (count, window.parse::<u64>())) {
        Some((count, Ok(seconds))) => format!("{count} pulls in {} min", seconds / 60),
        _ => limit.to_owned(),
    };
    Some(format!("; its limit is {readable}, more with credentials"))
}

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() > SAID_MAX {
            break;
        }
    }
    bytes
}

/// Down to plain HTTP only on this machine, or where the place itself is asked that way.
fn check_redirect(from: &Url, to: &Url) -> Result<(), String> {
    let near = is_loopback(&address_of(to)) || (from.scheme() == "http" && from.host_str() == to.host_str());
    match to.scheme() {
        _ if !to.username().is_empty() || to.password().is_some() => {
            Err("the address has a user in it".into())
        }
        "https" => Ok(()),
        "http" if near => Ok(()),
        "http" => Err(format!("to http://{}, which is without TLS", address_of(to))),
        other => Err(format!("to an address of scheme {:?}", other.chars().take(20).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let check =
            |from: &str, to: &str| check_redirect(&from.parse().unwrap(), &to.parse().unwrap()).is_ok();
        for (from, to, expected) in [
            ("https://r.io/v2/", "https://cdn.io/x", true),
            ("https://r.io/v2/", "http://cdn.io/x", false),
            ("https://r.io/v2/", "http://r.io/x", false),
            ("https://r.io/v2/", "http://127.0.0.1:5/x", true),
            ("http://r.io/v2/", "http://r.io/x", true),
            ("http://r.io/v2/", "http://other.io/x", false),
            ("https://r.io/v2/", "ftp://r.io/x", false),
            ("https://r.io/v2/", "https://user:word@r.io/x", false),
        ] {
            assert_eq!(check(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn what_a_registry_says_is_one_line() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\nsuch tag"}]}"#;
        assert_eq!(said(body), " (manifest unknown no such tag)");
        assert_eq!(said(b"<html>"), "");
        assert_eq!(said(br#"{"errors":[]}"#), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert!(said(long.as_bytes()).len() < 320);
    }

    #[test]
    fn a_limit_is_readable() {
        let mut headers = HeaderMap::new();
        assert_eq!(limits(&headers), None);
        headers.insert("ratelimit-limit", HeaderValue::from_static("100;w=21600"));
        assert_eq!(limits(&headers).unwrap(), "; its limit is 100 pulls in 360 min, more with credentials");
    }
}
