use berth_cri_api::v1::{ListImagesRequest, StreamImagesRequest, StreamImagesResponse};

use super::{ImageVerbs, list_images};
use crate::Failure;
use crate::batches::{Answers, batches};

pub(super) async fn call(
    verbs: &ImageVerbs,
    request: StreamImagesRequest,
) -> Result<Answers<StreamImagesResponse>, Failure> {
    let list = list_images::call(verbs, ListImagesRequest { filter: request.filter }).await?;
    Ok(batches(list.images, |images| StreamImagesResponse { images }))
}
