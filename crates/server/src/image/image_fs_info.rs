use berth_cri_api::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value,
};
use berth_model::FsUsage;

use super::ImageVerbs;
use crate::Failure;

fn filesystem(usage: FsUsage, timestamp: i64) -> FilesystemUsage {
    FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint }),
        used_bytes: Some(UInt64Value { value: usage.used_bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes_used }),
    }
}

pub(super) async fn call(verbs: &ImageVerbs, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Failure> {
    let (images, containers) = verbs.backend.image_fs().await?;
    let now = crate::runtime::now();
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![filesystem(images.clone(), now)],
        container_filesystems: vec![filesystem(containers.unwrap_or(images), now)],
    })
}
