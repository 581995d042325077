//! The administrator's verbs about images.

use std::collections::BTreeMap;
use std::fs::File;

use berth_images::{Credentials, Image, Inspected, Login};
use berth_model::ContainerFilter;
use serde_json::{Value, json};

use super::Admin;
use crate::admin::{Failure, ImageVerb, Password};

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
        Ok(match verb {
            ImageVerb::Push { image, to, login: who } => {
                let pushed = images.push(&image, to.as_deref(), login(who)).await?;
                serde_json::to_value([pushed])?
            }
            ImageVerb::PushArchive { to, login: who } => {
                let archive = archive.ok_or("the request came without a descriptor")?;
                serde_json::to_value(images.push_archive(archive, to.as_deref(), login(who)).await?)?
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
                let of = berth_images::full_name(&of)?;
                let mut all = images.transfers();
                all.retain(|transfer| transfer.reference == of);
                serde_json::to_value(all)?
            }
        })
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
