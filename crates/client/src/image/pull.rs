//! Images on their way, with their progress.

use std::time::{Duration, Instant};

use berth_cri_api::v1::{AuthConfig, ImageSpec, ImageStatusRequest, PullImageRequest};
use berth_model::Direction;
use serde_json::json;

use super::Show;
use crate::ClientError;
use crate::arguments::PullWhen;
use crate::node::Node;
use crate::output::{print, tell};
use crate::signals::Signals;

/// Beside the image's name.
#[derive(Clone, Default)]
pub(super) struct Wish {
    /// User and password, in place of what files have.
    pub(super) login: Option<(String, String)>,
    /// In place of this machine's.
    pub(super) platform: Option<String>,
}

impl Wish {
    /// The daemon's answer: the image's id. CRI has no word for a platform.
    async fn fetch(self, node: Node, image: String) -> Result<String, tonic::Status> {
        let Self { login, platform } = self;
        let Some(platform) = platform else {
            let auth =
                login.map(|(username, password)| AuthConfig { username, password, ..Default::default() });
            let request = PullImageRequest { image: spec(&image), auth, ..Default::default() };
            return Ok(node.images.clone().pull_image(request).await?.into_inner().image_ref);
        };
        let pulled = node.ask(move |daemon| daemon.pull(&image, &platform, login)).await;
        pulled.unwrap_or_else(|| Err("its answer was lost".to_owned())).map_err(tonic::Status::unknown)
    }
}

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

/// Makes sure that the image is here.
pub(crate) async fn ensure(node: &mut Node, image: &str, when: PullWhen) -> Result<(), ClientError> {
    if when != PullWhen::Always {
        let request = ImageStatusRequest { image: spec(image), verbose: false };
        let answer = node.images.image_status(request).await;
        let answer = answer.map_err(ClientError::call(format!("look for image {image}")))?;
        if answer.into_inner().image.is_some() || when == PullWhen::Never {
            // The daemon says what is missing.
            return Ok(());
        }
    }
    pull(node, image, format!("pull {image}"), Wish::default(), Show::to_stderr()).await.map(drop)
}

/// One after the other; what fails does not keep the others.
pub(super) async fn command(
    node: &mut Node,
    images: &[String],
    wish: Wish,
    as_json: bool,
) -> Result<u8, ClientError> {
    let mut failed = Vec::new();
    for image in images {
        let begin = Instant::now();
        let show = if as_json { Show::nothing() } else { Show::to_stderr() };
        let error = match pull(node, image, image.clone(), wish.clone(), show).await {
            Ok(id) if as_json => {
                let seconds = begin.elapsed().as_secs_f64();
                print(&format!("{}\n", json!({ "image": image, "id": id, "seconds": seconds })))?;
                continue;
            }
            Ok(id) => {
                print(&format!("{id}\n"))?;
                continue;
            }
            Err(error @ ClientError::Left { .. }) => return Err(error),
            Err(error) => error,
        };
        if as_json {
            print(&format!("{}\n", json!({ "image": image, "error": error.to_string() })))?;
        }
        failed.push(error);
    }
    ClientError::all_of(failed)
}

/// The image's id.
async fn pull(
    node: &mut Node,
    image: &str,
    doing: String,
    wish: Wish,
    mut show: Show,
) -> Result<String, ClientError> {
    let begin = Instant::now();
    let mut signals = Signals::listen()?;
    let look = async |node: &Node| {
        let of = image.to_owned();
        node.ask(move |daemon| daemon.transfers(&of)).await.unwrap_or_default()
    };
    // A pull that ended a moment ago is not this one.
    let before: Vec<u64> = match show.is_shown() {
        true => look(node).await.into_iter().filter(|one| one.ended).map(|one| one.number).collect(),
        false => Vec::new(),
    };
    let pulling = wish.fetch(node.clone(), image.to_owned());
    tokio::pin!(pulling);
    let pulled = loop {
        let over = tokio::select! {
            pulled = &mut pulling => Some(pulled),
            signal = signals.end() => {
                show.clear();
                return Err(ClientError::Left { image: image.to_owned(), signal });
            }
            () = tokio::time::sleep(LOOK), if show.is_shown() => None,
        };
        if show.is_shown()
            && let Some(own) = look(node)
                .await
                .iter()
                .rfind(|one| one.direction == Direction::Pull && !before.contains(&one.number))
        {
            show.update(own);
        }
        if let Some(pulled) = over {
            break pulled;
        }
    };
    show.clear();
    let id = pulled.map_err(ClientError::call(doing))?;
    if show.is_shown() {
        tell(&format!("pulled {image} in {:.1} s\n", begin.elapsed().as_secs_f64()));
    }
    Ok(id)
}
