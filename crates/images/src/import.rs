//! Images from an archive or a directory: OCI layouts and `docker save`, also both in one, compressed or not.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;

use berth_ids::Digest;
use berth_model::PartState;
use berth_registry::{Manifest, Platform, Reference};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::archive::{Contents, blob_name, broken};
use crate::layers::Wanted;
use crate::work::Work;
use crate::{Base, Image, ImageError, Shared};

/// Images in one archive.
const IMAGES: usize = 1000;
const NESTED: usize = 4;
/// Manifests looked at on the way to one.
const LOOKED_AT: usize = 16;
/// Layers of an image; the overlay takes 500.
const LAYERS: usize = 500;

const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn bounded(images: usize) -> Result<(), ImageError> {
    match images > IMAGES {
        true => Err(broken(format!("it has more than {IMAGES} images"))),
        false => Ok(()),
    }
}

/// What of an archive's images is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    All,
    /// Images, and names, that are not here: names that have moved on since stay where they are.
    Missing,
}

impl Take {
    /// Leaves the image the names that it is to be given; false where it is not wanted at all.
    fn wants(self, shared: &Shared, image: &mut Image) -> bool {
        if self == Self::All {
            return true;
        }
        if image.repo_tags.is_empty() {
            return shared.whole(&image.id.to_string()).is_none();
        }
        image.repo_tags.retain(|tag| shared.whole(tag).is_none());
        !image.repo_tags.is_empty()
    }
}

pub(crate) fn import(
    shared: &Arc<Shared>,
    archive: File,
    work: &Work,
    what: Take,
    base: Option<&Base>,
) -> Result<Vec<Arc<Image>>, ImageError> {
    let contents = Contents::read(&shared.root, archive, work)?;
    // Its layers take the place of the archive that was copied.
    work.progress.parts(std::iter::empty());
    let (mut images, mut shown) = (Vec::new(), HashSet::new());
    let (mut some, mut given) = (false, HashSet::new());
    let all = each(&contents, &mut |mut described| {
        work.check()?;
        some = true;
        if let Some(base) = base.filter(|_| described.image.repo_tags.is_empty()) {
            let name = base.name(described.tag.as_deref())?;
            if !given.insert(name.clone()) {
                return Err(broken(format!("several images of it would be called {name}")));
            }
            described.image.repo_tags.push(name);
        }
        if !what.wants(shared, &mut described.image) {
            return Ok(());
        }
        images.push(finish(shared, &contents, described, work, &mut shown)?);
        Ok(())
    });
    if all.is_err() {
        // Whole layers of an image that is not: whoever imports again brings them again.
        shared.collect_garbage()?;
    }
    all?;
    match some {
        false => Err(broken("it has no image for this platform")),
        true => Ok(images),
    }
}

/// An image as an archive describes it.
#[derive(Clone)]
pub(crate) struct Described {
    pub(crate) image: Image,
    pub(crate) layers: Vec<Layer>,
    /// What there is of a name where there is no whole one.
    tag: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) id: Digest,
    /// The archive's file.
    pub(crate) name: String,
    /// What that file hashes to, where the archive says so.
    blob: Option<Digest>,
}

/// Gives every image for this machine to `take`, one after the other.
pub(crate) fn each(
    contents: &Contents,
    take: &mut dyn FnMut(Described) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    if let Some(entries) = index(contents)? {
        from_layout(contents, &entries, take)
    } else if contents.find("manifest.json")?.is_some() {
        from_docker(contents, take)
    } else {
        Err(broken("it has neither index.json (OCI) nor manifest.json (docker save)"))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexEntry {
    digest: Digest,
    #[serde(default)]
    media_type: String,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl IndexEntry {
    /// Not one for other machines, nor a note about another entry (BuildKit's attestations).
    fn is_for_us(&self) -> bool {
        self.platform.as_ref().is_none_or(Platform::runs_here)
            && !self.annotations.contains_key("vnd.docker.reference.type")
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Empty where it is not said.
    pub(crate) fn media_type(&self) -> &str {
        &self.media_type
    }

    /// containerd and docker write the full name; the OCI one may be a bare tag, or a bare name as docker knows it.
    pub(crate) fn name(&self) -> Option<&String> {
        let keys = [NAME, REF_NAME];
        let names = || keys.iter().filter_map(|key| self.annotations.get(*key));
        names().find(|name| name.contains(['/', ':'])).or_else(|| names().find(|name| !is_a_tag(name)))
    }

    /// The OCI name where it is a tag and nothing else.
    fn tag(&self) -> Option<&String> {
        self.annotations.get(REF_NAME).filter(|name| is_a_tag(name))
    }
}

/// A version, or a word that is a tag everywhere. The image spec calls any bare `ref.name` a tag; docker's `busybox` is none.
fn is_a_tag(name: &str) -> bool {
    let version = name.trim_start_matches(['v', 'V']);
    version.starts_with(|first: char| first.is_ascii_digit())
        || matches!(
            name,
            "latest" | "stable" | "edge" | "main" | "master" | "dev" | "nightly" | "release" | "test"
        )
}

/// The entries of an OCI layout; `None` for what is none.
pub(crate) fn index(contents: &Contents) -> Result<Option<Vec<IndexEntry>>, ImageError> {
    if contents.find("index.json")?.is_none() {
        return Ok(None);
    }
    let index: Index = serde_json::from_slice(&contents.document("index.json")?)
        .map_err(|e| broken(format!("index.json: {e}")))?;
    bounded(index.manifests.len())?;
    Ok(Some(index.manifests))
}

fn from_layout(
    contents: &Contents,
    entries: &[IndexEntry],
    take: &mut dyn FnMut(Described) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let saved = saved_names(contents)?;
    for entry in entries.iter().filter(|entry| entry.is_for_us()) {
        let Some(manifest) = manifest(contents, &entry.digest)? else { continue };
        let config = contents.blob(&manifest.config)?;
        let mut image = Image::new(manifest.config.clone(), &config)?;
        if image.layers.len() != manifest.layers.len() {
            return Err(broken("its manifest and config disagree about the number of layers"));
        }
        let layers = image.layers.iter().zip(&manifest.layers);
        let layers = layers.map(|(id, blob)| Layer {
            id: id.clone(),
            name: blob_name(&blob.digest),
            blob: Some(blob.digest.clone()),
        });
        let layers: Vec<_> = layers.collect();
        image.annotations = manifest.annotations;
        if let Some(name) = entry.name() {
            let reference: Reference = name.parse()?;
            image.repo_tags.extend(reference.tagged());
            image.repo_digests.push(reference.pinned(&manifest.digest));
        }
        for tag in saved.get(&manifest.config).into_iter().flatten() {
            image.repo_tags.extend(tag.parse::<Reference>()?.tagged());
        }
        image.repo_tags.sort();
        image.repo_tags.dedup();
        take(Described { image, layers, tag: entry.tag().cloned() })?;
    }
    Ok(())
}

/// Through indexes down to this platform's manifest, as a registry is asked (berth-registry's `resolve`): depth first, the best
/// entry first. `None` when there is none for it. An index may lead to what the archive was saved without, and to more.
fn manifest(contents: &Contents, digest: &Digest) -> Result<Option<Manifest>, ImageError> {
    let (mut open, mut looked, mut missing) = (vec![(digest.clone(), 0)], 0, None);
    while let Some((wanted, depth)) = open.pop() {
        looked += 1;
        if depth > 0 && contents.find(&blob_name(&wanted))?.is_none() {
            missing.get_or_insert(wanted);
            continue;
        }
        let bytes = contents.blob(&wanted)?;
        match Manifest::read(&bytes, wanted.clone()).map_err(|e| broken(format!("manifest {wanted}: {e}")))? {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(_) if depth >= NESTED => {
                return Err(broken(format!("indexes are nested deeper than {NESTED}")));
            }
            Err(next) => open.extend(next.into_iter().rev().map(|next| (next, depth + 1))),
        }
        if looked >= LOOKED_AT && !open.is_empty() {
            return Err(broken(format!("an index leads to more than {LOOKED_AT} manifests")));
        }
    }
    match missing {
        Some(missing) => Err(broken(format!(
            "{} is missing, the manifest of its image for this platform: it was saved without it",
            blob_name(&missing)
        ))),
        None => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What the `manifest.json` beside an OCI layout calls its images, by their configurations.
fn saved_names(contents: &Contents) -> Result<HashMap<Digest, Vec<String>>, ImageError> {
    let mut names = HashMap::new();
    if contents.find("manifest.json")?.is_none() {
        return Ok(names);
    }
    let Ok(saved) = serde_json::from_slice::<Vec<Saved>>(&contents.document("manifest.json")?) else {
        return Ok(names);
    };
    bounded(saved.len())?;
    for one in saved {
        let hex = one.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() {
            names.entry(digest).or_insert_with(Vec::new).extend(one.repo_tags.unwrap_or_default());
        }
    }
    Ok(names)
}

fn from_docker(
    contents: &Contents,
    take: &mut dyn FnMut(Described) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let saved: Vec<Saved> = serde_json::from_slice(&contents.document("manifest.json")?)
        .map_err(|e| broken(format!("manifest.json: {e}")))?;
    bounded(saved.len())?;
    for one in saved {
        let config = contents.document(&one.config)?;
        let id = Digest::from_sha256(Sha256::digest(&config).into());
        let mut image = Image::new(id, &config)?;
        if image.layers.len() != one.layers.len() {
            return Err(broken("its manifest and config disagree about the number of layers"));
        }
        for tag in one.repo_tags.unwrap_or_default() {
            image.repo_tags.extend(tag.parse::<Reference>()?.tagged());
        }
        if image.layers.len() > LAYERS {
            return Err(broken(format!("an image of it has more than {LAYERS} layers")));
        }
        let layers = image.layers.iter().cloned().zip(one.layers);
        let layers = layers.map(|(id, name)| Layer { id, name, blob: None }).collect();
        take(Described { image, layers, tag: None })?;
    }
    Ok(())
}

/// `shown` has the layers that images before it brought.
fn finish(
    shared: &Arc<Shared>,
    contents: &Contents,
    described: Described,
    work: &Work,
    shown: &mut HashSet<Digest>,
) -> Result<Arc<Image>, ImageError> {
    let Described { mut image, layers, .. } = described;
    let _wanted = Wanted::new(shared, &image.layers);
    let mut new = Vec::new();
    for layer in layers.iter().filter(|layer| shown.insert(layer.id.clone())) {
        // One that is here already need not be in the archive.
        new.push((layer.id.clone(), contents.find(&layer.name)?.map_or(0, |blob| blob.size())));
    }
    let parts = work.progress.more(new.iter().map(|(id, bytes)| (id.to_string(), *bytes)));
    let parts: HashMap<_, _> = new.into_iter().map(|(id, _)| id).zip(parts).collect();
    for layer in &layers {
        let part = parts.get(&layer.id);
        let _turn = shared.blocking_turn(&layer.id);
        if !shared.has_layer(&layer.id) {
            let blob = io::BufReader::with_capacity(1 << 18, contents.part(&layer.name)?);
            if let Some(part) = part {
                part.enter(PartState::Moving);
            }
            let stream = work.follow(blob, part.cloned());
            let added = shared.add_layer(&layer.id, layer.blob.as_ref(), stream, || ());
            // Why the stream ended says less than that nobody wants it any more.
            added.or_else(|error| work.check().and(Err(error)))?;
        }
        if let Some(part) = part {
            part.done();
        }
    }
    image.size += shared.size_of(&image.layers);
    shared.record(image)
}

impl Shared {
    pub(crate) fn size_of(&self, ids: &[Digest]) -> u64 {
        let layers = self.layers.lock();
        ids.iter().filter_map(|id| layers.get(id)).map(|layer| layer.size).sum()
    }
}
