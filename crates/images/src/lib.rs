//! Images on this node: what they are called, which layers they have, who uses them, and containers' root filesystems
//! over them.
//!
//! A layer is a directory named by its diff id, unpacked once whoever asks, synced before its record is written: a
//! record implies that the layer is on disk, a directory without a record is garbage.

mod archive;
mod error;
mod export;
mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod ground;
mod image;
mod import;
mod inspect;
mod layers;
mod lookup;
mod naming;
mod open;
mod original;
mod parents;
mod partial;
mod pins;
mod preload;
mod progress;
mod pull;
mod push;
mod rootfs;
mod sink;
mod spool;
mod usage;
mod verify;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use berth_ids::{ContainerId, Digest, ImageId};
use berth_model::FsUsage;
use berth_store::{Durability, Store, Table};
use parking_lot::{Mutex, RwLock};

pub use berth_registry::{Client, ClientConfig, Credentials, Explanation, Login};
pub use error::ImageError;
pub use export::Exported;
pub use image::Image;
pub use inspect::{Inspected, InspectedLayer, Pruned};
pub use naming::Base;
pub use pins::Pin;
pub use preload::Preloaded;
pub use push::{Pushed, PushedLayer};
pub use rootfs::Mapped;
pub use sink::Compression;
pub use verify::{LayerReport, LayerState};
pub use work::{Wanting, Work};

use crate::image::LayerRecord;

/// A name with its host and tag.
pub fn full_name(text: &str) -> Result<String, ImageError> {
    Ok(text.parse::<berth_registry::Reference>()?.to_string())
}

/// Where images are and how they are fetched.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Holds `layers/`, `containers/`, `leases/`, `partial/` and temporary files.
    pub root: PathBuf,
    pub registry: ClientConfig,
    pub pinned: Vec<Pin>,
}

/// The images of one instance. Clones share everything.
#[derive(Debug, Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pinned: Vec<Pin>,
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) known: RwLock<BTreeMap<ImageId, Arc<Image>>>,
    /// Removed while containers have them.
    removed: Mutex<BTreeMap<ImageId, Arc<Image>>>,
    pub(crate) layers: Mutex<HashMap<Digest, LayerRecord>>,
    /// Containers and the images whose layers each keeps: its own, then its volumes.
    pub(crate) leases: Mutex<HashMap<String, Vec<Arc<Image>>>>,
    /// The same on disk, for what is left of them when a record is lost.
    pub(crate) ground: ground::Ground,
    /// Layers on record whose directories are not there. Their images are not shown.
    pub(crate) gone: Mutex<HashSet<Digest>>,
    /// Layers being unpacked: whoever needs one of these waits for its turn.
    pub(crate) turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// What is kept of transfers that were cut.
    pub(crate) partials: partial::Partials,
    /// Some replaced layers are still on disk.
    pub(crate) retired: AtomicBool,
    /// Places for layers that come ([`fetch::IN_FLIGHT`]), and for those that wait for the disk ([`fetch::SETTLING`]).
    pub(crate) in_flight: Arc<tokio::sync::Semaphore>,
    pub(crate) settling: Arc<tokio::sync::Semaphore>,
    /// Pulls in flight by reference.
    pub(crate) pulls: Mutex<HashMap<String, pull::Waiting>>,
    /// What is shown of transfers.
    pub(crate) board: progress::Board,
    /// How much containers' writable layers hold.
    pub(crate) usage: usage::Measured,
    /// Layers that a pull or import in flight counts on.
    pub(crate) wanted: Mutex<HashMap<Digest, usize>>,
}

impl Images {
    /// By id, short id, tag or digest; from memory. One that is not whole is not there.
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        self.shared.whole(reference)
    }

    pub fn image(&self, id: &ImageId) -> Result<Arc<Image>, ImageError> {
        self.shared.image(id).ok_or_else(|| ImageError::Unknown { id: id.to_string() })
    }

    /// Those that are whole.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.shared.known.read().values().filter(|image| self.shared.is_whole(image)).cloned().collect()
    }

    /// Whether it is not to be collected as unused. Who asks for its removal by name has it removed.
    pub fn is_pinned(&self, image: &Image) -> bool {
        self.shared.pinned.iter().any(|pin| pin.keeps(image))
    }

    /// Fetches an image for a runtime handler; the same pull under way is joined.
    pub async fn pull(
        &self,
        reference: &str,
        handler: &str,
        login: Option<Login>,
    ) -> Result<Arc<Image>, ImageError> {
        let wish = pull::Wish { handler: handler.to_owned(), platform: None, login };
        pull::pull(&self.shared, reference, wish).await
    }

    /// Fetches what a reference stands for on another platform (`os/architecture[/variant]`). An image that does not run
    /// here is known by its manifest's digest and its id alone: names stay with this machine's.
    pub async fn pull_for(
        &self,
        reference: &str,
        platform: &str,
        login: Option<Login>,
    ) -> Result<Arc<Image>, ImageError> {
        let wish = pull::Wish { handler: String::new(), platform: Some(platform.parse()?), login };
        pull::pull(&self.shared, reference, wish).await
    }

    /// What a pull would do, each step tried; nothing is kept.
    pub async fn explain(&self, reference: &str, login: Option<Login>) -> Result<Explanation, ImageError> {
        let session = self.shared.client.session(&reference.parse()?, login).await?;
        Ok(session.explain().await)
    }

    /// [`import_as`](Self::import_as), with nobody watching.
    pub fn import(&self, archive: std::fs::File) -> Result<Vec<Arc<Image>>, ImageError> {
        self.import_as(archive, None, &Work::unwatched())
    }

    /// Reads every image of an OCI archive or a `docker save` tarball, from a file or a pipe; those without a name are called
    /// as `base` says. Blocks.
    pub fn import_as(
        &self,
        archive: std::fs::File,
        base: Option<&Base>,
        work: &Work,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        import::import(&self.shared, archive, work, import::Take::All, base)
    }

    /// Forgets an image under all its names. Its layers go once nobody uses them. Unknown: no error.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let Some(image) = self.shared.find(reference) else { return Ok(()) };
        self.shared.forget(&image)?;
        self.shared.collect_garbage()
    }

    /// Forgets that a runtime handler needs an image, and the image with the last that does. The empty one stands for all.
    pub fn remove_for(&self, reference: &str, handler: &str) -> Result<(), ImageError> {
        let Some(image) = self.shared.find(reference) else { return Ok(()) };
        match handler.is_empty() || !self.shared.forget_handler(&image, handler)? {
            true => self.remove(reference),
            false => Ok(()),
        }
    }

    /// Keeps the image's layers for a container.
    pub fn acquire(&self, id: &ImageId, holder: &str) -> Result<(), ImageError> {
        let image = {
            let mut leases = self.shared.leases.lock();
            // Looked up under the lock that a collection takes: either it is forgotten already or the lease is seen.
            let image = self.shared.image(id);
            let image = image.ok_or_else(|| ImageError::Unknown { id: id.to_string() })?;
            let held = leases.entry(holder.to_owned()).or_default();
            if held.iter().any(|known| known.id == image.id) {
                return Ok(());
            }
            held.push(image.clone());
            image
        };
        self.shared.ground.add(holder, &image)
    }

    /// Gives them back. Idempotent.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let held = self.shared.leases.lock().remove(holder);
        let alone = self.shared.ground.remove(holder)?;
        let forgotten = |image: &Arc<Image>| !self.shared.known.read().contains_key(&image.id);
        match alone || held.iter().flatten().any(forgotten) {
            true => {
                self.shared.let_go()?;
                self.shared.collect_garbage()
            }
            false => self.shared.clear_retired(),
        }
    }

    /// Whose leases an earlier daemon left.
    pub fn holders(&self) -> Vec<String> {
        self.shared.ground.holders()
    }

    /// At start, once every container has its lease again: clears images and layers that nobody has. Blocks.
    pub fn settle(&self) -> Result<(), ImageError> {
        self.shared.ground.settle();
        self.shared.let_go()?;
        self.shared.collect_garbage()
    }

    /// Once in a while: forgets what was kept of pulls that nobody takes up again, parts of layers and whole ones. Blocks.
    pub fn tidy(&self) -> Result<(), ImageError> {
        self.shared.partials.trim()?;
        self.shared.collect_garbage()
    }

    /// What images take on disk, from records: nothing is walked.
    pub fn fs_usage(&self) -> FsUsage {
        let layers = self.shared.layers.lock();
        FsUsage {
            mountpoint: self.shared.root.to_string_lossy().into_owned(),
            used_bytes: layers.values().map(|layer| layer.size).sum::<u64>() + self.shared.partials.bytes(),
            inodes_used: layers.values().map(|layer| layer.entries).sum(),
        }
    }

    /// Containers that have a writable layer.
    pub fn rootfs_ids(&self) -> Result<Vec<ContainerId>, ImageError> {
        rootfs::ids(&self.shared)
    }
}

impl Shared {
    /// By any name, also one that is not whole.
    pub(crate) fn find(&self, reference: &str) -> Option<Arc<Image>> {
        lookup::find(&self.known.read(), reference)
    }

    /// By any name, where it is whole.
    pub(crate) fn whole(&self, reference: &str) -> Option<Arc<Image>> {
        self.find(reference).filter(|image| self.is_whole(image))
    }

    /// Also those that are not whole.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.known.read().values().cloned().collect()
    }

    fn is_whole(&self, image: &Image) -> bool {
        let gone = self.gone.lock();
        gone.is_empty() || !image.layers.iter().any(|layer| gone.contains(layer))
    }

    /// By id, also one that was removed and that containers have.
    fn image(&self, id: &ImageId) -> Option<Arc<Image>> {
        let known = self.known.read().get(id).cloned();
        known.or_else(|| self.removed.lock().get(id).cloned())
    }

    /// Takes an image off the list. One that a container has stays on record for it, also over a restart.
    fn forget(&self, image: &Arc<Image>) -> Result<(), ImageError> {
        // In the order in which a lease takes them: it sees the image on one of the lists, or this sees the lease.
        let leases = self.leases.lock();
        let mut known = self.known.write();
        let id = image.id.to_string();
        if leases.values().flatten().any(|held| held.id == image.id) {
            let mut record = image.to_record();
            record.removed = true;
            self.store.put(Table::Images, &id, &record, Durability::Ordinary)?;
            self.removed.lock().insert(image.id.clone(), image.clone());
        } else {
            self.store.delete(Table::Images, &id)?;
        }
        known.remove(&image.id);
        Ok(())
    }

    /// Whether others are left.
    fn forget_handler(&self, image: &Image, handler: &str) -> Result<bool, ImageError> {
        let mut known = self.known.write();
        let Some(mut image) = known.get(&image.id).map(|image| Image::clone(image)) else { return Ok(true) };
        image.handlers.remove(handler);
        if image.handlers.is_empty() {
            return Ok(false);
        }
        self.store.put(Table::Images, &image.id.to_string(), &image.to_record(), Durability::Ordinary)?;
        known.insert(image.id.clone(), Arc::new(image));
        Ok(true)
    }

    /// Removed images that no container has any more.
    fn let_go(&self) -> Result<(), ImageError> {
        let leases = self.leases.lock();
        // A pull may be about to list one again.
        let known = self.known.write();
        let mut removed = self.removed.lock();
        let held = |id: &ImageId| leases.values().flatten().any(|image| image.id == *id);
        let unheld: Vec<ImageId> = removed.keys().filter(|id| !held(id)).cloned().collect();
        for id in unheld {
            if !known.contains_key(&id) {
                self.store.delete(Table::Images, &id.to_string())?;
            }
            removed.remove(&id);
        }
        Ok(())
    }

    /// Records an image whose layers are all there, or adds names to one that is known. Names move from other images:
    /// a tag points at one.
    pub(crate) fn record(&self, mut image: Image) -> Result<Arc<Image>, ImageError> {
        let mut known = self.known.write();
        let losers: Vec<Arc<Image>> = known
            .values()
            .filter(|other| {
                other.id != image.id && other.repo_tags.iter().any(|tag| image.repo_tags.contains(tag))
            })
            .cloned()
            .collect();
        for other in losers {
            let mut poorer = Image::clone(&other);
            poorer.repo_tags.retain(|tag| !image.repo_tags.contains(tag));
            self.store.put(
                Table::Images,
                &poorer.id.to_string(),
                &poorer.to_record(),
                Durability::Ordinary,
            )?;
            known.insert(poorer.id.clone(), Arc::new(poorer));
        }
        if let Some(before) = known.get(&image.id) {
            image.adopt(before);
        }
        self.store.put(Table::Images, &image.id.to_string(), &image.to_record(), Durability::Flushed)?;
        let image = Arc::new(image);
        known.insert(image.id.clone(), image.clone());
        self.removed.lock().remove(&image.id);
        Ok(image)
    }

    pub(crate) fn record_layer(&self, id: &Digest, record: LayerRecord) -> Result<(), ImageError> {
        // Its image's record is flushed, and takes this one along. A flush for each would have the disk's journal wait for
        // what the image's other layers write. Lost in a power cut, the layer is one that was never here.
        self.store.put(Table::Layers, id.as_str(), &record, Durability::Ordinary)?;
        self.layers.lock().insert(id.clone(), record);
        self.gone.lock().remove(id);
        Ok(())
    }

    /// Layers of no image, no container and no pull. Decided at one moment: who begins to want a layer later finds it gone
    /// and brings it again.
    pub(crate) fn collect_garbage(&self) -> Result<(), ImageError> {
        let unused: Vec<Digest> = {
            let (leases, wanted) = (self.leases.lock(), self.wanted.lock());
            let mut used: HashSet<Digest> =
                self.known.read().values().flat_map(|image| image.layers.clone()).collect();
            used.extend(self.removed.lock().values().flat_map(|image| image.layers.clone()));
            used.extend(leases.values().flatten().flat_map(|image| image.layers.clone()));
            used.extend(self.ground.layers());
            let mut layers = self.layers.lock();
            let unused = layers.keys().filter(|id| !used.contains(*id) && !wanted.contains_key(*id));
            let unused: Vec<_> = unused.cloned().collect();
            for id in &unused {
                layers.remove(id);
                self.gone.lock().remove(id);
            }
            unused
        };
        for id in unused {
            self.discard_layer(&id)?;
        }
        self.turns.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        self.clear_retired()
    }
}

#[cfg(test)]
mod tests;
