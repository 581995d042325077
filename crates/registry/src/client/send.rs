//! One request on its way: redirects, and nothing to a stranger that is not for strangers.

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::{Place, Session, address_of};
use crate::body::Body;
use crate::hosts::is_loopback;
use crate::token::Key;
use crate::{Credentials, RegistryError};

/// Redirects of one request.
const REDIRECTS: usize = 5;

/// A request as it goes out.
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// What a token has to be good for (distribution spec, token authentication).
    pub(crate) scope: String,
}

impl Session {
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

    /// Follows redirects. Once one leaves the place, nothing that belongs to it goes along: no credentials, no headers
    /// of hosts.toml, no client certificate. A challenge from there is an error and never an answer: answered, it would
    /// have the place's credentials sent to a token service of a stranger's choice (as in CVE-2020-15157).
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
            let client = if at_home { &place.connection.own } else { place.connection.away(&url) };
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
            if status == 401 && !at_home {
                let to = address_of(&url);
                return Err(problem(format!("to {to}, which asks for credentials and is given none")));
            }
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
}
