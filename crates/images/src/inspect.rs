//! What a person asks about images: who has what, and what would come free.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_ids::{Digest, ImageId};
use sha2::{Digest as _, Sha256};

use crate::{Image, ImageError, Images, Shared};

/// An image with all that is known of it.
#[derive(Debug, Clone)]
pub struct Inspected {
    pub image: Arc<Image>,
    /// The lowest first.
    pub layers: Vec<InspectedLayer>,
    /// Who holds it: containers, by their ids.
    pub holders: Vec<String>,
    /// Repositories that have had it, each with the digest of its manifest there.
    pub places: Vec<(String, Digest)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedLayer {
    pub id: Digest,
    /// Bytes on disk.
    pub size: u64,
    pub entries: u64,
    pub damaged: bool,
    /// Other images that have it, by name or id.
    pub shared_by: Vec<String>,
}

/// What a pruning took away, or would.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub images: Vec<Arc<Image>>,
    pub layers: u64,
    /// On disk.
    pub bytes: u64,
}

impl Images {
    pub fn inspect(&self, reference: &str) -> Result<Inspected, ImageError> {
        let unknown = || ImageError::Unknown { id: reference.to_owned() };
        let image = self.shared.find(reference).ok_or_else(unknown)?;
        let others = self.shared.all();
        let records = self.shared.layers.lock().clone();
        let layer = |id: &Digest| {
            let having = others.iter().filter(|other| other.id != image.id && other.layers.contains(id));
            let record = records.get(id);
            InspectedLayer {
                id: id.clone(),
                size: record.map_or(0, |record| record.size),
                entries: record.map_or(0, |record| record.entries),
                damaged: record.is_some_and(|record| record.damaged),
                shared_by: having.map(|other| other.called()).collect(),
            }
        };
        let layers = image.layers.iter().map(layer).collect();
        let digest = |document: &str| Digest::from_sha256(Sha256::digest(document).into());
        let places = image.manifests.iter().map(|known| (known.repository.clone(), digest(&known.document)));
        let (places, holders) =
            (places.collect(), self.shared.holders().remove(&image.id).unwrap_or_default());
        Ok(Inspected { image, layers, holders, places })
    }

    /// Forgets the images that nobody holds and that are not pinned; without `really` it only says which. Blocks.
    pub fn prune(&self, really: bool) -> Result<Pruned, ImageError> {
        let pruned = self.shared.unheld(|image| self.is_pinned(image));
        if really {
            for image in &pruned.images {
                self.shared.forget(image)?;
            }
            self.shared.collect_garbage()?;
        }
        Ok(pruned)
    }
}

impl Image {
    /// Its first name, or its id.
    pub fn called(&self) -> String {
        self.repo_tags.first().cloned().unwrap_or_else(|| self.id.to_string())
    }
}

impl Shared {
    /// Who holds each image that somebody holds: containers, by their ids.
    fn holders(&self) -> BTreeMap<ImageId, Vec<String>> {
        let mut holders = BTreeMap::<ImageId, Vec<String>>::new();
        for (holder, images) in self.leases.lock().iter() {
            for image in images {
                holders.entry(image.id.clone()).or_default().push(holder.clone());
            }
        }
        holders.values_mut().for_each(|all| all.sort());
        holders
    }

    /// The images that could go, and what is theirs alone.
    fn unheld(&self, keep: impl Fn(&Image) -> bool) -> Pruned {
        let held = self.holders();
        let (images, kept): (Vec<_>, Vec<_>) = {
            let known = self.known.read();
            known.values().cloned().partition(|image| !held.contains_key(&image.id) && !keep(image))
        };
        let mut needed: BTreeSet<Digest> = kept.iter().flat_map(|image| image.layers.clone()).collect();
        needed.extend(self.removed.lock().values().flat_map(|image| image.layers.clone()));
        needed.extend(self.wanted.lock().keys().cloned());
        let layers: BTreeSet<Digest> = images.iter().flat_map(|image| image.layers.clone()).collect();
        let records = self.layers.lock();
        let free = layers.difference(&needed).filter_map(|id| records.get(id));
        let (layers, bytes) = free.fold((0, 0), |(count, bytes), layer| (count + 1, bytes + layer.size));
        Pruned { images, layers, bytes }
    }
}
