use berth_cri_api::v1::{PullImageRequest, PullImageResponse};

use super::{ImageVerbs, named};
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &ImageVerbs,
    request: PullImageRequest,
) -> Result<PullImageResponse, Failure> {
    let spec = named(request.image)?;
    let image_ref = verbs.backend.pull_image(spec, convert::auth(request.auth)).await?;
    Ok(PullImageResponse { image_ref })
}
