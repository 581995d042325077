use berth_cri_api::v1::{ListImagesRequest, ListImagesResponse};

use super::ImageVerbs;
use crate::{Failure, convert};

pub(super) async fn call(
    verbs: &ImageVerbs,
    request: ListImagesRequest,
) -> Result<ListImagesResponse, Failure> {
    let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image);
    let images = verbs.backend.list_images(wanted.as_deref().filter(|text| !text.is_empty())).await?;
    Ok(ListImagesResponse { images: images.into_iter().map(convert::image).collect() })
}
