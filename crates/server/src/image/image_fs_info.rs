use berth_cri_api::v1::{ImageFsInfoRequest, ImageFsInfoResponse};

use super::ImageVerbs;
use crate::Failure;
use crate::convert::filesystem;

pub(super) async fn call(verbs: &ImageVerbs, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Failure> {
    let (images, containers) = verbs.backend.image_fs().await?;
    let now = crate::runtime::now();
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![filesystem(images.clone(), now)],
        container_filesystems: vec![filesystem(containers.unwrap_or(images), now)],
    })
}
