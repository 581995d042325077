//! Doors for `crates/fuzz`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use sha2::Digest as _;

use crate::Image;
use crate::archive::Contents;
use crate::import::each;
use crate::work::Work;

/// Reads an archive up to the layers of its images, as an import does, without unpacking any. How many images it has.
pub fn archive(bytes: &[u8]) -> Option<usize> {
    let memory = nix::sys::memfd::memfd_create(c"archive", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).ok()?;
    let mut file = File::from(memory);
    file.write_all(bytes).ok()?;
    let contents = Contents::read(Path::new("/dev/shm"), file, &Work::unwatched()).ok()?;
    let mut images = 0;
    each(&contents, &mut |_| {
        images += 1;
        Ok(())
    })
    .ok()?;
    Some(images)
}

/// Reads an image's config and writes it down as the store keeps it. How many layers it has.
pub fn config(bytes: &[u8]) -> Option<usize> {
    let id = berth_ids::Digest::from_sha256(sha2::Sha256::digest(bytes).into());
    let image = Image::new(id, bytes).ok()?;
    let record = serde_json::to_string(&image.to_record()).ok()?;
    let again = Image::from_record(serde_json::from_str(&record).ok()?).ok();
    let again = again.filter(|again| again.layers == image.layers && again.user() == image.user());
    // What is kept is what came, or the next daemon has another image.
    again.filter(|again| again.raw_config().as_bytes() == bytes && again.chain_id() == image.chain_id())?;
    Some(image.layers.len())
}

/// Whether the config is one at all.
pub fn is_config(bytes: &[u8]) -> bool {
    let id = berth_ids::Digest::from_sha256(sha2::Sha256::digest(bytes).into());
    Image::new(id, bytes).is_ok()
}
