use std::sync::Arc;

use async_trait::async_trait;
use berth_ids::{ContainerId, ImageId};
use berth_images::Image;
use berth_pods::ports::{ImageHandle, Images, PortError};

use super::blocking;

#[derive(Debug, Clone)]
pub(crate) struct ImagePort {
    images: berth_images::Images,
}

impl ImagePort {
    pub(crate) fn new(images: berth_images::Images) -> Self {
        Self { images }
    }
}

/// `repo@digest` where the image came from a registry, else its id.
pub(crate) fn reference(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

fn handle(image: &Image) -> ImageHandle {
    ImageHandle { id: image.id.clone(), reference: reference(image), config: Arc::new(image.config.clone()) }
}

#[async_trait]
impl Images for ImagePort {
    async fn resolve(&self, wanted: &str) -> Option<ImageHandle> {
        self.images.resolve(wanted).map(|image| handle(&image))
    }

    async fn leased(&self, id: &ImageId) -> Option<ImageHandle> {
        self.images.image(id).ok().map(|image| handle(&image))
    }

    async fn read_file(&self, id: &ImageId, path: &str) -> Result<Option<Vec<u8>>, PortError> {
        let (images, id, path) = (self.images.clone(), id.clone(), path.to_owned());
        blocking("read a file of the image", move || {
            images.read_file(&*images.image(&id)?, &path, 1024 * 1024)
        })
        .await
    }

    async fn check_volume(&self, id: &ImageId, sub_path: &str) -> Result<(), PortError> {
        let (images, id, path) = (self.images.clone(), id.clone(), sub_path.to_owned());
        blocking("mount the image", move || images.image_volume(&*images.image(&id)?, &path, None).map(drop))
            .await
    }

    async fn lease(&self, id: &ImageId, container: &ContainerId) -> Result<(), PortError> {
        let (images, id, holder) = (self.images.clone(), id.clone(), container.to_string());
        blocking("lease the image", move || images.acquire(&id, &holder)).await
    }

    async fn release(&self, container: &ContainerId) -> Result<(), PortError> {
        let (images, container) = (self.images.clone(), container.clone());
        blocking("remove the writable layer", move || {
            images.remove_rootfs(&container)?;
            images.release(container.as_str())
        })
        .await
    }

    async fn restore(&self, live: Vec<(ContainerId, ImageId)>) -> Result<(), PortError> {
        let images = self.images.clone();
        blocking("restore image leases", move || {
            for (container, image) in &live {
                if let Err(error) = images.acquire(image, container.as_str()) {
                    tracing::warn!(
                        container = %container,
                        error = &error as &dyn std::error::Error,
                        "the image of a container is not there any more"
                    );
                }
            }
            for stale in images.holders() {
                if !live.iter().any(|(container, _)| container.as_str() == stale) {
                    images.release(&stale)?;
                }
            }
            for stale in images.rootfs_ids()? {
                if !live.iter().any(|(container, _)| *container == stale) {
                    images.remove_rootfs(&stale)?;
                }
            }
            images.settle()
        })
        .await
    }
}
