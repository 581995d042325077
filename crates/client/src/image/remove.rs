use berth_cri_api::v1::{ImageStatusRequest, RemoveImageRequest};
use serde_json::json;

use super::list::users;
use super::pull::spec;
use crate::ClientError;
use crate::node::Node;
use crate::output::print;

/// One after the other; what fails does not keep the others.
pub(super) async fn command(
    node: &mut Node,
    images: &[String],
    force: bool,
    as_json: bool,
) -> Result<u8, ClientError> {
    let mut failed = Vec::new();
    for image in images {
        match remove(node, image, force).await {
            Ok(id) if as_json => print(&format!("{}\n", json!({ "image": image, "id": id })))?,
            Ok(id) => print(&format!("{id}\n"))?,
            Err(error) => {
                if as_json {
                    print(&format!("{}\n", json!({ "image": image, "error": error.to_string() })))?;
                }
                failed.push(error);
            }
        }
    }
    ClientError::all_of(failed)
}

/// The id of what it was.
async fn remove(node: &mut Node, image: &str, force: bool) -> Result<String, ClientError> {
    let request = ImageStatusRequest { image: spec(image), verbose: false };
    let found = node.images.image_status(request).await;
    let found = found.map_err(ClientError::call(image))?.into_inner().image;
    let id = found.ok_or_else(|| ClientError::NoImage { name: image.to_owned() })?.id;
    if !force && let Some(by) = users(node).await?.get(&id) {
        return Err(ClientError::InUse { image: image.to_owned(), by: by.join(", ") });
    }
    let request = RemoveImageRequest { image: spec(image) };
    let removed = node.images.remove_image(request).await;
    removed.map_err(ClientError::call(image))?;
    Ok(id)
}
