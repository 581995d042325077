use berth_ids::Digest;
use serde::Deserialize;

/// A layer as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// An image's manifest, checked against its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<LayerDescriptor>,
}

/// Either kind of document; OCI and Docker agree on the fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
    urls: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: String,
}

/// What a document turned out to be.
#[derive(Debug)]
pub(crate) enum Parsed {
    Manifest(Manifest),
    /// The digest of this platform's manifest.
    Index(Option<Digest>),
}

/// Layers of an image; the overlay takes 500.
const LAYERS: usize = 500;

pub(crate) fn host_platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

impl Manifest {
    /// Of a document in an archive or from a registry; `digest` is what its bytes hash to.
    pub(crate) fn parse(bytes: &[u8], digest: Digest) -> Result<Parsed, String> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if let Some(manifests) = document.manifests {
            return Ok(Parsed::Index(choose(&manifests)));
        }
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err("it has neither config and layers nor manifests".into());
        };
        if layers.len() > LAYERS {
            return Err(format!("it has more than {LAYERS} layers"));
        }
        let foreign = |l: &Descriptor| {
            l.media_type.contains("foreign") || l.urls.as_ref().is_some_and(|u| !u.is_empty())
        };
        if layers.iter().any(foreign) {
            return Err("it has foreign layers, which come from other hosts and are not fetched".into());
        }
        let layers = layers.into_iter().map(|l| LayerDescriptor { digest: l.digest, size: l.size }).collect();
        Ok(Parsed::Manifest(Self { digest, config: config.digest, layers }))
    }

    /// As [`Manifest::parse`], for readers of archives.
    pub fn read(bytes: &[u8], digest: Digest) -> Result<Result<Self, Option<Digest>>, String> {
        match Self::parse(bytes, digest)? {
            Parsed::Manifest(manifest) => Ok(Ok(manifest)),
            Parsed::Index(next) => Ok(Err(next)),
        }
    }
}

/// The entry for this machine: the plain architecture before a variant of it; an entry without a platform is taken only
/// when it is alone.
fn choose(manifests: &[Descriptor]) -> Option<Digest> {
    let (os, architecture) = host_platform();
    let fits =
        |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == os && p.architecture == architecture);
    let rank = |d: &&Descriptor| {
        d.platform.as_ref().map_or(9, |p| match p.variant.as_str() {
            "" | "v1" => 0,
            "v8" => 1,
            _ => 5,
        })
    };
    let best = manifests.iter().filter(fits).min_by_key(rank);
    let alone = || manifests.first().filter(|d| manifests.len() == 1 && d.platform.is_none());
    best.or_else(alone).map(|d| d.digest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_sha256([n; 32])
    }

    #[test]
    fn an_index_gives_this_platforms_manifest() {
        let (_, architecture) = host_platform();
        let text = serde_json::json!({"manifests": [
            {"digest": digest(1), "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": digest(2), "platform": {"os": "linux", "architecture": architecture, "variant": "v9"}},
            {"digest": digest(3), "platform": {"os": "linux", "architecture": architecture}},
        ]});
        let parsed = Manifest::read(text.to_string().as_bytes(), digest(0)).unwrap();
        assert_eq!(parsed, Err(Some(digest(3))));
        let none = serde_json::json!({"manifests": [{"digest": digest(1), "platform": {"os": "x", "architecture": "y"}}]});
        assert_eq!(Manifest::read(none.to_string().as_bytes(), digest(0)).unwrap(), Err(None));
    }

    #[test]
    fn a_manifest_is_its_config_and_layers() {
        let text = serde_json::json!({"config": {"digest": digest(1)}, "layers": [{"digest": digest(2), "size": 5}]});
        let manifest = Manifest::read(text.to_string().as_bytes(), digest(9)).unwrap().unwrap();
        assert_eq!((manifest.config, manifest.layers[0].size, manifest.digest), (digest(1), 5, digest(9)));
        for bad in ["{}", "[]", "{\"config\":{\"digest\":\"x\"},\"layers\":[]}"] {
            assert!(Manifest::read(bad.as_bytes(), digest(0)).is_err(), "{bad}");
        }
        let foreign = serde_json::json!({"config": {"digest": digest(1)}, "layers": [{"digest": digest(2), "urls": ["http://x"]}]});
        assert!(Manifest::read(foreign.to_string().as_bytes(), digest(0)).unwrap_err().contains("foreign"));
    }
}
