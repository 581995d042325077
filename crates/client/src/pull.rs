//! Images on their way, with their progress.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use berth_cri_api::v1::{ImageSpec, ImageStatusRequest, PullImageRequest};

use crate::arguments::PullWhen;
use crate::node::Node;
use crate::output::{print, size, tell};
use crate::{ClientError, Pull};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(150);

fn spec(image: &str) -> Option<ImageSpec> {
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
    pull(node, image).await.map(drop)
}

pub(crate) async fn command(node: &mut Node, image: &str) -> Result<u8, ClientError> {
    let id = pull(node, image).await?;
    print(&format!("{id}\n"))?;
    Ok(0)
}

/// The image's id.
async fn pull(node: &mut Node, image: &str) -> Result<String, ClientError> {
    let begin = Instant::now();
    let shown = std::io::stderr().is_terminal();
    let mut images = node.images.clone();
    let pulling = images.pull_image(PullImageRequest { image: spec(image), ..Default::default() });
    tokio::pin!(pulling);
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled,
            () = tokio::time::sleep(LOOK), if shown => {
                let pulls = node.ask(|daemon| daemon.pulls()).await.unwrap_or_default();
                // The one whose full name has what was typed; else it is told under another name.
                if let Some(pull) = pulls.iter().find(|pull| pull.reference.contains(image)) {
                    tell(&format!("\r\x1b[K{}", line(image, pull)));
                }
            }
        }
    };
    if shown {
        tell("\r\x1b[K");
    }
    let id = pulled.map_err(ClientError::call(format!("pull {image}")))?.into_inner().image_ref;
    tell(&format!("pulled {image} in {:.1} s\n", begin.elapsed().as_secs_f64()));
    Ok(id)
}

fn line(image: &str, pull: &Pull) -> String {
    let done = format!("{} of {}", size(pull.bytes_done), size(pull.bytes));
    format!("{image}: {}/{} layers, {done}", pull.layers_done, pull.layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line() {
        let pull = Pull { layers: 3, layers_done: 1, bytes: 2_000_000, bytes_done: 500, ..Pull::default() };
        assert_eq!(line("a:1", &pull), "a:1: 1/3 layers, 500 B of 2.0 MB");
    }
}
