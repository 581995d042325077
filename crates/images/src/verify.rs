//! Layers compared with what was unpacked, and a damaged one brought again, alone, from where its images came.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_ids::{Digest, chain};
use berth_registry::{LayerDescriptor, Login, Reference, Session};
use berth_store::{Durability, Table};

use crate::fetch;
use crate::layers::Wanted;
use crate::progress::Progress;
use crate::{Image, ImageError, Images, Shared};

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    Whole,
    /// Unpacked by a release that wrote nothing down, and not brought again.
    Unrecorded,
    /// What is not as it was; the first lines of it. A pull or import of an image with it brings it again.
    Damaged(Vec<String>),
    /// It was damaged and is whole again. Containers that run keep the damaged one until they are restarted.
    Repaired(Vec<String>),
    /// It is damaged, and could not be brought again: what was found, and why not.
    Unrepaired(Vec<String>, String),
}

/// One layer's part of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerReport {
    pub layer: Digest,
    /// Names, or ids of images without any.
    pub images: Vec<String>,
    pub state: LayerState,
}

impl Images {
    /// Reads every layer of an image, or of all, and compares it with its record.
    pub async fn verify(&self, reference: Option<&str>) -> Result<Vec<LayerReport>, ImageError> {
        self.examined(reference, None).await
    }

    /// [`verify`](Self::verify), and a layer that is damaged, or without a record, is fetched again from a registry that one of
    /// its images came from, with these credentials or else with this machine's.
    pub async fn repair(
        &self,
        reference: Option<&str>,
        login: Option<Login>,
    ) -> Result<Vec<LayerReport>, ImageError> {
        self.examined(reference, Some(login)).await
    }

    async fn examined(
        &self,
        reference: Option<&str>,
        repair: Option<Option<Login>>,
    ) -> Result<Vec<LayerReport>, ImageError> {
        let images = match reference {
            Some(reference) => {
                let unknown = || ImageError::Unknown { id: reference.to_owned() };
                vec![self.shared.find(reference).ok_or_else(unknown)?]
            }
            None => self.shared.all(),
        };
        let layers: BTreeSet<Digest> = images.iter().flat_map(|image| image.layers.iter().cloned()).collect();
        let all: Vec<Digest> = layers.iter().cloned().collect();
        let _wanted = Wanted::new(&self.shared, &all);
        let mut reports = Vec::new();
        for layer in layers {
            let (shared, id) = (self.shared.clone(), layer.clone());
            let found = tokio::task::spawn_blocking(move || examine(&shared, &id)).await;
            let found = found.unwrap_or_else(|_| Err(ImageError::Lost { reference: layer.to_string() }))?;
            // Every image that has it may know a place to fetch it from.
            let having: Vec<Arc<Image>> =
                self.shared.all().into_iter().filter(|image| image.layers.contains(&layer)).collect();
            let state = match (found, &repair) {
                (Found::Whole, _) => LayerState::Whole,
                (Found::Unrecorded, None) => LayerState::Unrecorded,
                (Found::Unrecorded, Some(login)) => self.shared.record_again(&layer, &having, login).await?,
                (Found::Damaged(what), None) => LayerState::Damaged(what),
                (Found::Damaged(what), Some(login)) => {
                    match self.shared.fetch_again(&layer, &having, login).await {
                        Ok(()) => LayerState::Repaired(what),
                        Err(why) => LayerState::Unrepaired(what, why),
                    }
                }
            };
            let images = having.iter().map(|image| image.called()).collect();
            reports.push(LayerReport { layer, images, state });
        }
        Ok(reports)
    }
}

enum Found {
    Whole,
    Unrecorded,
    Damaged(Vec<String>),
}

/// Blocks for as long as reading the layer takes.
fn examine(shared: &Arc<Shared>, id: &Digest) -> Result<Found, ImageError> {
    let _turn = shared.blocking_turn(id);
    let what = match shared.check_layer(id) {
        Ok(None) => return Ok(Found::Unrecorded),
        Ok(Some(checked)) if checked.count == 0 => {
            shared.mark(id, false)?;
            shared.gone.lock().remove(id);
            return Ok(Found::Whole);
        }
        Ok(Some(checked)) => {
            let told = checked.differences.iter().map(|one| format!("{} {}", one.path, one.what));
            let mut told: Vec<String> = told.collect();
            let more = checked.count.saturating_sub(told.len() as u64);
            if more > 0 {
                told.push(format!("and {more} more"));
            }
            told
        }
        // Its directory or its record is gone or cannot be read.
        Err(error) => vec![chain(&error)],
    };
    tracing::error!(layer = %id, found = what.join("; "), "a layer is damaged");
    shared.mark(id, true)?;
    if !shared.layer_path(id).is_dir() {
        shared.gone.lock().insert(id.clone());
    }
    Ok(Found::Damaged(what))
}

impl Shared {
    fn mark(&self, id: &Digest, damaged: bool) -> Result<(), ImageError> {
        let record = self.layers.lock().get(id).copied();
        let Some(mut record) = record.filter(|record| record.damaged != damaged) else { return Ok(()) };
        record.damaged = damaged;
        self.store.put(Table::Layers, id.as_str(), &record, Durability::Flushed)?;
        self.layers.lock().insert(id.clone(), record);
        Ok(())
    }

    /// A layer of which nothing is known is fetched as if it were damaged; where that fails, it stays what it was.
    async fn record_again(
        self: &Arc<Self>,
        layer: &Digest,
        having: &[Arc<Image>],
        login: &Option<Login>,
    ) -> Result<LayerState, ImageError> {
        let mark = async |damaged: bool| -> Result<(), ImageError> {
            let (shared, id) = (self.clone(), layer.clone());
            let marked = tokio::task::spawn_blocking(move || shared.mark(&id, damaged)).await;
            marked.unwrap_or_else(|_| Err(ImageError::Lost { reference: layer.to_string() }))
        };
        mark(true).await?;
        match self.fetch_again(layer, having, login).await {
            Ok(()) => Ok(LayerState::Repaired(vec!["nothing was written down of it".to_owned()])),
            Err(why) => {
                tracing::warn!(%layer, why, "a layer without a record cannot be fetched again");
                mark(false).await?;
                Ok(LayerState::Unrecorded)
            }
        }
    }

    /// From the first place that has it; else why the last one did not give it.
    async fn fetch_again(
        self: &Arc<Self>,
        layer: &Digest,
        images: &[Arc<Image>],
        login: &Option<Login>,
    ) -> Result<(), String> {
        let mut why = "no registry is known that has it: import its image again".to_owned();
        for image in images {
            for pinned in &image.repo_digests {
                match self.fetch_from(layer, image, pinned, login.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) => why = chain(&error),
                }
            }
        }
        Err(why)
    }

    async fn fetch_from(
        self: &Arc<Self>,
        layer: &Digest,
        image: &Image,
        pinned: &str,
        login: Option<Login>,
    ) -> Result<(), ImageError> {
        let (session, blob) = self.place(layer, image, pinned, login).await?;
        let parts = Progress::unwatched(pinned.to_owned()).begin(std::slice::from_ref(&blob));
        let part =
            parts.into_iter().next().ok_or_else(|| ImageError::Lost { reference: pinned.to_owned() })?;
        fetch::layer(self, &session, (layer.clone(), blob), None, &part).await
    }

    /// The blob of an image's layer where the image came from.
    pub(crate) async fn place(
        &self,
        layer: &Digest,
        image: &Image,
        pinned: &str,
        login: Option<Login>,
    ) -> Result<(Session, LayerDescriptor), ImageError> {
        let reference: Reference = pinned.parse()?;
        let session = self.client.session(&reference, login).await?;
        let manifest = session.resolve(None).await?.manifest;
        let problem = || ImageError::Config { problem: format!("{pinned} is another image now") };
        if manifest.config != image.id.0 || manifest.layers.len() != image.layers.len() {
            return Err(problem());
        }
        let at = image.layers.iter().position(|id| id == layer).ok_or_else(problem)?;
        let blob = manifest.layers.into_iter().nth(at).ok_or_else(problem)?;
        Ok((session, blob))
    }
}
