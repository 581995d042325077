//! What a pull would do, for a person who wonders: every place in order, with what it is asked with, and each step tried.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_ids::chain;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::RegistryError;
use crate::auth::Challenge;
use crate::body::Body;
use crate::client::{Message, Need, Place, Session, address_of};
use crate::connect::proxy;
use crate::manifest::ACCEPT as MANIFEST_TYPES;

/// Of one step: a person waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;

/// A reference and its places. It holds no secret.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    pub reference: String,
    /// What says where to ask, where there is one.
    pub file: Option<PathBuf>,
    /// Keys in it that mean nothing here.
    pub unknown: Vec<String>,
    pub places: Vec<ExplainedPlace>,
    /// Whether a pull would get the image's manifest and config.
    pub works: bool,
    /// What it would get, or why it would fail.
    pub says: String,
}

/// One place; what is asked and answered here is what a pull would see.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedPlace {
    pub endpoint: String,
    /// A mirror, or the registry itself.
    pub mirror: bool,
    /// What it may be asked for: pull, resolve, push.
    pub capabilities: Vec<String>,
    pub tls: String,
    pub proxy: Option<String>,
    /// Their kind and where they are from; never the secret.
    pub credentials: String,
    /// Up to the first that fails; none for a place that is not asked.
    pub steps: Vec<Step>,
}

/// One thing that has to work.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// `dns`, `connect`, `tls`, `auth` or `manifest`.
    pub name: String,
    pub ok: bool,
    pub says: String,
    pub milliseconds: u64,
}

/// The steps of one place, timed.
struct Steps {
    done: Vec<Step>,
    begin: Instant,
}

impl Steps {
    fn ok(&mut self, name: &str, says: impl Display) {
        self.push(name, true, says);
    }

    fn failed(&mut self, name: &str, says: impl Display) {
        self.push(name, false, says);
    }

    fn push(&mut self, name: &str, ok: bool, says: impl Display) {
        let milliseconds = self.begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.done.push(Step { name: name.to_owned(), ok, says: says.to_string(), milliseconds });
        self.begin = Instant::now();
    }
}

impl Session {
    /// Asks every place that a pull would ask, even after one that has the image, and at last as a pull does.
    pub async fn explain(&self) -> Explanation {
        let mut places = Vec::new();
        for place in &self.inner.places {
            places.push(self.explain_place(place).await);
        }
        let (works, says) = match self.resolve(None).await {
            Ok(resolved) => {
                let layers = &resolved.manifest.layers;
                let bytes: u64 = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
                let megabytes = bytes as f64 / 1e6;
                let count = layers.len();
                (true, format!("{} of {count} layers, {megabytes:.1} MB", resolved.manifest.digest))
            }
            Err(error) => (false, chain(&error)),
        };
        let (file, unknown) = (self.inner.file.clone(), self.inner.unknown.clone());
        Explanation { reference: self.name(), file, unknown, places, works, says }
    }

    async fn explain_place(&self, place: &Place) -> ExplainedPlace {
        let endpoint = &place.endpoint;
        let can = [("pull", endpoint.pull), ("resolve", endpoint.resolve), ("push", endpoint.push)];
        let capabilities = can.into_iter().filter(|(_, can)| *can).map(|(word, _)| word.to_owned()).collect();
        let credentials = match self.credentials(place).await {
            Ok(None) => "none".to_owned(),
            Ok(Some(found)) => format!("{} from {}", found.credentials.kind(), found.source),
            Err(error) => chain(&error),
        };
        let need = if self.inner.reference.digest().is_some() { Need::Pull } else { Need::Resolve };
        let through = endpoint.base.parse().ok().and_then(|url| proxy(&url));
        let mut steps = Steps { done: Vec::new(), begin: Instant::now() };
        if need.of(endpoint) {
            // The first that fails has said why.
            let _ = self.try_steps(place, through.as_ref(), &mut steps).await;
        }
        ExplainedPlace {
            endpoint: endpoint.base.clone(),
            mirror: !endpoint.own,
            capabilities,
            tls: tls(place),
            proxy: through.map(|url| url.to_string()),
            credentials,
            steps: steps.done,
        }
    }

    /// `None`: the last step failed.
    async fn try_steps(&self, place: &Place, through: Option<&Url>, steps: &mut Steps) -> Option<()> {
        let wanted = self.inner.reference.wanted();
        let url = match self.url(place, &format!("manifests/{wanted}")) {
            Ok(url) => url,
            Err(error) => {
                steps.failed("dns", chain(&error));
                return None;
            }
        };
        let addresses = look_up(through.unwrap_or(&url), steps).await?;
        connect(&addresses, steps).await?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let (body, scope) = (Body::none(), self.pull_scope());
        let mut message = Message { method: Method::HEAD, url, headers, body, scope };
        if !place.endpoint.own {
            message.url.query_pairs_mut().append_pair("ns", self.inner.reference.host());
        }
        let answer = self.first(place, &message, steps).await?;
        let answer = self.authorized(place, &message, answer, steps).await?;
        match self.good(place, answer).await {
            Err(error) => {
                steps.failed("manifest", chain(&error));
                None
            }
            Ok(answer) => {
                let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
                let digest = text("docker-content-digest").unwrap_or("without a digest");
                steps.ok("manifest", format!("{digest} {}", text("content-type").unwrap_or_default()));
                Some(())
            }
        }
    }

    /// The first request: with it TLS works or does not.
    async fn first(&self, place: &Place, message: &Message, steps: &mut Steps) -> Option<Response> {
        let secure = message.url.scheme() == "https";
        let header = self.beforehand(place);
        let sent = tokio::time::timeout(PATIENCE, self.follow(place, message, header.as_ref()));
        let name = |error: &RegistryError| match error {
            RegistryError::Unreachable { source, .. } if secure && source.is_connect() => "tls",
            _ => "manifest",
        };
        match sent.await {
            Err(_) => {
                let says = format!("no answer within {} s", PATIENCE.as_secs());
                steps.failed(if secure { "tls" } else { "manifest" }, says);
                None
            }
            Ok(Err(error)) => {
                steps.failed(name(&error), chain(&error));
                None
            }
            Ok(Ok(answer)) => {
                if secure {
                    steps.ok("tls", tls(place));
                }
                Some(answer)
            }
        }
    }

    /// What it asks for is given.
    async fn authorized(
        &self,
        place: &Place,
        message: &Message,
        answer: Response,
        steps: &mut Steps,
    ) -> Option<Response> {
        if answer.status() != StatusCode::UNAUTHORIZED {
            steps.ok("auth", "none is asked for");
            return Some(answer);
        }
        let asks = match Challenge::of(answer.headers()) {
            Some(Challenge::Basic) => "user and password".to_owned(),
            Some(Challenge::Bearer { realm, .. }) => format!("a token of {}", shown(&realm)),
            None => "something unknown".to_owned(),
        };
        let given = match self.authorize(place, answer.headers(), &message.scope).await {
            Ok((header, _)) => self.follow(place, message, Some(&header)).await,
            Err(error) => Err(error),
        };
        match given {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                steps.failed("auth", format!("it asks for {asks}, and does not accept what it was given"));
                None
            }
            Ok(answer) => {
                steps.ok("auth", format!("it asked for {asks}"));
                Some(answer)
            }
            Err(error) => {
                steps.failed("auth", format!("it asks for {asks}: {}", chain(&error)));
                None
            }
        }
    }
}

async fn look_up(url: &Url, steps: &mut Steps) -> Option<Vec<SocketAddr>> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    if let Ok(address) = host.parse() {
        steps.ok("dns", format!("{host} is an address"));
        return Some(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Err(_) => {
            steps.failed("dns", format!("{host}: no answer within {} s", PATIENCE.as_secs()));
            return None;
        }
        Ok(Err(error)) => {
            steps.failed("dns", format!("{host}: {error}"));
            return None;
        }
        Ok(Ok(found)) => found.take(ADDRESSES).collect(),
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    steps.ok("dns", format!("{host} is {}", shown.join(", ")));
    Some(addresses)
}

async fn connect(addresses: &[SocketAddr], steps: &mut Steps) -> Option<()> {
    let mut refused = Vec::new();
    for address in addresses {
        match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                steps.ok("connect", address);
                return Some(());
            }
            Ok(Err(error)) => refused.push(format!("{address}: {error}")),
            Err(_) => refused.push(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
        }
    }
    steps.failed("connect", refused.join("; "));
    None
}

/// An address without what may be a secret in it.
fn shown(realm: &str) -> String {
    Url::parse(realm).map_or_else(|_| "no address".into(), |url| address_of(&url))
}

fn tls(place: &Place) -> String {
    let endpoint = &place.endpoint;
    if endpoint.base.starts_with("http://") {
        return "none, plain HTTP".into();
    }
    let mut parts = vec![match endpoint.skip_verify {
        true => "the certificate is not verified (skip_verify)".to_owned(),
        false => "the certificate is verified".to_owned(),
    }];
    parts.extend(endpoint.ca.iter().map(|path| format!("also by {}", path.display())));
    let client = endpoint.client.iter();
    parts.extend(client.map(|(path, _)| format!("client certificate {}", path.display())));
    parts.join(", ")
}
