//! Overlays on kernels before 6.8, whose only way is one string of options of at most a page, and of detached mounts on kernels
//! before 6.15, which stack only what the caller's mount namespace has.
//!
//! A thread of its own leaves the process's file system state and mount namespace, binds every layer to a short name in
//! a small tmpfs, changes there and mounts with relative names. 500 names of up to four bytes fit a page. The mount is
//! then cloned off (open_tree(2)), and the thread's namespace ends with it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::null;

use super::overlay::{Layer, Overlay, c_path, proc_path};
use super::{Attributes, Context};
use crate::fd::done;

pub(super) fn overlay(wanted: &Overlay<'_>) -> io::Result<OwnedFd> {
    // Here, where descriptors of the caller's still are of its namespace.
    let layers = wanted.lowers.iter().map(source).collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay".into())
            .spawn_scoped(scope, || make(wanted, &layers))?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

fn make(wanted: &Overlay<'_>, layers: &[Source<'_>]) -> io::Result<OwnedFd> {
    // The table of open files stays the process's, so descriptors given to us work and the result can be given back.
    // SAFETY: changes only this thread, which ends when we return.
    done(unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) }.into())?;
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE, None)?;

    let names = Context::open(c"tmpfs")?.mount(Attributes::KERNEL)?;
    // Over the thread's own view of a directory that is always there and that no layer's path leads through.
    let target = super::overlay::open_directory(std::path::Path::new("/proc/sys/fs"))?;
    super::attach(names.as_fd(), target.as_fd())?;
    // SAFETY: takes a descriptor only; the working directory is this thread's own since the unshare above.
    done(unsafe { libc::fchdir(names.as_raw_fd()) }.into())?;

    let mut lower = String::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = radix(index);
        std::fs::create_dir(&name)?;
        let layer = match layer {
            Source::Clone(clone) => clone.as_fd(),
            Source::Given(given) => *given,
        };
        super::attach_at(layer, names.as_fd(), &CString::new(name.clone())?)?;
        if !lower.is_empty() {
            lower.push(':');
        }
        lower.push_str(&name);
    }
    let mut options = format!("lowerdir={lower}");
    if let Some((upper, work)) = wanted.upper {
        // Upper and work must be reached through one mount: by their own paths.
        let text = |layer| match layer {
            Layer::Path(path) => path.to_path_buf(),
            Layer::Fd(fd) => std::fs::read_link(proc_path(fd)).unwrap_or_else(|_| proc_path(fd)),
        };
        let (upper, work) = (text(upper), text(work));
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
        if wanted.volatile {
            options.push_str(",volatile");
        }
    }
    std::fs::create_dir("-")?;
    mount(Some(c"overlay"), c"-", 0, Some(&CString::new(options)?))?;
    super::clone_path(c"-", false)
}

/// A clone of what is below a detached mount, for kernels before 6.15, which clone only what a namespace has.
pub(super) fn clone_below(mount: BorrowedFd<'_>, path: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let attached = || {
        // SAFETY: changes only this thread, which ends when we return.
        done(unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) }.into())?;
        self::mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE, None)?;
        let target = super::overlay::open_directory(std::path::Path::new("/proc/sys/fs"))?;
        super::attach(mount, target.as_fd())?;
        let flags = nix::fcntl::OFlag::O_PATH;
        let found = crate::path::open_in_root(mount, path, flags, nix::sys::stat::Mode::empty())?;
        super::clone_tree(found.as_fd(), false)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("subtree".into()).spawn_scoped(scope, attached)?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// What stands for a lower layer in the thread's namespace.
enum Source<'a> {
    Clone(OwnedFd),
    /// A detached mount, which these kernels do not clone: it is attached itself, and ends with the namespace.
    Given(BorrowedFd<'a>),
}

fn source<'a>(layer: &Layer<'a>) -> io::Result<Source<'a>> {
    match layer {
        Layer::Path(path) => super::clone_path(&c_path(path)?, false).map(Source::Clone),
        Layer::Fd(fd) => Ok(super::clone_tree(*fd, false).map_or(Source::Given(*fd), Source::Clone)),
    }
}

/// A short name: `0` to `z`, `10` and so on.
fn radix(mut number: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut name = Vec::new();
    loop {
        name.insert(0, char::from(DIGITS[number % DIGITS.len()]));
        number /= DIGITS.len();
        if number == 0 {
            return name.into_iter().collect();
        }
    }
}

/// mount(2).
fn mount(
    kind: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    flags: u64,
    data: Option<&CString>,
) -> io::Result<()> {
    let kind = kind.map_or(null(), std::ffi::CStr::as_ptr);
    let data = data.map_or(null(), |data| data.as_ptr().cast());
    // SAFETY: every pointer is null or leads to a NUL-terminated string alive during the call.
    done(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, data) }.into())
}
