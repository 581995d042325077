//! Doors for `crates/fuzz` to the parsers of what registries and administrators write.

use std::path::Path;

use berth_ids::Digest;

use crate::auth::Challenge;
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

/// The words of the challenges that a header has.
pub fn challenges(header: &str) -> Vec<String> {
    let words = |challenge| match challenge {
        Challenge::Basic => Vec::new(),
        Challenge::Bearer { realm, service, scope, error } => vec![realm, service, scope, error],
    };
    Challenge::all(header).into_iter().flat_map(words).collect()
}

/// In how many ways a docker config.json has credentials for a host; an error is shown to a person.
pub fn docker_config(text: &str) -> Result<usize, String> {
    docker_config::parse(text, &["r.io".to_owned(), "docker.io".to_owned()], "team/app")
        .map(|ways| ways.len())
}
