//! Images to registries. What the registry has is not sent; what another of its repositories is known to have is mounted.
//!
//! Compressed blobs are not kept, so an image goes out in one of two ways: under a manifest by which a registry is known
//! to have it, when every blob of that manifest is still to be had there (it keeps its digest), or else with its layers
//! compressed anew, under a new manifest and the same image id.

mod archive;
mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_ids::{Digest, ImageId};
use berth_model::{Direction, PartState};
use berth_registry::{Body, Login, Reference, Section, Session};
use berth_store::{Durability, Table};
use bytes::Bytes;
use serde::Serialize;

use crate::progress::{LayerProgress, Progress};
use crate::spool::Spooled;
use crate::{Image, ImageError, Images, Shared};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What came of a push.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// Where it is now: registry, repository, tag.
    pub reference: String,
    /// Of the manifest or index.
    pub digest: Digest,
    /// `None` for an index and for what is no image.
    pub image: Option<ImageId>,
    /// Under a manifest that was there before, or the archive's own.
    pub unchanged: bool,
    pub layers: Vec<PushedLayer>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PushedLayer {
    pub digest: Digest,
    /// As it is at the registry.
    pub bytes: u64,
    pub state: PartState,
}

impl Images {
    /// Pushes an image of this node to `to`, or to what it is called.
    pub async fn push(
        &self,
        source: &str,
        to: Option<&str>,
        login: Option<Login>,
    ) -> Result<Pushed, ImageError> {
        let unknown = || ImageError::Unknown { id: source.to_owned() };
        let image = self.shared.find(source).ok_or_else(unknown)?;
        let to = match to {
            Some(to) => to.parse::<Reference>()?,
            None => {
                let named = source.parse::<Reference>().ok();
                let own = named.filter(|own| own.tagged().is_some_and(|tag| image.repo_tags.contains(&tag)));
                own.ok_or_else(|| ImageError::push(source, "say where to: it is not called so by a tag"))?
            }
        };
        let job = Job::begin(&self.shared, to, login).await?;
        stored::push(&job, &image).await
    }

    /// Pushes what an archive has to `to`, or else each image to what the archive calls it. Indexes go whole.
    pub async fn push_archive(
        &self,
        archive: std::fs::File,
        to: Option<&str>,
        login: Option<Login>,
    ) -> Result<Vec<Pushed>, ImageError> {
        archive::push(&self.shared, archive, to, login).await
    }
}

/// One push to one name. Ends its blocking work when it is dropped.
struct Job {
    shared: Arc<Shared>,
    session: Session,
    to: Reference,
    /// The tag.
    name: String,
    progress: Progress,
    ended: Arc<AtomicBool>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Job {
    async fn begin(shared: &Arc<Shared>, to: Reference, login: Option<Login>) -> Result<Self, ImageError> {
        let name = match (to.digest(), to.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            _ => return Err(ImageError::push(&to.to_string(), "a push goes to a tag, not to a digest")),
        };
        let session = shared.client.session(&to, login).await?;
        let progress = shared.board.begin(Direction::Push, to.to_string());
        let (shared, ended) = (shared.clone(), Arc::default());
        Ok(Self { shared, session, to, name, progress, ended })
    }

    fn lost(&self) -> ImageError {
        ImageError::Lost { reference: self.to.to_string() }
    }

    /// Where the registry has an image now, if it is one of ours; by digest, too, where it is called so.
    async fn remember(&self, id: ImageId, digest: Digest, manifest: String) -> Result<(), ImageError> {
        let (shared, to) = (self.shared.clone(), self.to.clone());
        blocking(self, move || shared.pushed(&id, &to, &digest, &manifest)).await
    }
}

/// What sends one blob; it may go on beside others.
#[derive(Clone)]
struct Sender {
    shared: Arc<Shared>,
    session: Session,
    to: Reference,
}

impl Sender {
    fn of(job: &Job) -> Self {
        Self { shared: job.shared.clone(), session: job.session.clone(), to: job.to.clone() }
    }

    /// Whether the repository has the blob, or has it now from another one.
    async fn is_there(&self, digest: &Digest) -> Result<Option<PartState>, ImageError> {
        if self.session.has_blob(digest).await? {
            return Ok(Some(PartState::There));
        }
        for from in self.elsewhere(digest) {
            if self.session.mount_blob(digest, &from).await? {
                return Ok(Some(PartState::Mounted));
            }
        }
        Ok(None)
    }

    /// Other repositories of this registry that are known to have had the blob.
    fn elsewhere(&self, digest: &Digest) -> Vec<String> {
        /// Each costs a request.
        const MOST: usize = 2;
        let own = self.to.place();
        let host = format!("{}/", self.to.host());
        let known = self.shared.known.read();
        let manifests = known.values().flat_map(|image| &image.manifests);
        let having =
            manifests.filter(|known| known.repository != own && known.document.contains(digest.as_str()));
        let mut places: Vec<String> =
            having.filter_map(|known| known.repository.strip_prefix(&host).map(str::to_owned)).collect();
        places.sort();
        places.dedup();
        places.truncate(MOST);
        places
    }

    /// A small document, unless it is there.
    async fn document(&self, digest: &Digest, bytes: Bytes) -> Result<(), ImageError> {
        if self.is_there(digest).await?.is_none() {
            self.session.push_blob(digest, Body::Bytes(bytes)).await?;
        }
        Ok(())
    }

    /// A layer that is not there.
    async fn send(
        &self,
        digest: &Digest,
        section: Section,
        part: &LayerProgress,
    ) -> Result<PartState, ImageError> {
        part.enter(PartState::Moving);
        self.session.push_blob(digest, Body::File(section)).await?;
        Ok(PartState::Done)
    }

    /// A layer as it was compressed, unless it is there.
    async fn layer(&self, blob: Spooled, part: &LayerProgress) -> Result<PushedLayer, ImageError> {
        let Spooled { file, size, digest } = blob;
        part.size(size);
        let state = match self.is_there(&digest).await? {
            Some(state) => state,
            None => self.send(&digest, Section { file, at: 0, size, gone: part.moved() }, part).await?,
        };
        part.enter(state);
        Ok(PushedLayer { digest, bytes: size, state })
    }
}

/// Blocking work of a push.
async fn blocking<T: Send + 'static>(
    job: &Job,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(job.lost()))
}

impl Shared {
    fn pushed(
        &self,
        id: &ImageId,
        to: &Reference,
        digest: &Digest,
        manifest: &str,
    ) -> Result<(), ImageError> {
        let mut known = self.known.write();
        let Some(image) = known.get(id) else { return Ok(()) };
        let mut image = Image::clone(image);
        image.found_at(to.place(), manifest.as_bytes());
        let (called, pinned) = (to.tagged(), to.pinned(digest));
        let called = called.is_some_and(|tag| image.repo_tags.contains(&tag));
        if called && !image.repo_digests.contains(&pinned) {
            image.repo_digests.push(pinned);
        }
        self.store.put(Table::Images, &id.to_string(), &image.to_record(), Durability::Ordinary)?;
        known.insert(id.clone(), Arc::new(image));
        Ok(())
    }
}
