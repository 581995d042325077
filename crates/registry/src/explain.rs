//! What a pull would do, for a person who wonders: every place in order, with what it is asked with and what it says.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::RegistryError;
use crate::client::{Ask, Need, Place, Session, hash};
use crate::connect::proxy;
use crate::manifest::{Manifest, Parsed};

/// Bytes of a manifest.
const MANIFEST_MAX: u64 = 4 * 1024 * 1024;

/// A reference and its places. It holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    pub reference: String,
    /// What says where to ask, where there is one.
    pub file: Option<PathBuf>,
    /// Keys in it that mean nothing here.
    pub unknown: Vec<String>,
    pub places: Vec<ExplainedPlace>,
}

/// One place; what is asked and answered here is what a pull would see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainedPlace {
    pub endpoint: String,
    /// A mirror, or the registry itself.
    pub mirror: bool,
    pub capabilities: Vec<String>,
    pub tls: String,
    pub proxy: Option<String>,
    /// Their kind and where they are from; never the secret.
    pub credentials: Option<String>,
    /// Whether the manifest can be had from here.
    pub works: bool,
    pub says: String,
    pub milliseconds: u64,
}

impl Session {
    /// Asks every place that a pull would ask, even after one that has the image.
    pub async fn explain(&self) -> Explanation {
        let mut places = Vec::new();
        for place in &self.inner.places {
            places.push(self.explain_place(place).await);
        }
        Explanation {
            reference: self.name(),
            file: self.inner.file.clone(),
            unknown: self.inner.unknown.clone(),
            places,
        }
    }

    async fn explain_place(&self, place: &Place) -> ExplainedPlace {
        let endpoint = &place.endpoint;
        let can = [("pull", endpoint.pull), ("resolve", endpoint.resolve), ("push", endpoint.push)];
        let capabilities = can.into_iter().filter(|(_, can)| *can).map(|(word, _)| word.to_owned()).collect();
        let credentials = match self.credentials(place).await {
            Ok(None) => None,
            Ok(Some(found)) => Some(format!("{} from {}", found.credentials.kind(), found.source)),
            Err(error) => Some(chain(&error)),
        };
        let wanted = self.inner.reference.wanted();
        let need = if self.inner.reference.digest().is_some() { Need::Pull } else { Need::Resolve };
        let begin = Instant::now();
        let (works, says) = match need.of(endpoint) {
            false => (false, "not asked: it may not be used for this".to_owned()),
            true => {
                let ask = Ask {
                    path: format!("manifests/{wanted}"),
                    need,
                    from: 0,
                    small: Some(("the manifest", MANIFEST_MAX)),
                    digest: self.inner.reference.digest().cloned(),
                    size: None,
                };
                match self.try_place(place, &ask).await {
                    Err(error) => (false, chain(&error)),
                    Ok(reply) => {
                        let digest = hash(&reply.bytes);
                        match Manifest::parse(&reply.bytes, digest.clone(), &reply.kind) {
                            Err(problem) => (false, format!("has {digest}: {problem}")),
                            Ok(Parsed::Manifest(manifest)) => {
                                let layers = manifest.layers.len();
                                (true, format!("has {digest}, an image of {layers} layers"))
                            }
                            Ok(Parsed::Index(fit, has)) => {
                                (!fit.is_empty(), format!("has {digest}, an index of {has}"))
                            }
                        }
                    }
                }
            }
        };
        ExplainedPlace {
            endpoint: endpoint.base.clone(),
            mirror: !endpoint.own,
            capabilities,
            tls: tls(place),
            proxy: endpoint.base.parse().ok().and_then(|url| proxy(&url)),
            credentials,
            works,
            says,
            milliseconds: begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

fn tls(place: &Place) -> String {
    let endpoint = &place.endpoint;
    if endpoint.base.starts_with("http://") {
        return "none, plain HTTP".into();
    }
    let mut parts = vec![match endpoint.skip_verify {
        true => "the certificate is not verified (skip_verify)".to_owned(),
        false => "verified".to_owned(),
    }];
    parts.extend(endpoint.ca.iter().map(|path| format!("also by {}", path.display())));
    let client = endpoint.client.iter();
    parts.extend(client.map(|(path, _)| format!("client certificate {}", path.display())));
    parts.join(", ")
}

fn chain(error: &RegistryError) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
