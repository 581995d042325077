use berth_cri_api::v1;
use berth_model::ImageSpec;

use super::{invalid, map, to_map};
use crate::{Failure, ImageInfo, RegistryAuth};

/// An image must be named.
pub(crate) fn image_spec(field: &str, given: Option<v1::ImageSpec>) -> Result<ImageSpec, Failure> {
    let given = given.ok_or_else(|| invalid(field, "must be given"))?;
    if given.image.len() > 4096 || given.image.contains('\0') {
        return Err(invalid(format!("{field}.image"), "is no image reference"));
    }
    Ok(ImageSpec {
        image: given.image,
        annotations: map(&format!("{field}.annotations"), given.annotations)?,
        user_specified_image: given.user_specified_image,
        runtime_handler: given.runtime_handler,
        image_ref: given.image_ref,
    })
}

pub(crate) fn to_image_spec(spec: ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: spec.image,
        annotations: to_map(spec.annotations),
        user_specified_image: spec.user_specified_image,
        runtime_handler: spec.runtime_handler,
        image_ref: spec.image_ref,
    }
}

/// `None` when every field is empty: then the pull is anonymous.
pub(crate) fn auth(given: Option<v1::AuthConfig>) -> Option<RegistryAuth> {
    let given = given?;
    let auth = RegistryAuth {
        username: given.username,
        password: given.password,
        auth: given.auth,
        server_address: given.server_address,
        identity_token: given.identity_token,
        registry_token: given.registry_token,
    };
    (auth != RegistryAuth::default()).then_some(auth)
}

pub(crate) fn image(info: ImageInfo) -> v1::Image {
    v1::Image {
        spec: Some(v1::ImageSpec {
            image: info.id.clone(),
            annotations: to_map(info.annotations),
            runtime_handler: info.runtime_handler,
            ..Default::default()
        }),
        id: info.id,
        repo_tags: info.repo_tags,
        repo_digests: info.repo_digests,
        size: info.size,
        uid: info.uid.map(|value| v1::Int64Value { value }),
        username: info.username,
        pinned: info.pinned,
    }
}
