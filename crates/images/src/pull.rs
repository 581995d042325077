//! Pulls: detached from whoever asked, layers in parallel, each streamed from the registry into its directory.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use berth_registry::{Login, Reference, Resolved};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::fetch;
use crate::layers::Wanted;
use crate::progress::{Direction, Progress};
use crate::{Image, ImageError, Shared};

type Outcome = Option<Result<Arc<Image>, ImageError>>;
pub(crate) type Waiting = watch::Receiver<Outcome>;

/// Layers of one pull at a time: the processors inflate, more only takes memory.
const PARALLEL: usize = 3;

pub(crate) async fn pull(
    shared: &Arc<Shared>,
    reference: &str,
    handler: &str,
    login: Option<Login>,
) -> Result<Arc<Image>, ImageError> {
    let reference: Reference = reference.parse().map_err(ImageError::Name)?;
    // Not by name alone: what one may read another may not.
    let who = login.as_ref().map(|login| login.credentials.fingerprint()).unwrap_or_default();
    let key = format!("{reference} {who} {handler}");
    let mut outcome = match shared.pulls.lock().entry(key.clone()) {
        Entry::Occupied(running) => running.get().clone(),
        Entry::Vacant(free) => {
            let (tell, outcome) = watch::channel(None);
            free.insert(outcome.clone());
            let progress = shared.board.begin(Direction::Pull, reference.to_string());
            let (work, landing) = (shared.clone(), Landing { shared: shared.clone(), key });
            let (reference, handler) = (reference.clone(), handler.to_owned());
            tokio::spawn(async move {
                let result = whole(&work, &reference, handler, login, &progress).await;
                drop((landing, progress));
                tell.send_replace(Some(result));
            });
            outcome
        }
    };
    let landed = outcome.wait_for(Option::is_some).await;
    match landed.as_deref() {
        Ok(Some(result)) => result.clone(),
        _ => Err(ImageError::Lost { reference: reference.to_string() }),
    }
}

struct Landing {
    shared: Arc<Shared>,
    key: String,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.pulls.lock().remove(&self.key);
    }
}

async fn whole(
    shared: &Arc<Shared>,
    reference: &Reference,
    handler: String,
    login: Option<Login>,
    progress: &Progress,
) -> Result<Arc<Image>, ImageError> {
    let session = shared.client.session(reference, login).await?;
    let Resolved { mut manifest, top, config, raw } = session.resolve().await?;
    let mut image = Image::new(manifest.config.clone(), &config)?;
    if image.layers.len() != manifest.layers.len() {
        let problem = "it and the manifest disagree about the number of layers".to_owned();
        return Err(ImageError::Config { problem });
    }
    let parts = progress.begin(&manifest.layers);
    let _wanted = Wanted::new(shared, &image.layers);
    let mut work = JoinSet::new();
    let room = Arc::new(Semaphore::new(PARALLEL));
    let blobs = std::mem::take(&mut manifest.layers);
    for ((id, blob), part) in image.layers.iter().cloned().zip(blobs).zip(parts) {
        let (shared, session, room) = (shared.clone(), session.clone(), room.clone());
        work.spawn(async move {
            let Ok(_room) = room.acquire_owned().await else { return Ok(()) };
            fetch::layer(&shared, &session, id, blob, &part).await
        });
    }
    while let Some(done) = work.join_next().await {
        // The first failure ends the pull; dropping the set ends the other layers.
        done.unwrap_or_else(|_| Err(ImageError::Lost { reference: reference.to_string() }))?;
    }
    image.size += shared.size_of(&image.layers);
    image.repo_tags.extend(if reference.digest().is_some() { None } else { reference.tagged() });
    image.repo_digests.push(reference.pinned(&top));
    image.annotations = manifest.annotations;
    image.handlers.insert(handler);
    image.found_at(reference.place(), &raw);
    let (shared, name) = (shared.clone(), reference.to_string());
    let recorded = tokio::task::spawn_blocking(move || shared.record(image)).await;
    let image = recorded.unwrap_or_else(|_| Err(ImageError::Lost { reference: name.clone() }))?;
    tracing::info!(reference = name, image = %image.id, "image pulled");
    Ok(image)
}
