//! An image whose layers are unpacked, here or in an archive as plain tar files.

use std::sync::Arc;

use berth_ids::Digest;
use berth_model::PartState;
use berth_registry::Manifest;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{CONFIG, Job, LAYER, MANIFEST, Pushed, PushedLayer, Sender};
use crate::image::KnownManifest;
use crate::layers::Wanted;
use crate::original::Tar;
use crate::{Image, ImageError, spool};

/// Layers at a time: one is compressed while another is sent.
const PARALLEL: usize = 2;

/// The tar stream of a layer, opened by whoever compresses it.
pub(super) type Open = dyn Fn(&Digest) -> Result<Tar, ImageError> + Send + Sync;

pub(super) async fn push(job: &Job, image: &Arc<Image>) -> Result<Pushed, ImageError> {
    let shared = job.shared.clone();
    let _wanted = Wanted::new(&shared, &image.layers);
    let host = format!("{}/", job.to.host());
    let (near, far): (Vec<_>, Vec<_>) =
        image.manifests.iter().rev().partition(|known| known.repository.starts_with(&host));
    for known in near.into_iter().chain(far) {
        if let Some(layers) = known_layers(job, image, known).await? {
            return finish(job, image, layers, known.document.clone(), true).await;
        }
    }
    let (stored, ended) = (job.shared.clone(), job.ended.clone());
    let open = move |id: &Digest| stored.tar(id, &ended);
    compressed(job, image, Arc::new(open)).await
}

/// What the registry has of a manifest's layers, when that is all of them.
async fn known_layers(
    job: &Job,
    image: &Image,
    known: &KnownManifest,
) -> Result<Option<Vec<PushedLayer>>, ImageError> {
    let bytes = known.document.as_bytes();
    let digest = Digest::from_sha256(Sha256::digest(bytes).into());
    let Ok(Ok(manifest)) = Manifest::read(bytes, digest) else { return Ok(None) };
    if manifest.config != image.id.0 || manifest.layers.len() != image.layers.len() {
        return Ok(None);
    }
    let (sender, mut layers) = (Sender::of(job), Vec::new());
    for layer in &manifest.layers {
        let Some(state) = sender.is_there(&layer.digest).await? else { return Ok(None) };
        layers.push(PushedLayer { digest: layer.digest.clone(), bytes: layer.size, state });
    }
    let parts = job.progress.begin(&manifest.layers);
    parts.iter().zip(&layers).for_each(|(part, layer)| part.enter(layer.state));
    Ok(Some(layers))
}

/// Compresses each layer to a file and sends it from there.
pub(super) async fn compressed(job: &Job, image: &Arc<Image>, open: Arc<Open>) -> Result<Pushed, ImageError> {
    let parts = job.progress.parts(image.layers.iter().map(|id| (id.to_string(), 0)));
    let room = Arc::new(Semaphore::new(PARALLEL));
    let mut work = JoinSet::new();
    for (at, (id, part)) in image.layers.iter().cloned().zip(parts).enumerate() {
        let (sender, room, open, ended) = (Sender::of(job), room.clone(), open.clone(), job.ended.clone());
        work.spawn(async move {
            let lost = || ImageError::Lost { reference: id.to_string() };
            let _room = room.acquire_owned().await.map_err(|_| lost())?;
            part.enter(PartState::Preparing);
            let (root, layer) = (sender.shared.root.clone(), id.clone());
            let made =
                tokio::task::spawn_blocking(move || spool::compress(&root, &layer, open(&layer)?, &ended));
            let spooled = made.await.unwrap_or_else(|_| Err(lost()))?;
            Ok::<_, ImageError>((at, sender.layer(spooled, &part).await?))
        });
    }
    let mut layers = Vec::new();
    while let Some(done) = work.join_next().await {
        // The first failure ends the push; dropping the set ends the other layers.
        layers.push(done.unwrap_or_else(|_| Err(job.lost()))?);
    }
    layers.sort_by_key(|(at, _)| *at);
    let layers: Vec<PushedLayer> = layers.into_iter().map(|(_, layer)| layer).collect();
    let described =
        |layer: &PushedLayer| json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.bytes });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": image.id, "size": image.raw_config().len() },
        "layers": layers.iter().map(described).collect::<Vec<_>>(),
    });
    finish(job, image, layers, manifest.to_string(), false).await
}

/// Config and manifest, once the layers are there.
async fn finish(
    job: &Job,
    image: &Arc<Image>,
    layers: Vec<PushedLayer>,
    manifest: String,
    unchanged: bool,
) -> Result<Pushed, ImageError> {
    let config = Bytes::copy_from_slice(image.raw_config().as_bytes());
    Sender::of(job).document(&image.id.0, config).await?;
    let kind = kind(&manifest);
    let digest = job.session.push_manifest(manifest.clone().into(), &kind, &job.name).await?;
    job.remember(image.id.clone(), digest.clone(), manifest).await?;
    tracing::info!(reference = %job.to, image = %image.id, %digest, "image pushed");
    let (reference, image) = (job.to.to_string(), Some(image.id.clone()));
    Ok(Pushed { reference, digest, image, unchanged, layers })
}

/// A manifest's own word for what it is; OCI lets it be left out.
fn kind(manifest: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(manifest).ok();
    let own = document.as_ref().and_then(|document| document["mediaType"].as_str());
    own.unwrap_or(MANIFEST).to_owned()
}
