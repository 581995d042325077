//! Doors for `crates/fuzz` to the parsers of what registries and administrators write.

use std::path::Path;

use berth_ids::Digest;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::auth::{Challenge, HEADER_MAX};
use crate::docker_config;
use crate::hosts;
use crate::manifest::{Manifest, Parsed};

/// A document as a registry gives it: how many layers it has, or the manifests that are for this machine.
pub fn manifest(bytes: &[u8], kind: &str) -> Option<Result<usize, Vec<Digest>>> {
    match Manifest::parse(bytes, crate::client::hash(bytes), kind, &crate::Platform::host()).ok()? {
        Parsed::Manifest(manifest) => Some(Ok(manifest.layers.len())),
        Parsed::Index(entries, _) => Some(Err(entries)),
    }
}

/// The addresses of a hosts.toml, and how many of them are the host's own.
pub fn hosts(text: &str) -> Option<(Vec<String>, usize)> {
    let found = hosts::parse(text, Path::new("/certs.d/r.io/hosts.toml"), "r.io").ok()?;
    let own = found.endpoints.iter().filter(|endpoint| endpoint.own).count();
    Some((found.endpoints.into_iter().map(|endpoint| endpoint.base).collect(), own))
}

/// What a header asks for.
#[derive(Debug)]
pub struct Challenges {
    /// Each as RFC 9110 writes it.
    pub all: Vec<String>,
    /// The same of those written out and read again; `None` when that is too long for a header.
    pub again: Option<Vec<String>>,
    /// The one that is answered; `None` too when the text is none for a header.
    pub answered: Option<String>,
}

pub fn challenges(header: &str) -> Challenges {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let written = |challenge: Challenge| match challenge {
        Challenge::Basic => "Basic".to_owned(),
        Challenge::Bearer { realm, service, scope, error } => {
            let pairs = [("realm", realm), ("service", service), ("scope", scope), ("error", error)];
            let pairs = pairs.map(|(name, value)| format!("{name}=\"{}\"", quoted(&value)));
            format!("Bearer {}", pairs.join(", "))
        }
    };
    let read = |text: &str| Challenge::all(text).into_iter().map(written).collect::<Vec<_>>();
    let all = read(header);
    let text = all.join(", ");
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_str(header).ok().map(|value| (WWW_AUTHENTICATE, value)));
    Challenges {
        again: (text.len() <= HEADER_MAX).then(|| read(&text)),
        answered: Challenge::of(&headers).map(written),
        all,
    }
}

/// In how many ways a docker config.json has credentials for a host; an error is shown to a person.
pub fn docker_config(text: &str) -> Result<usize, String> {
    docker_config::parse(text, &["r.io".to_owned(), "docker.io".to_owned()], "team/app")
        .map(|ways| ways.len())
}
