//! Who asks: what goes along unasked, and what a challenge is answered with.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};

use super::{Place, Session};
use crate::auth::{Challenge, basic, secret};
use crate::docker_config::{self, Found};
use crate::token;
use crate::{Credentials, RegistryError};

impl Session {
    /// The request's own credentials, where they are for this place.
    pub(super) fn given(&self, place: &Place) -> Option<&Credentials> {
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
            (_, Some(Credentials::Bearer { token })) => {
                let header = secret(&format!("Bearer {token}"))
                    .ok_or_else(|| refused("the registry token is none for a header"))?;
                match self.beforehand(place) {
                    Some(sent) if sent == header => Err(refused("the registry token is not accepted")),
                    // Of a file, which is read when somebody asks.
                    _ => Ok((header, token::password_holds())),
                }
            }
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
}
