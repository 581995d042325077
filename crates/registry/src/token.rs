//! Tokens: asked of the service that a challenge names, kept while they hold.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::auth::{basic, secret};
use crate::client::{Place, address_of, said};
use crate::hosts::is_loopback;
use crate::{Credentials, RegistryError};

/// Bytes of a token service's answer.
const ANSWER_MAX: usize = 1024 * 1024;
/// Where the service does not say (distribution spec, token authentication).
const HOLDS: Duration = Duration::from_secs(60);
/// Passwords are looked up anew after this.
const PASSWORD_HOLDS: Duration = Duration::from_secs(300);
const KEPT: usize = 1000;

/// Where a header may be used: place, scope and who asked.
pub(crate) type Key = (String, String, String);

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Key, (HeaderValue, Instant)>>,
}

impl Tokens {
    pub(crate) fn get(&self, key: &Key) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    pub(crate) fn put(&self, key: Key, header: HeaderValue, holds: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.len() >= KEPT {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, (header, now + holds));
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The answer of a token service.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

/// What a challenge's answer is made from.
pub(crate) struct Request<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) reference: &'a str,
    pub(crate) stall: Duration,
}

/// The header for the registry and how long it holds.
pub(crate) async fn fetch(
    place: &Place,
    request: &Request<'_>,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let host = place.endpoint.authority();
    let refused = |why: String| RegistryError::Refused {
        host: host.to_owned(),
        reference: request.reference.to_owned(),
        why,
    };
    let realm = Url::parse(request.realm).map_err(|_| refused("its token address is no address".into()))?;
    check_realm(place, &realm).map_err(refused)?;
    let service = address_of(&realm);
    // Only the place's own service sees its client certificate.
    let near = service == host;
    let connection = if near { &place.connection.own } else { place.connection.away(&realm) };
    let service_pair = Some(("service", request.service)).filter(|(_, value)| !value.is_empty());
    let built = match request.credentials {
        Some(Credentials::Identity { token }) => {
            let mut form = form_start();
            form.extend_pairs([("grant_type", "refresh_token"), ("client_id", "berth")]);
            let scope = Some(("scope", request.scope)).filter(|(_, value)| !value.is_empty());
            form.extend_pairs(service_pair.into_iter().chain(scope)).append_pair("refresh_token", token);
            let body = form.finish();
            let kind = "application/x-www-form-urlencoded";
            connection.post(realm).header(reqwest::header::CONTENT_TYPE, kind).body(body)
        }
        other => {
            let mut address = realm;
            // Each on its own, as the specification has it for this form; above, OAuth 2 wants them in one.
            let scopes = request.scope.split_whitespace().map(|scope| ("scope", scope));
            address.query_pairs_mut().extend_pairs(service_pair.into_iter().chain(scopes));
            let asked = connection.get(address);
            match other {
                Some(Credentials::Basic { username, password }) => {
                    let header = basic(username, password)
                        .ok_or_else(|| refused("the user or password is none for a header".into()))?;
                    asked.header(AUTHORIZATION, header)
                }
                _ => asked,
            }
        }
    };
    let unreachable = |source: reqwest::Error| RegistryError::Unreachable {
        host: service.clone(),
        reference: request.reference.to_owned(),
        source: source.without_url(),
    };
    let stalled = |_| RegistryError::Stalled { host: service.clone(), seconds: request.stall.as_secs() };
    let answer = tokio::time::timeout(request.stall, built.send()).await.map_err(stalled)?;
    let answer = answer.map_err(unreachable)?;
    let status = answer.status();
    let after = crate::client::retry_after(&answer);
    let body = tokio::time::timeout(request.stall, read(answer)).await.map_err(stalled)?;
    let bytes = body.map_err(unreachable)?.ok_or_else(|| refused("its token is larger than 1 MiB".into()))?;
    if !status.is_success() {
        let said = said(&bytes);
        let (host, reference) = (service, request.reference.to_owned());
        return Err(match status.as_u16() {
            429 => RegistryError::Limited { host, reference, said, after },
            500.. => RegistryError::Status { host, reference, status: status.as_u16(), said, after },
            300..400 => {
                refused(format!("its token service {host} redirects, and credentials do not go along"))
            }
            _ if request.credentials.is_some() => {
                refused(format!("its token service {host} does not accept the credentials{said}"))
            }
            _ => refused(format!("its token service {host} gives nothing without credentials{said}")),
        });
    }
    let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
    let answer = answer.ok_or_else(|| refused(format!("its token service {service} gave no token")))?;
    let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if text.is_empty() {
        return Err(refused(format!("its token service {service} gave no token")));
    }
    let header =
        secret(&format!("Bearer {text}")).ok_or_else(|| refused("its token is no header text".into()))?;
    let holds = answer.expires_in.map_or(HOLDS, |seconds| Duration::from_secs(seconds.min(86_400)));
    // A little early, so that it does not end on its way.
    Ok((header, holds.saturating_sub(Duration::from_secs(5))))
}

/// What a token is asked for: what is needed, and what the registry names besides. A place that knows the repository by
/// another name has the word.
pub(crate) fn scope(needed: &str, asked: &str) -> String {
    let parts = |scope: &str| {
        let (name, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        (name.to_owned(), actions.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    let mut all: Vec<(String, Vec<String>)> = needed.split_whitespace().map(parts).collect();
    let asked: Vec<_> = asked.split_whitespace().map(parts).collect();
    let same = |(name, _): &(String, Vec<String>)| all.first().is_some_and(|(first, _)| first == name);
    if !asked.is_empty() && !asked.iter().any(same) {
        all.clear();
    }
    for (name, actions) in asked {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => {
                for action in actions {
                    if !known.contains(&action) {
                        known.push(action);
                    }
                }
            }
            None => all.push((name, actions)),
        }
    }
    let joined = all.into_iter().map(|(name, actions)| format!("{name}:{}", actions.join(",")));
    joined.collect::<Vec<_>>().join(" ")
}

pub(crate) const fn password_holds() -> Duration {
    PASSWORD_HOLDS
}

fn form_start() -> url::form_urlencoded::Serializer<'static, String> {
    url::form_urlencoded::Serializer::new(String::new())
}

/// Credentials go over TLS, or to this machine, or as plainly as the registry itself is configured to be asked.
fn check_realm(place: &Place, realm: &Url) -> Result<(), String> {
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("its token address has a user in it".into());
    }
    match realm.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(&address_of(realm)) => Ok(()),
        "http" if place.endpoint.base == format!("http://{}/v2", address_of(realm)) => Ok(()),
        "http" => Err(format!(
            "its token service http://{} is without TLS, and credentials are not sent there",
            address_of(realm)
        )),
        other => Err(format!("its token address has the scheme {other:?}")),
    }
}

/// `None`: longer than it may be.
async fn read(mut answer: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > ANSWER_MAX {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::scope;

    #[test]
    fn scopes() {
        let (pull, push) = ("repository:a/b:pull", "repository:a/b:pull,push");
        let both = "repository:a/b:pull,push repository:c:pull";
        for (needed, asked, expected) in [
            (pull, "", pull),
            (pull, pull, pull),
            (push, pull, push),
            (pull, push, push),
            (push, "", push),
            (push, both, both),
            (both, push, both),
            (pull, "repository:proxy/a/b:pull", "repository:proxy/a/b:pull"),
            (pull, "registry:catalog:*", "registry:catalog:*"),
        ] {
            assert_eq!(scope(needed, asked), expected, "{needed} and {asked}");
        }
    }
}
