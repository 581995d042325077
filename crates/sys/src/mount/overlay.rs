use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use super::{Attributes, Context, legacy};

/// Lower layers the kernel takes (OVL_MAX_STACK).
pub const MAX_LAYERS: usize = 500;

/// A directory given to the overlay: by path, or by descriptor (an open directory or a detached mount, for example an
/// idmapped one; on kernels before 6.15 such a mount is used up and cannot be given again).
#[derive(Debug, Clone, Copy)]
pub enum Layer<'a> {
    Path(&'a Path),
    Fd(BorrowedFd<'a>),
}

/// What an overlay is made of (Documentation/filesystems/overlayfs.rst of the kernel).
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Topmost first, as in `lowerdir=`.
    pub lowers: &'a [Layer<'a>],
    /// The writable directory and its empty work directory, both on one filesystem. `None`: a read-only overlay.
    pub upper: Option<(Layer<'a>, Layer<'a>)>,
    /// No fsync of the upper layer: it will not outlive a crash of the machine.
    pub volatile: bool,
}

/// A detached overlay mount. It has its own device number; attributes are set with [`super::set_attributes`].
///
/// On kernels without `lowerdir+` (before 6.8) it is made by mount(2) on a thread with a mount namespace of its own,
/// and taken from there; see the module `legacy` for the limits of that way.
///
/// # Errors
/// `InvalidInput` for no layers or more than [`MAX_LAYERS`]; else errno, with the kernel's own words where it has some.
pub fn overlay(wanted: &Overlay<'_>) -> io::Result<OwnedFd> {
    if wanted.lowers.is_empty() || wanted.lowers.len() > MAX_LAYERS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One lower and no upper is not an overlay for the kernel ("at least 2 lowerdir are needed"): it is a bind mount.
    if let (None, [only]) = (&wanted.upper, wanted.lowers) {
        return clone_layer(*only);
    }
    if !overlay_takes_layers_one_by_one() {
        return legacy::overlay(wanted);
    }
    let detached = wanted.lowers.iter().any(|layer| matches!(layer, Layer::Fd(_)));
    match modern(wanted) {
        Err(error) if detached && error.kind() == io::ErrorKind::InvalidInput => legacy::overlay(wanted),
        made => made,
    }
}

/// Whether this kernel's overlay has `lowerdir+` (Linux 6.8). Asked once, then remembered.
pub fn overlay_takes_layers_one_by_one() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let takes = |key| Context::open(c"overlay").and_then(|context| context.set_string(key, c"/")).is_ok();
        // Before Linux 6.5 the kernel collects whatever it is told and complains at the mount.
        !takes(c"no-such-option") && takes(c"lowerdir+")
    })
}

fn clone_layer(layer: Layer<'_>) -> io::Result<OwnedFd> {
    let clone = match layer {
        Layer::Path(path) => super::clone_path(&c_path(path)?, false)?,
        Layer::Fd(fd) => super::clone_tree(fd, false)?,
    };
    let only_read = Attributes { readonly: true, ..Attributes::default() };
    super::set_attributes(std::os::fd::AsFd::as_fd(&clone), only_read, false)?;
    Ok(clone)
}

fn modern(wanted: &Overlay<'_>) -> io::Result<OwnedFd> {
    let context = Context::open(c"overlay")?;
    let configured = configure(&context, wanted);
    let mounted = match configured {
        Ok(()) => return context.mount(Attributes::default()),
        Err(error) => error,
    };
    let said = context.message();
    Err(if said.is_empty() {
        mounted
    } else {
        io::Error::new(mounted.kind(), Said { said, source: mounted })
    })
}

fn configure(context: &Context, wanted: &Overlay<'_>) -> io::Result<()> {
    context.set_string(c"source", c"overlay")?;
    for layer in wanted.lowers {
        set_layer(context, c"lowerdir+", *layer)?;
    }
    if let Some((upper, work)) = wanted.upper {
        set_layer(context, c"upperdir", upper)?;
        set_layer(context, c"workdir", work)?;
        if wanted.volatile {
            context.set_flag(c"volatile")?;
        }
    }
    Ok(())
}

fn set_layer(context: &Context, key: &CStr, layer: Layer<'_>) -> io::Result<()> {
    match layer {
        // fsconfig(2) strings end at 255 bytes; a longer path goes by its descriptor's.
        Layer::Path(path) if path.as_os_str().len() < 256 => context.set_string(key, &c_path(path)?),
        Layer::Path(path) => {
            let opened = open_directory(path)?;
            set_fd(context, key, std::os::fd::AsFd::as_fd(&opened))
        }
        Layer::Fd(fd) => set_fd(context, key, fd),
    }
}

fn set_fd(context: &Context, key: &CStr, fd: BorrowedFd<'_>) -> io::Result<()> {
    match context.set_fd(key, fd) {
        // Linux before 6.13 wants a string here.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            context.set_string(key, &c_path(&proc_path(fd))?)
        }
        set => set,
    }
}

/// A path that leads to an open directory.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

/// The kernel's own words about a mount that failed.
#[derive(Debug)]
struct Said {
    said: String,
    source: io::Error,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Said {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
