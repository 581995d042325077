//! What is in an archive, to a registry: OCI layouts byte by byte, `docker save` with its layers compressed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use berth_ids::{Digest, ImageId};
use berth_model::Direction;
use berth_registry::{Login, Reference, Section};
use serde::Deserialize;

use super::stored::compressed;
use super::{Job, MANIFEST, Pushed, PushedLayer, Sender, blocking};
use crate::archive::{Contents, blob_name, broken};
use crate::import::{self, Described};
use crate::original::Tar;
use crate::{ImageError, Images, Shared};

/// Documents of one image: an index and what it leads to.
const DOCUMENTS: usize = 1000;
const NESTED: usize = 5;
/// Layers of all of them.
const BLOBS: usize = 20_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
}

impl Descriptor {
    /// It stays where it is, by its licence or its makers' wish.
    fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            || self.media_type.contains("foreign")
            || self.media_type.contains("nondistributable")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

/// What has to be at the registry before each next one.
#[derive(Clone, Default)]
struct Plan {
    configs: Vec<Digest>,
    blobs: Vec<Descriptor>,
    /// With their types; the last is what the name stands for.
    documents: Vec<(Digest, String)>,
    /// Of a single image.
    config: Option<Digest>,
    seen: BTreeSet<Digest>,
}

impl Plan {
    fn of(contents: &Contents, top: &import::IndexEntry) -> Result<Self, ImageError> {
        let mut plan = Self::default();
        plan.add(contents, top.digest(), top.media_type(), NESTED)?;
        Ok(plan)
    }

    /// What a document names goes before it.
    fn add(
        &mut self,
        contents: &Contents,
        digest: &Digest,
        kind: &str,
        depth: usize,
    ) -> Result<(), ImageError> {
        if !self.seen.insert(digest.clone()) {
            return Ok(());
        }
        let bytes = contents.blob(digest)?;
        let wrong = |error: serde_json::Error| broken(format!("manifest {digest}: {error}"));
        let document: Document = serde_json::from_slice(&bytes).map_err(wrong)?;
        let own = [document.media_type.as_str(), kind].into_iter().find(|kind| !kind.is_empty());
        let kind = own.unwrap_or(MANIFEST).to_owned();
        for next in document.manifests.iter().flatten() {
            if depth == 0 {
                return Err(broken(format!("indexes are nested deeper than {NESTED}")));
            }
            self.add(contents, &next.digest, &next.media_type, depth - 1)?;
        }
        if document.manifests.is_none() {
            self.config = document.config.as_ref().map(|config| config.digest.clone());
        } else {
            self.config = None;
        }
        let config = document.config.map(|config| config.digest);
        self.configs.extend(config.filter(|config| self.seen.insert(config.clone())));
        for blob in document.layers {
            if !blob.is_foreign() && self.seen.insert(blob.digest.clone()) {
                self.blobs.push(blob);
            }
        }
        self.documents.push((digest.clone(), kind));
        match self.documents.len() > DOCUMENTS || self.blobs.len() > BLOBS {
            true => {
                Err(broken(format!("an index leads to more than {DOCUMENTS} manifests or {BLOBS} layers")))
            }
            false => Ok(()),
        }
    }
}

/// What goes to one name.
#[derive(Clone)]
enum Item {
    Layout(Plan),
    Saved(Box<Described>),
}

pub(super) async fn push(
    shared: &Arc<Shared>,
    archive: File,
    to: Option<&str>,
    login: Option<Login>,
) -> Result<Vec<Pushed>, ImageError> {
    let to = to.map(str::parse::<Reference>).transpose()?;
    let root = shared.root.clone();
    let called = to.as_ref().map_or_else(|| "the archive".to_owned(), Reference::to_string);
    let work = Images { shared: shared.clone() }.begin(Direction::Push, called);
    let _wanting = work.wanting();
    let read = tokio::task::spawn_blocking(move || {
        let contents = Contents::read(&root, archive, &work)?;
        let items = items(&contents, to)?;
        Ok((Arc::new(contents), items))
    });
    let lost = |_| Err(ImageError::Lost { reference: "the archive".to_owned() });
    let (contents, items) = read.await.unwrap_or_else(lost)?;
    let mut pushed = Vec::new();
    for (to, item) in items {
        let job = Job::begin(shared, to, login.clone()).await?;
        pushed.push(match item {
            Item::Layout(plan) => layout(&job, &contents, plan).await?,
            Item::Saved(described) => saved(&job, &contents, described).await?,
        });
    }
    Ok(pushed)
}

/// Every image with where it goes.
fn items(contents: &Contents, to: Option<Reference>) -> Result<Vec<(Reference, Item)>, ImageError> {
    let mut named: Vec<(Vec<Reference>, Item)> = Vec::new();
    match import::index(contents)? {
        Some(entries) => {
            let mut digests: Vec<Digest> = Vec::new();
            for entry in entries {
                let name = entry.name().map(|name| name.parse()).transpose()?;
                match digests.iter().position(|known| known == entry.digest()) {
                    Some(at) => named[at].0.extend(name),
                    None => {
                        digests.push(entry.digest().clone());
                        named.push((name.into_iter().collect(), Item::Layout(Plan::of(contents, &entry)?)));
                    }
                }
            }
        }
        None => import::each(contents, &mut |described| {
            let names = described.image.repo_tags.iter().map(|tag| tag.parse());
            named.push((names.collect::<Result<_, _>>()?, Item::Saved(Box::new(described))));
            Ok(())
        })?,
    }
    let count = named.len();
    let Some(to) = to else {
        if count == 0 || named.iter().any(|(names, _)| names.is_empty()) {
            return Err(broken("not every image in it has a name: say where to push it"));
        }
        let each = |(names, item): (Vec<Reference>, Item)| {
            names.into_iter().map(move |name| (name, item.clone())).collect::<Vec<_>>()
        };
        return Ok(named.into_iter().flat_map(each).collect());
    };
    match named.pop() {
        Some((_, item)) if count == 1 => Ok(vec![(to, item)]),
        _ => Err(broken(format!("it has {count} images, and one name is given for them"))),
    }
}

/// Blobs as they are, then the manifests from the innermost out.
async fn layout(job: &Job, contents: &Arc<Contents>, plan: Plan) -> Result<Pushed, ImageError> {
    let Plan { configs, blobs, documents, config, .. } = plan;
    let parts = job.progress.parts(blobs.iter().map(|blob| (blob.digest.to_string(), blob.size)));
    let (sender, mut layers) = (Sender::of(job), Vec::new());
    for (blob, part) in blobs.into_iter().zip(parts) {
        let state = match sender.is_there(&blob.digest).await? {
            Some(state) => state,
            None => {
                let (file, at, size) = contents.part(&blob_name(&blob.digest))?.place();
                if size != blob.size {
                    let says = format!("{} has {size} bytes, its manifest says {}", blob.digest, blob.size);
                    return Err(broken(says));
                }
                let section = Section { file, at, size, gone: part.moved() };
                sender.send(&blob.digest, section, &part).await?
            }
        };
        part.enter(state);
        layers.push(PushedLayer { digest: blob.digest, bytes: blob.size, state });
    }
    for config in configs {
        let (contents, named) = (contents.clone(), config.clone());
        let bytes = blocking(job, move || contents.blob(&named)).await?;
        sender.document(&config, bytes.into()).await?;
    }
    let mut top = None;
    let last = documents.len().saturating_sub(1);
    for (at, (wanted, kind)) in documents.into_iter().enumerate() {
        let (contents, named) = (contents.clone(), wanted.clone());
        let bytes = blocking(job, move || contents.blob(&named)).await?;
        let name = if at == last { job.name.clone() } else { wanted.to_string() };
        let digest = job.session.push_manifest(bytes.clone().into(), &kind, &name).await?;
        top = Some((digest, bytes));
    }
    let (digest, document) = top.ok_or_else(|| job.lost())?;
    if let (Some(id), Ok(document)) = (config.clone().map(ImageId), String::from_utf8(document)) {
        job.remember(id, digest.clone(), document).await?;
    }
    tracing::info!(reference = %job.to, %digest, "archive pushed");
    let (reference, image) = (job.to.to_string(), config.map(ImageId));
    Ok(Pushed { reference, digest, image, unchanged: true, layers })
}

async fn saved(job: &Job, contents: &Arc<Contents>, described: Box<Described>) -> Result<Pushed, ImageError> {
    let Described { image, layers, .. } = *described;
    let contents = contents.clone();
    let open = move |id: &Digest| {
        let layer = layers.iter().find(|layer| layer.id == *id);
        let name = layer.map(|layer| layer.name.as_str()).unwrap_or_default();
        let part = std::io::BufReader::with_capacity(1 << 18, contents.part(name)?);
        let tar = berth_unpack::decoder(part).map_err(|error| broken(format!("{name}: {error}")))?;
        Ok(Box::new(tar) as Tar)
    };
    compressed(job, &Arc::new(image), Arc::new(open)).await
}
