use berth_cri_api::v1::{ImageStatusRequest, ImageStatusResponse};

use super::{ImageVerbs, named};
use crate::{Failure, convert};

/// An absent image is an empty answer: the kubelet then pulls it.
pub(super) async fn call(
    verbs: &ImageVerbs,
    request: ImageStatusRequest,
) -> Result<ImageStatusResponse, Failure> {
    let spec = named(request.image)?;
    let mut found = verbs.backend.image_status(&spec, request.verbose).await?;
    let verbose = found.as_mut().and_then(|image| image.verbose.take());
    let info = verbose.map(|json| ("info".to_owned(), json)).into_iter().collect();
    Ok(ImageStatusResponse { image: found.map(convert::image), info })
}
