//! Removal of trees that somebody else filled.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_sys::path::open_in_root;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Below this depth a subdirectory is moved up first: a tree may be deeper than descriptors or stack allow.
const DEEP: usize = 64;

/// Removes `name` in `parent`, whatever it is, without following links or entering mounts. A name that is not
/// there is no error. `pace` is called after every entry removed; it may sleep.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr, pace: &mut dyn FnMut()) -> io::Result<()> {
    let mut removal = Removal { parent, moved: vec![name.to_owned()], count: 0, pace };
    while let Some(name) = removal.moved.pop() {
        removal.remove(parent, &name, 0)?;
    }
    Ok(())
}

struct Removal<'a> {
    parent: BorrowedFd<'a>,
    moved: Vec<CString>,
    count: u64,
    pace: &'a mut dyn FnMut(),
}

impl Removal<'_> {
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                (self.pace)();
                return Ok(());
            }
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        if depth == DEEP {
            self.count += 1;
            let up = CString::new(format!(".tmp-deep-{}-{}", std::process::id(), self.count))?;
            renameat(dir, name, self.parent, up.as_c_str())?;
            self.moved.push(up);
            return Ok(());
        }
        // A listing may miss what moves while entries go; an emptied directory is the proof.
        for _ in 0..8 {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let mut list = Dir::from_fd(open_in_root(dir, name, flags, Mode::empty())?)?;
            let here = open_in_root(dir, name, flags, Mode::empty())?;
            for entry in list.iter() {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    self.remove(here.as_fd(), entry.file_name(), depth + 1)?;
                }
            }
            match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {
                    (self.pace)();
                    return Ok(());
                }
                Err(Errno::ENOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::ENOTEMPTY.into())
    }
}
