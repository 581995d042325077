use berth_cri_api::v1::{RemoveImageRequest, RemoveImageResponse};

use super::{ImageVerbs, named};
use crate::Failure;

pub(super) async fn call(
    verbs: &ImageVerbs,
    request: RemoveImageRequest,
) -> Result<RemoveImageResponse, Failure> {
    verbs.backend.remove_image(named(request.image)?).await?;
    Ok(RemoveImageResponse {})
}
