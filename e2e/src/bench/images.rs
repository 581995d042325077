//! A thousand images listed: of one layer, in an archive's directory that is imported.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use berth_cri_api::v1::ListImagesRequest;
use serde_json::{Value, json};

use super::figures::Series;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image::{Layer, digest};

/// One archive has no more.
pub(crate) const IMAGES: usize = 1000;
const ROUNDS: usize = 30;

/// ListImages and StreamImages.
pub(super) async fn listed(daemon: &Daemon) -> Result<[Series; 2]> {
    let layout = daemon.path("thousand");
    write(&layout)?;
    daemon.import_file(&layout)?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let (mut unary, mut streamed) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        let since = Instant::now();
        let found = client.images.list_images(ListImagesRequest::default()).await?.into_inner().images.len();
        unary.push(since.elapsed());
        let since = Instant::now();
        let (mut parts, mut sum) = (client.stream_images().await?, 0);
        while let Some(part) = parts.message().await? {
            sum += part.images.len();
        }
        streamed.push(since.elapsed());
        anyhow::ensure!(
            (found, sum) == (IMAGES, IMAGES),
            "{found} and {sum} images are listed instead of {IMAGES}"
        );
    }
    Ok([unary, streamed])
}

/// An OCI layout.
fn write(at: &Path) -> Result<()> {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<Value> {
        let digest = digest(bytes);
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok(json!({ "digest": digest, "size": bytes.len() }))
    };
    let mut layer = Layer::default();
    layer.file("file", b"of all", 0o644)?;
    let layer = layer.into_tar()?;
    let (diff_id, layer) = (digest(&layer), put(&layer)?);
    let mut manifests = Vec::new();
    for n in 0..IMAGES {
        let config = json!({ "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "config": { "Env": [format!("N={n}")], "User": "1000" },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] } });
        let manifest =
            json!({ "schemaVersion": 2, "config": put(config.to_string().as_bytes())?, "layers": [layer] });
        let mut entry = put(manifest.to_string().as_bytes())?;
        entry["annotations"] =
            json!({ "io.containerd.image.name": format!("registry.test/team/service-{n}:v1.{n}") });
        manifests.push(entry);
    }
    std::fs::write(at.join("index.json"), json!({ "schemaVersion": 2, "manifests": manifests }).to_string())?;
    Ok(std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}
