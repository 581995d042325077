use berth_cri_api::v1::{PullImageRequest, PullImageResponse};

use super::{ImageVerbs, named};
use crate::runtime::HANDLERS;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &ImageVerbs,
    request: PullImageRequest,
) -> Result<PullImageResponse, Failure> {
    let spec = named(request.image)?;
    if !HANDLERS.contains(&spec.runtime_handler.as_str()) {
        return Err(convert::invalid(
            "image.runtime_handler",
            format!("there is no {:?}", spec.runtime_handler),
        ));
    }
    let image_ref = verbs.backend.pull_image(spec, convert::auth(request.auth)).await?;
    Ok(PullImageResponse { image_ref })
}
