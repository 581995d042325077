//! ImageService: the table of verbs.

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;
mod stream_images;

use std::sync::Arc;

use berth_cri_api::v1;
use berth_model::ImageSpec;
use tonic::{Request, Response, Status};

use crate::batches::Answers;
use crate::{Backend, Failure, convert};

pub(crate) struct ImageVerbs {
    backend: Arc<dyn Backend>,
}

impl ImageVerbs {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }
}

/// The image a request is about; an empty name is nobody's.
fn named(image: Option<v1::ImageSpec>) -> Result<ImageSpec, Failure> {
    let spec = convert::image_spec("image", image)?;
    match spec.image.is_empty() {
        true => Err(convert::invalid("image.image", "must not be empty")),
        false => Ok(spec),
    }
}

#[tonic::async_trait]
impl v1::image_service_server::ImageService for ImageVerbs {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(list_images::call(self, request.into_inner()).await?))
    }

    type StreamImagesStream = Answers<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Ok(Response::new(stream_images::call(self, request.into_inner()).await?))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        Ok(Response::new(image_status::call(self, request.into_inner()).await?))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        Ok(Response::new(pull_image::call(self, request.into_inner()).await?))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        Ok(Response::new(remove_image::call(self, request.into_inner()).await?))
    }

    async fn image_fs_info(
        &self,
        request: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        Ok(Response::new(image_fs_info::call(self, request.into_inner()).await?))
    }
}
