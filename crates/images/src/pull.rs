//! Pulls: detached from whoever asked, layers in parallel, each streamed from the registry into its directory.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use berth_model::Direction;
use berth_registry::{Login, Platform, Reference, Resolved};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::fetch;
use crate::layers::Wanted;
use crate::progress::Progress;
use crate::{Image, ImageError, Shared};

type Outcome = Option<Result<Arc<Image>, ImageError>>;
pub(crate) type Waiting = watch::Receiver<Outcome>;

/// Layers of one pull that come at a time: the processors inflate, more only takes memory. Those that are there and wait for the
/// disk do not count, up to [`fetch::SETTLING`].
const PARALLEL: usize = 3;

/// What is wanted of a reference, and who asks.
pub(crate) struct Wish {
    /// The runtime handler that it is for; the empty one is the default.
    pub(crate) handler: String,
    /// `None`: this machine's.
    pub(crate) platform: Option<Platform>,
    pub(crate) login: Option<Login>,
}

impl Wish {
    /// Whoever wishes the same is given the same. Not by name alone: what one may read another may not.
    fn key(&self, reference: &Reference) -> String {
        let who = self.login.as_ref().map(|login| (login.credentials.fingerprint(), login.server.as_deref()));
        let platform = self.platform.as_ref().map(Platform::to_string);
        format!("{reference} {who:?} {platform:?} {}", self.handler)
    }
}

pub(crate) async fn pull(
    shared: &Arc<Shared>,
    reference: &str,
    wish: Wish,
) -> Result<Arc<Image>, ImageError> {
    let reference: Reference = reference.parse().map_err(ImageError::Name)?;
    let key = wish.key(&reference);
    let mut outcome = match shared.pulls.lock().entry(key.clone()) {
        Entry::Occupied(running) => running.get().clone(),
        Entry::Vacant(free) => {
            let (tell, outcome) = watch::channel(None);
            free.insert(outcome.clone());
            let progress = shared.board.begin(Direction::Pull, reference.to_string());
            let (work, landing) = (shared.clone(), Landing { shared: shared.clone(), key });
            let reference = reference.clone();
            tokio::spawn(async move {
                let result = whole(&work, &reference, wish, &progress).await;
                if result.as_ref().is_err_and(ImageError::is_of_space) {
                    give_back(work).await;
                }
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

/// Layers that a failed pull finished spare the next attempt their transfer, but for a disk that has no room for them.
async fn give_back(shared: Arc<Shared>) {
    let done = tokio::task::spawn_blocking(move || shared.collect_garbage()).await;
    if let Ok(Err(error)) = done {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "layers of a failed pull are kept for longer"
        );
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
    wish: Wish,
    progress: &Progress,
) -> Result<Arc<Image>, ImageError> {
    let Wish { handler, platform, login } = wish;
    let session = shared.client.session(reference, login).await?;
    let Resolved { mut manifest, top, config, raw } = session.resolve(platform.as_ref()).await?;
    let mut image = Image::new(manifest.config.clone(), &config)?;
    if image.layers.len() != manifest.layers.len() {
        let problem = "it and the manifest disagree about the number of layers".to_owned();
        return Err(ImageError::Config { problem });
    }
    let parts = progress.begin(&manifest.layers);
    let _wanted = Wanted::new(shared, &image.layers);
    let mut work = JoinSet::new();
    let blobs = std::mem::take(&mut manifest.layers);
    let mut layers = image.layers.iter().cloned().zip(blobs).zip(parts).peekable();
    let lost = || ImageError::Lost { reference: reference.to_string() };
    let places = Arc::new(Semaphore::new(PARALLEL));
    loop {
        tokio::select! {
            // The first failure ends the pull; dropping the set ends the other layers.
            Some(done) = work.join_next() => done.unwrap_or_else(|_| Err(lost()))?,
            // One after the other, whoever pulls: pulls of one image then wait for each other's layers and bring no more of
            // them at a time than one pull does.
            place = places.clone().acquire_owned(), if layers.peek().is_some() => {
                let Some(((layer, part), place)) = layers.next().zip(place.ok()) else { return Err(lost()) };
                let (shared, session) = (shared.clone(), session.clone());
                work.spawn(async move { fetch::layer(&shared, &session, layer, Some(place), &part).await });
            }
            else => break,
        }
    }
    image.size += shared.size_of(&image.layers);
    if platform.is_some_and(|platform| !platform.runs_here()) {
        // A name stands for what this machine runs: another's image must not take it from that, nor the index's digest.
        image.repo_digests.push(reference.pinned(&manifest.digest));
    } else {
        image.repo_tags.extend(if reference.digest().is_some() { None } else { reference.tagged() });
        image.repo_digests.push(reference.pinned(&top));
    }
    image.annotations = manifest.annotations;
    image.handlers.insert(handler);
    image.found_at(reference.place(), &raw);
    let (shared, name) = (shared.clone(), reference.to_string());
    let recorded = tokio::task::spawn_blocking(move || shared.record(image)).await;
    let image = recorded.unwrap_or_else(|_| Err(ImageError::Lost { reference: name.clone() }))?;
    tracing::info!(reference = name, image = %image.id, "image pulled");
    Ok(image)
}
