//! Connections to a place, with its certificates; and the proxy that leads there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::Url;

use crate::RegistryError;
use crate::client::address_of;
use crate::hosts::{Endpoint, is_loopback};

const CONNECT: Duration = Duration::from_secs(30);
/// Bytes of a PEM file.
const PEM_MAX: u64 = 1024 * 1024;
/// Kept ready; settings that changed leave old ones behind.
const KEPT: usize = 64;

/// For one place: what asks it, and what goes where it redirects to.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) own: reqwest::Client,
    /// Other ports of the place's host: without the client's certificate.
    near: reqwest::Client,
    /// The host's name.
    name: String,
    strangers: Strangers,
}

impl Connection {
    /// To an address that the place names. That it is not verified holds for its own host alone; its authorities hold: who runs
    /// a registry with one of their own has its token service under it too, often by another name.
    pub(crate) fn away(&self, to: &Url) -> &reqwest::Client {
        match to.host_str() {
            Some(name) if name == self.name => &self.near,
            _ if is_loopback(&address_of(to)) => &self.strangers.here,
            _ => &self.strangers.far,
        }
    }
}

/// What goes to hosts that no file says anything about.
#[derive(Debug, Clone)]
struct Strangers {
    far: reqwest::Client,
    /// On this machine: through no proxy.
    here: reqwest::Client,
}

/// Connections by everything that they are made from, the files' times included.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    known: Mutex<HashMap<String, Connection>>,
    strangers: OnceLock<Strangers>,
}

impl Connections {
    /// Blocks: certificates are read.
    pub(crate) fn to(&self, place: &Endpoint) -> Result<Connection, RegistryError> {
        let key = key(place);
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let own = made(settled(place, true)?, place)?;
        let near = if place.client.is_some() { made(settled(place, false)?, place)? } else { own.clone() };
        let name = Url::parse(&place.base).ok().and_then(|url| Some(url.host_str()?.to_owned()));
        let name = name.unwrap_or_default();
        let strangers = if place.ca.is_empty() { self.strangers(place)? } else { strangers(place)? };
        let made = Connection { own, near, name, strangers };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, made.clone());
        Ok(made)
    }

    /// The same for all places without authorities of their own; `place` is named where they cannot be made.
    fn strangers(&self, place: &Endpoint) -> Result<Strangers, RegistryError> {
        match self.strangers.get() {
            Some(known) => Ok(known.clone()),
            None => {
                let made = strangers(place)?;
                Ok(self.strangers.get_or_init(|| made).clone())
            }
        }
    }
}

fn strangers(place: &Endpoint) -> Result<Strangers, RegistryError> {
    let plain = || trusting(plain().connect_timeout(CONNECT), place);
    Ok(Strangers { far: made(plain()?, place)?, here: made(plain()?.no_proxy(), place)? })
}

fn key(place: &Endpoint) -> String {
    let changed = |path: &Path| {
        let seen = std::fs::metadata(path).and_then(|data| Ok((data.modified()?, data.len())));
        seen.unwrap_or((SystemTime::UNIX_EPOCH, 0))
    };
    let client =
        place.client.iter().flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]).flatten();
    let files: Vec<_> = place.ca.iter().chain(client).map(|path| (path, changed(path))).collect();
    format!("{} {} {:?} {files:?}", place.base, place.skip_verify, place.dial_timeout)
}

fn pem(path: &PathBuf) -> Result<Vec<u8>, RegistryError> {
    use std::io::Read as _;
    let fail =
        |error: std::io::Error| RegistryError::Hosts { path: path.clone(), problem: error.to_string() };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(fail)?.take(PEM_MAX).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn made(builder: reqwest::ClientBuilder, place: &Endpoint) -> Result<reqwest::Client, RegistryError> {
    let tls = |source: reqwest::Error| RegistryError::Tls { host: place.authority().to_owned(), source };
    builder.build().map_err(tls)
}

/// Redirects are followed by `client/send.rs`, which knows what may go along.
fn plain() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
}

/// With what the place's files say of it.
fn settled(place: &Endpoint, with_client: bool) -> Result<reqwest::ClientBuilder, RegistryError> {
    let mut builder = plain()
        .connect_timeout(place.dial_timeout.unwrap_or(CONNECT))
        .tls_danger_accept_invalid_certs(place.skip_verify);
    // As Go has it, and everybody expects: this machine is not asked for through a proxy.
    if is_loopback(place.authority()) {
        builder = builder.no_proxy();
    }
    builder = trusting(builder, place)?;
    if let Some((certificate, key)) = place.client.as_ref().filter(|_| with_client) {
        let mut both = pem(certificate)?;
        if let Some(key) = key {
            both.push(b'\n');
            both.extend(pem(key)?);
        }
        let identity = reqwest::Identity::from_pem(&both).map_err(|_| RegistryError::Hosts {
            path: certificate.clone(),
            problem: "it and its key are no client certificate in PEM".into(),
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

/// With the place's authorities beside those of the machine.
fn trusting(
    mut builder: reqwest::ClientBuilder,
    place: &Endpoint,
) -> Result<reqwest::ClientBuilder, RegistryError> {
    for path in &place.ca {
        let none = |problem: &str| RegistryError::Hosts { path: path.clone(), problem: problem.into() };
        let found = reqwest::Certificate::from_pem_bundle(&pem(path)?)
            .map_err(|_| none("it is no certificate in PEM"))?;
        if found.is_empty() {
            return Err(none("it has no certificate in PEM"));
        }
        builder = found.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    Ok(builder)
}

/// The proxy that the environment names for an address, without its password.
pub(crate) fn proxy(url: &Url) -> Option<Url> {
    if is_loopback(&address_of(url)) {
        return None;
    }
    let address = url.as_str().parse().ok()?;
    let found = hyper_util::client::proxy::matcher::Matcher::from_env().intercept(&address)?;
    found.uri().to_string().parse().ok()
}
