//! A container's root filesystem: an overlay over the image's layers, and directories for the image's volumes.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_ids::ContainerId;
use berth_sys::mount::{self, Layer, Overlay, overlay};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::layers::{remove, remove_now};
use crate::{Image, ImageError, Images, Shared};

/// A user namespace for which files are shown, and what the host calls its root.
#[derive(Debug)]
pub struct Mapped<'a> {
    pub userns: BorrowedFd<'a>,
    pub uid: u32,
    pub gid: u32,
}

impl Mapped<'_> {
    /// A detached clone with the ids of the user namespace.
    fn show(&self, directory: &Path) -> io::Result<OwnedFd> {
        let path = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
        let clone = mount::clone_path(&path, false)?;
        mount::set_idmap(clone.as_fd(), self.userns, false)?;
        Ok(clone)
    }
}

pub(crate) fn directory(shared: &Shared, container: &ContainerId) -> PathBuf {
    shared.root.join("containers").join(container.as_str())
}

pub(crate) fn ids(shared: &Shared) -> Result<Vec<ContainerId>, ImageError> {
    let path = shared.root.join("containers");
    let entries = std::fs::read_dir(&path).map_err(ImageError::file("read", &path))?;
    let id = |entry: std::fs::DirEntry| ContainerId::parse(entry.file_name().into_string().ok()?).ok();
    Ok(entries.filter_map(Result::ok).filter_map(id).collect())
}

fn make(path: &Path, mode: u32) -> Result<(), ImageError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ImageError::file("make", path))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(ImageError::file("open up", path))
}

impl Images {
    /// Topmost first, as overlayfs counts. Blocks.
    fn lowers(&self, image: &Image) -> Result<Vec<PathBuf>, ImageError> {
        let layers = image.layers.iter().rev().map(|id| self.shared.layer_path(id));
        Ok(self.shared.parents(image)?.into_iter().chain(layers).collect())
    }

    /// A detached overlay with a fresh writable layer. A container that was prepared and never started gets a new one:
    /// a volatile overlay cannot be mounted a second time. Blocks.
    ///
    /// With `mapped` the layers are shown with the ids of a user namespace, whose root owns the writable one.
    pub fn prepare_rootfs(
        &self,
        image: &Image,
        container: &ContainerId,
        mapped: Option<&Mapped<'_>>,
    ) -> Result<OwnedFd, ImageError> {
        let base = directory(&self.shared, container);
        remove(&base);
        let (upper, work) = (base.join("fs"), base.join("work"));
        make(&upper, 0o755)?;
        make(&work, 0o700)?;
        let mut lowers = self.lowers(image)?;
        if lowers.is_empty() {
            // An image of no layers still has a root.
            let empty = base.join("empty");
            make(&empty, 0o755)?;
            lowers.push(empty);
        }
        let mut clones = Vec::new();
        if let Some(mapped) = mapped {
            std::os::unix::fs::lchown(&upper, Some(mapped.uid), Some(mapped.gid))
                .map_err(ImageError::file("give away", &upper))?;
            for lower in &lowers {
                clones.push(mapped.show(lower).map_err(ImageError::file("map the ids of", lower))?);
            }
        }
        let layers: Vec<Layer<'_>> = match mapped {
            None => lowers.iter().map(|path| Layer::Path(path)).collect(),
            Some(_) => clones.iter().map(|clone| Layer::Fd(clone.as_fd())).collect(),
        };
        let wanted = Overlay {
            lowers: &layers,
            upper: Some((Layer::Path(&upper), Layer::Path(&work))),
            // A container's files never outlive the machine's run.
            volatile: true,
        };
        overlay(&wanted)
            .map_err(|source| ImageError::Mount { id: image.id.to_string(), source: Arc::new(source) })
    }

    /// Directories for the image's volumes with what the image has there, in the order of `paths`. Blocks.
    pub fn prepare_volumes(
        &self,
        image: &Image,
        container: &ContainerId,
        paths: &[String],
    ) -> Result<Vec<PathBuf>, ImageError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.view(image)?;
        let base = directory(&self.shared, container).join("volumes");
        let mut made = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let target = base.join(index.to_string());
            make(&target, 0o755)?;
            if let Some(view) = &view {
                copy_up(view, path, &target)?;
            }
            made.push(target);
        }
        Ok(made)
    }

    /// The image's tree, read-only; `None` for an image without layers.
    fn view(&self, image: &Image) -> Result<Option<OwnedFd>, ImageError> {
        let lowers = self.lowers(image)?;
        if lowers.is_empty() {
            return Ok(None);
        }
        let layers: Vec<Layer<'_>> = lowers.iter().map(|path| Layer::Path(path)).collect();
        let wanted = Overlay { lowers: &layers, upper: None, volatile: false };
        let mounted = overlay(&wanted);
        mounted
            .map(Some)
            .map_err(|source| ImageError::Mount { id: image.id.to_string(), source: Arc::new(source) })
    }

    /// An image as a volume: its tree or what is at `sub_path` of it, detached and read-only. Blocks.
    pub fn image_volume(
        &self,
        image: &Image,
        sub_path: &str,
        mapped: Option<&Mapped<'_>>,
    ) -> Result<OwnedFd, ImageError> {
        let fail = |source| ImageError::Volume {
            id: image.id.to_string(),
            sub_path: sub_path.to_owned(),
            source: Arc::new(source),
        };
        let lowers = self.lowers(image)?;
        let view = match (mapped, &lowers[..]) {
            (None, _) => self.view(image)?.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?,
            (Some(_), []) => return Err(fail(io::ErrorKind::NotFound.into())),
            (Some(mapped), [only]) => mapped.show(only).map_err(fail)?,
            (Some(mapped), _) => {
                let clones: io::Result<Vec<_>> = lowers.iter().map(|lower| mapped.show(lower)).collect();
                let clones = clones.map_err(fail)?;
                let layers: Vec<Layer<'_>> = clones.iter().map(|clone| Layer::Fd(clone.as_fd())).collect();
                overlay(&Overlay { lowers: &layers, upper: None, volatile: false }).map_err(fail)?
            }
        };
        let tree = match sub_path {
            "" => view,
            path => {
                let path = std::ffi::CString::new(path).map_err(|error| fail(error.into()))?;
                mount::clone_below(view.as_fd(), &path).map_err(fail)?
            }
        };
        let only_read = mount::Attributes { readonly: true, ..mount::Attributes::default() };
        mount::set_attributes(tree.as_fd(), only_read, true).map_err(fail)?;
        Ok(tree)
    }

    /// A small regular file of the image, followed inside its root; `None` when it has none. Blocks.
    pub fn read_file(&self, image: &Image, path: &str, most: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(view) = self.view(image)? else { return Ok(None) };
        // A fifo must not hang the daemon, a device must not be opened.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = match berth_sys::path::open_in_root(&view, path, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(ImageError::file("open in the image", path)(error)),
        };
        let file = std::fs::File::from(opened);
        let metadata = file.metadata().map_err(ImageError::file("look at in the image", path))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(ImageError::file("read in the image", path))?;
        Ok(Some(bytes))
    }

    /// Removes a container's writable layer and volumes. Not there: no error. Blocks.
    pub fn remove_rootfs(&self, container: &ContainerId) -> Result<(), ImageError> {
        self.shared.usage.forget(container);
        let path = directory(&self.shared, container);
        // A container may have made a tree deeper than descriptors or stack allow.
        remove_now(&path).map_err(ImageError::file("remove", &path))
    }
}

/// What the image has at `path`, with owners and modes; nothing when it has nothing there.
fn copy_up(view: &OwnedFd, path: &str, target: &Path) -> Result<(), ImageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let source = match berth_sys::path::open_in_root(view, path, flags, Mode::empty()) {
        Ok(source) => source,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(ImageError::file("open in the image", path)(error)),
    };
    use std::os::fd::AsRawFd as _;
    // A name for the directory we hold: the entries below are looked at without following links.
    let from = PathBuf::from(format!("/proc/self/fd/{}/.", source.as_raw_fd()));
    copy_tree(&from, target).map_err(ImageError::file("copy from the image", path))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::symlink_metadata(from)?;
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    std::fs::set_permissions(to, PermissionsExt::from_mode(metadata.mode() & 0o7777))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            std::fs::DirBuilder::new().mode(0o700).create(&target)?;
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
            std::os::unix::fs::lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target)?;
            std::os::unix::fs::lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            std::fs::set_permissions(&target, PermissionsExt::from_mode(metadata.mode() & 0o7777))?;
        }
    }
    Ok(())
}
