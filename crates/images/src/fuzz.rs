//! A door for `crates/fuzz`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::archive::Contents;
use crate::import::each;

/// Reads an archive up to the layers of its images, as an import does, without unpacking any. How many images it has.
pub fn archive(bytes: &[u8]) -> Option<usize> {
    let memory = nix::sys::memfd::memfd_create(c"archive", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).ok()?;
    let mut file = File::from(memory);
    file.write_all(bytes).ok()?;
    let contents = Contents::read(Path::new("/dev/shm"), file).ok()?;
    let mut images = 0;
    each(&contents, &mut |_| {
        images += 1;
        Ok(())
    })
    .ok()?;
    Some(images)
}
