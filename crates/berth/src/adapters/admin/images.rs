//! The administrator's verbs about images.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use berth_images::{Base, Compression, Credentials, Image, Inspected, LayerReport, LayerState, Login};
use berth_model::{ContainerFilter, Direction};
use serde_json::{Value, json};

use super::Admin;
use crate::admin::{
    ArchivedImage, Compress, ExportedArchive, Failure, ImageVerb, Password, VerifiedLayer, VerifiedState,
};

fn login(password: Option<Password>) -> Option<Login> {
    password.map(|Password { username, password }| Login {
        credentials: Credentials::Basic { username, password },
        server: None,
    })
}

impl Admin {
    pub(super) async fn about_images(
        &self,
        verb: ImageVerb,
        archive: Option<File>,
    ) -> Result<Value, Failure> {
        let images = &self.images;
        let archive = || archive.ok_or("the request came without a descriptor");
        Ok(match verb {
            ImageVerb::Import { called, name } => self.import(archive()?, called, name).await?,
            ImageVerb::Tag { image, name } => {
                let images = images.clone();
                let tagged = tokio::task::spawn_blocking(move || images.tag(&image, &name)).await??;
                serde_json::to_value(archived(&tagged, tagged.repo_tags.clone()))?
            }
            ImageVerb::Export { images, called, compress } => {
                self.export(images, archive()?, compress, called).await?
            }
            ImageVerb::Verify { image, repair, login: who } => {
                let reports = match repair {
                    true => images.repair(image.as_deref(), login(who)).await?,
                    false => images.verify(image.as_deref()).await?,
                };
                serde_json::to_value(reports.into_iter().map(verified).collect::<Vec<_>>())?
            }
            ImageVerb::Pull { image, platform, login: who } => {
                json!({ "id": images.pull_for(&image, &platform, login(who)).await?.id })
            }
            ImageVerb::Push { image, to, login: who } => {
                let pushed = images.push(&image, to.as_deref(), login(who)).await?;
                serde_json::to_value([pushed])?
            }
            ImageVerb::PushArchive { to, login: who } => {
                serde_json::to_value(images.push_archive(archive()?, to.as_deref(), login(who)).await?)?
            }
            ImageVerb::Inspect { image } => self.inspected(&images.inspect(&image)?),
            ImageVerb::Prune { dry_run } => {
                let images = images.clone();
                let pruned = tokio::task::spawn_blocking(move || images.prune(!dry_run)).await??;
                let gone: Vec<_> = pruned.images.iter().map(|image| self.named(image)).collect();
                json!({ "images": gone, "layers": pruned.layers, "bytes": pruned.bytes, "dry_run": dry_run })
            }
            ImageVerb::Explain { image, login: who } => {
                serde_json::to_value(images.explain(&image, login(who)).await?)?
            }
            ImageVerb::Transfers { of } => {
                let mut all = images.transfers();
                if let Some(of) = of {
                    let full = berth_images::full_name(&of).ok();
                    all.retain(|one| one.reference == of || full.as_ref() == Some(&one.reference));
                }
                serde_json::to_value(all)?
            }
        })
    }

    async fn import(&self, archive: File, called: String, name: Option<String>) -> Result<Value, Failure> {
        let base = name.as_deref().map(Base::new).transpose()?;
        let (images, work) = (self.images.clone(), self.images.begin(Direction::Import, called));
        let _wanting = work.wanting();
        let imported =
            tokio::task::spawn_blocking(move || images.import_as(archive, base.as_ref(), &work)).await??;
        let one = |image: &Arc<Image>| archived(image, image.repo_tags.clone());
        Ok(serde_json::to_value(imported.iter().map(one).collect::<Vec<_>>())?)
    }

    async fn export(
        &self,
        references: Vec<String>,
        archive: File,
        compress: Option<Compress>,
        called: String,
    ) -> Result<Value, Failure> {
        let compression = compress.map(|compress| match compress {
            Compress::Gzip => Compression::Gzip,
            Compress::Zstd => Compression::Zstd,
        });
        let (images, work) = (self.images.clone(), self.images.begin(Direction::Export, called));
        let _wanting = work.wanting();
        let exported =
            tokio::task::spawn_blocking(move || images.export_as(&references, archive, compression, &work))
                .await??;
        let one = |(image, names): &(Arc<Image>, Vec<String>)| archived(image, names.clone());
        let images = exported.images.iter().map(one).collect();
        let (layers, bytes) = (exported.layers, exported.bytes);
        Ok(serde_json::to_value(ExportedArchive { images, layers, bytes })?)
    }

    fn inspected(&self, found: &Inspected) -> Value {
        let image = &found.image;
        let containers = self.pods.list_containers(&ContainerFilter::default());
        let names: BTreeMap<&str, &str> = containers
            .iter()
            .map(|container| (container.id.as_str(), container.metadata.name.as_str()))
            .collect();
        let holder = |id: &String| json!({ "id": id, "name": names.get(id.as_str()) });
        let layers = found.layers.iter().map(|layer| {
            json!({
                "diff_id": layer.id,
                "bytes": layer.size,
                "entries": layer.entries,
                "damaged": layer.damaged,
                "shared_by": layer.shared_by,
            })
        });
        let places = found.places.iter();
        let places = places.map(|(place, digest)| json!({ "repository": place, "manifest": digest }));
        let mut value = self.named(image);
        value["created"] = json!(image.config.created());
        value["os"] = json!(image.config.os());
        value["architecture"] = json!(image.config.architecture());
        value["layers"] = layers.collect();
        value["places"] = places.collect();
        value["used_by"] = found.holders.iter().map(holder).collect();
        value["config"] = serde_json::from_str(image.raw_config()).unwrap_or_default();
        value
    }

    fn named(&self, image: &Image) -> Value {
        json!({
            "id": image.id,
            "names": image.repo_tags,
            "digests": image.repo_digests,
            "bytes": image.size,
            "pinned": self.images.is_pinned(image),
        })
    }
}

fn archived(image: &Image, names: Vec<String>) -> ArchivedImage {
    ArchivedImage { id: image.id.to_string(), names }
}

fn verified(report: LayerReport) -> VerifiedLayer {
    let (state, found, problem) = match report.state {
        LayerState::Whole => (VerifiedState::Whole, Vec::new(), None),
        LayerState::Unrecorded => (VerifiedState::Unrecorded, Vec::new(), None),
        LayerState::Damaged(found) => (VerifiedState::Damaged, found, None),
        LayerState::Repaired(found) => (VerifiedState::Repaired, found, None),
        LayerState::Unrepaired(found, problem) => (VerifiedState::Damaged, found, Some(problem)),
    };
    VerifiedLayer { layer: report.layer.to_string(), images: report.images, state, found, problem }
}
