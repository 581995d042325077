//! What an earlier daemon left, read back. A record or a directory that is lost costs that one image or layer: what
//! containers stand on is known from [`Ground`] as well, and stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use berth_ids::{Digest, ImageId};
use berth_registry::Client;
use berth_store::{Damaged, Durability, Store, Table};
use parking_lot::{Mutex, RwLock};

use crate::ground::Ground;
use crate::image::{ImageRecord, LayerRecord};
use crate::{Image, ImageError, Images, ImagesConfig, Shared};
use crate::{fetch, partial, progress, usage};

impl Images {
    /// Reads the records back and clears what an interrupted pull left.
    pub fn open(config: ImagesConfig, store: Store) -> Result<Self, ImageError> {
        let root = config.root;
        for name in ["layers", "containers"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(ImageError::file("make", path))?;
        }
        let ground = Ground::open(root.join("leases"))?;
        let (known, removed) = images(&store)?;
        let all = known.values().chain(removed.values());
        let mut needed: BTreeSet<Digest> = all.flat_map(|image| image.layers.clone()).collect();
        needed.extend(ground.layers());
        let (layers, gone) = layers(&store, &root.join("layers"), needed)?;
        let partials = partial::Partials::open(root.join("partial"))?;
        let shared = Arc::new(Shared {
            root,
            pinned: config.pinned,
            store,
            client: Client::new(config.registry),
            known: RwLock::new(known),
            removed: Mutex::new(removed),
            layers: Mutex::new(layers),
            leases: Mutex::default(),
            ground,
            gone: Mutex::new(gone),
            turns: Mutex::default(),
            partials,
            retired: AtomicBool::new(false),
            in_flight: Arc::new(tokio::sync::Semaphore::new(fetch::IN_FLIGHT)),
            settling: Arc::new(tokio::sync::Semaphore::new(fetch::SETTLING)),
            pulls: Mutex::default(),
            board: progress::Board::default(),
            usage: usage::Measured::default(),
            wanted: Mutex::default(),
        });
        shared.clear_unknown()?;
        Ok(Self { shared })
    }
}

fn drop_rows(store: &Store, table: Table, damaged: Vec<Damaged>) -> Result<(), ImageError> {
    for row in damaged {
        let error = &row.error as &dyn std::error::Error;
        tracing::error!(?table, id = row.id, error, "a damaged record is dropped");
        store.delete(table, &row.id)?;
    }
    Ok(())
}

type Listed = BTreeMap<ImageId, Arc<Image>>;

/// Those that are known, and those that only containers have.
fn images(store: &Store) -> Result<(Listed, Listed), ImageError> {
    let (rows, damaged) = store.all::<ImageRecord>(Table::Images)?;
    drop_rows(store, Table::Images, damaged)?;
    let (mut known, mut removed) = (Listed::new(), Listed::new());
    for (id, record) in rows {
        let list = if record.removed { &mut removed } else { &mut known };
        match Image::from_record(record) {
            Ok(image) => {
                list.insert(image.id.clone(), Arc::new(image));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    image = id,
                    error,
                    "an image that cannot be read back is dropped; pull it again"
                );
                store.delete(Table::Images, &id)?;
            }
        }
    }
    Ok((known, removed))
}

/// Records of layers, and which of those are not on disk. One that is needed and has no record, or no directory, is
/// damaged: who pulls an image with it brings that one again.
fn layers(
    store: &Store,
    at: &Path,
    needed: BTreeSet<Digest>,
) -> Result<(HashMap<Digest, LayerRecord>, HashSet<Digest>), ImageError> {
    let (rows, damaged) = store.all::<LayerRecord>(Table::Layers)?;
    drop_rows(store, Table::Layers, damaged)?;
    let mut layers: HashMap<Digest, LayerRecord> =
        rows.into_iter().filter_map(|(id, record)| Some((id.parse().ok()?, record))).collect();
    let directory = |id: &Digest| at.join(id.hex()).join("fs");
    let lost: Vec<Digest> = layers.keys().filter(|id| !directory(id).is_dir()).cloned().collect();
    for id in lost.iter().filter(|id| !needed.contains(*id)) {
        layers.remove(id);
        store.delete(Table::Layers, id.as_str())?;
    }
    let mut gone = HashSet::new();
    for id in needed {
        let there = !lost.contains(&id) && (layers.contains_key(&id) || directory(&id).is_dir());
        let known = layers.get(&id).copied();
        if !there {
            tracing::error!(layer = %id, "a layer is gone from the disk; pull an image that has it, or verify --repair");
            gone.insert(id.clone());
        } else if known.is_some() {
            continue;
        } else {
            tracing::error!(layer = %id, "a layer has lost its record; it is brought again with the next pull");
        }
        let (size, entries) = if there { usage::of(&directory(&id)).unwrap_or_default() } else { (0, 0) };
        let tar = known.map_or(0, |known| known.tar);
        let record = LayerRecord { size, entries, tar, damaged: true };
        store.put(Table::Layers, id.as_str(), &record, Durability::Ordinary)?;
        layers.insert(id, record);
    }
    Ok((layers, gone))
}
