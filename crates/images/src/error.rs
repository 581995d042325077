use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use berth_ids::{Classify, Digest, ErrorClass};
use berth_registry::{PlatformError, ReferenceError, RegistryError};
use berth_store::StoreError;
use berth_unpack::UnpackError;

/// What can go wrong with images. Clonable: everybody who waits for a pull gets its error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Of an image to be pulled.
    #[error(transparent)]
    Name(ReferenceError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Registry(Arc<RegistryError>),
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("unpack layer {layer}")]
    Unpack { layer: String, source: Arc<UnpackError> },
    #[error("layer {blob} unpacks to {found}, but the image's config says {wanted}")]
    DiffId { blob: String, wanted: Digest, found: Digest },
    #[error("layer {wanted} came as {found}: the registry or the way to it is broken")]
    Blob { wanted: Digest, found: Digest },
    #[error("the image's config: {problem}")]
    Config { problem: String },
    #[error("the archive: {problem}")]
    Archive { problem: String },
    #[error("the name {name:?}: {problem}")]
    Named { name: String, problem: &'static str },
    #[error("no image {id}")]
    Unknown { id: String },
    #[error(transparent)]
    Store(Arc<StoreError>),
    #[error("mount the layers of {id}")]
    Mount { id: String, source: Arc<io::Error> },
    /// The text begins as CRI's well-known error does (cri-api `errors`).
    #[error("ImageVolumeMountFailed: image {id}, path {sub_path:?}")]
    Volume { id: String, sub_path: String, source: Arc<io::Error> },
    /// Neither made again nor fetched again.
    #[error(
        "layer {layer} cannot be made into a tar stream again (an older Berth unpacked it, or its archive replaces its own \
         files), and where its image came from does not give it: {why}"
    )]
    Unrestorable { layer: Digest, why: String },
    #[error("layer {layer} is damaged: berth image verify --repair")]
    Damaged { layer: Digest },
    #[error("write the archive")]
    Export { source: Arc<io::Error> },
    #[error("the transfer of {reference} was lost")]
    Lost { reference: String },
    #[error("push {reference}: {problem}")]
    Push { reference: String, problem: &'static str },
    #[error("read the tar stream of layer {layer}")]
    Source { layer: Digest, source: Arc<io::Error> },
}

impl ImageError {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source: Arc::new(source) }
    }
}

impl ImageError {
    /// What came is not the layer.
    pub(crate) fn is_of_content(&self) -> bool {
        use berth_unpack::UnpackError as Unpack;
        match self {
            Self::Blob { .. } | Self::DiffId { .. } => true,
            Self::Unpack { source, .. } => !matches!(
                **source,
                Unpack::Create { .. }
                    | Unpack::Attribute { .. }
                    | Unpack::Record { .. }
                    | Unpack::Thread { .. }
            ),
            _ => false,
        }
    }

    /// What a place sent is not the blob: its length or its digest.
    pub(crate) fn is_of_place(&self) -> bool {
        match self {
            Self::Blob { .. } => true,
            Self::Registry(error) => matches!(**error, RegistryError::Size { .. }),
            _ => false,
        }
    }

    /// Its cause is a disk, or a quota, that is full.
    pub(crate) fn is_of_space(&self) -> bool {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        let found = causes.filter_map(|cause| {
            let shared = cause.downcast_ref::<Arc<io::Error>>().map(Arc::as_ref);
            shared.or_else(|| cause.downcast_ref::<io::Error>())
        });
        found
            .map(io::Error::kind)
            .any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(crate) fn push(reference: &str, problem: &'static str) -> Self {
        Self::Push { reference: reference.to_owned(), problem }
    }

    pub(crate) fn export(source: io::Error) -> Self {
        Self::Export { source: Arc::new(source) }
    }
}

impl From<StoreError> for ImageError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl Classify for ImageError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Reference(error) => error.class(),
            Self::Platform(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Unknown { .. } => ErrorClass::NotFound,
            Self::Unrestorable { .. } | Self::Damaged { .. } => ErrorClass::FailedPrecondition,
            Self::Archive { .. } | Self::Push { .. } | Self::Named { .. } => ErrorClass::InvalidArgument,
            Self::Store(error) => error.class(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorClass::ResourceExhausted
            }
            // What a pull says reaches a person only under this class.
            Self::Name(_)
            | Self::Unpack { .. }
            | Self::DiffId { .. }
            | Self::Blob { .. }
            | Self::Config { .. } => ErrorClass::Unknown,
            Self::Volume { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorClass::NotFound,
            Self::Export { .. }
            | Self::File { .. }
            | Self::Volume { .. }
            | Self::Mount { .. }
            | Self::Source { .. }
            | Self::Lost { .. } => ErrorClass::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_whatever_is_around_it() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let unpack = |source| ImageError::Unpack { layer: "l".to_owned(), source: Arc::new(source) };
        let create = UnpackError::Create { name: "f".to_owned(), source: full() };
        for (error, expected) in [
            (ImageError::file("sync", "/x")(full()), true),
            (unpack(create), true),
            (unpack(UnpackError::Record { source: full() }), true),
            (ImageError::file("sync", "/x")(io::ErrorKind::NotFound.into()), false),
            (unpack(UnpackError::TooLarge { limit: 1 }), false),
        ] {
            assert_eq!(error.is_of_space(), expected, "{error:?}");
        }
    }
}
