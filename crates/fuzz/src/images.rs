//! What images come as: archives, configs, and layers.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd as _;

use berth_unpack::{Archive, Limits, Records, Restored, check, decoder, remove_tree, unpack};

use crate::pieces::cut;

/// Of one input, inflated; the input itself is far smaller.
const INFLATED: u64 = 4 << 20;

/// An archive that somebody imports, up to the layers of its images.
pub(crate) fn archive(input: &[u8]) {
    if let Some(images) = berth_images::fuzz::archive(input) {
        assert!(images <= 1000, "{images} images of one archive");
    }
}

/// An image's config: one that is taken is read back from the store as it is.
pub(crate) fn config(input: &[u8]) {
    assert_eq!(berth_images::fuzz::config(input).is_some(), berth_images::fuzz::is_config(input));
}

/// Bytes in pieces of `step`.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.len().min(self.1).min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.0.len().min(self.1)])
    }

    fn consume(&mut self, length: usize) {
        self.0.consume(length);
    }
}

/// What a stream inflates to before it ends or is wrong.
fn inflated(bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let good = match decoder(Pieces(bytes, step)) {
        Ok(decoder) => decoder.take(INFLATED).read_to_end(&mut out).is_ok(),
        Err(_) => false,
    };
    (out, good)
}

/// gzip, zstd and neither: in whatever pieces a stream comes, it is the same, and as good.
pub(crate) fn compressed(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    let (whole, good) = inflated(bytes, usize::MAX);
    let (pieces, as_good) = inflated(bytes, step);
    assert_eq!(as_good, good);
    if good {
        assert!(pieces == whole, "{} bytes, and {} in pieces", whole.len(), pieces.len());
    }
}

fn limits() -> Limits {
    Limits { bytes: INFLATED, entries: 2000, ..Limits::default() }
}

fn entries(bytes: &[u8], step: usize) -> (Vec<String>, Option<String>) {
    let limits = limits();
    let mut archive = Archive::new(Pieces(bytes, step), limits.clone());
    let mut found = Vec::new();
    loop {
        match archive.next_entry() {
            Ok(Some(entry)) => {
                assert!(found.len() < 2000);
                if let Some(sparse) = &entry.sparse {
                    assert!(sparse.real_size <= limits.bytes && sparse.pieces.len() <= limits.sparse_pieces);
                    let last = sparse.pieces.last().map_or(0, |(offset, length)| offset + length);
                    assert!(last <= sparse.real_size, "{sparse:?}");
                }
                let more: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(more as u64 <= 2 * limits.extension, "{more} bytes of attributes");
                found.push(format!("{entry:?}"));
            }
            Ok(None) => return (found, archive.drain().err().map(|error| error.to_string())),
            Err(error) => return (found, Some(error.to_string())),
        }
    }
}

/// Headers of every format: the same entries in whatever pieces they come, within the limits.
pub(crate) fn tar(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    assert_eq!(entries(bytes, step), entries(bytes, usize::MAX));
}

/// A layer, extracted: nothing beside it, it is as its record says, and its stream can be made again.
pub(crate) fn layer(input: &[u8]) {
    // In memory where that is: it is made ten thousand times.
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let fs = place.path().join("fs");
    std::fs::create_dir(&fs).unwrap();
    let directory = File::open(&fs).unwrap();
    let (mut tree, mut tape) = (Vec::new(), Vec::new());
    let records = Records { tree: &mut tree, tape: &mut tape };
    let done = unpack(input, directory.as_fd(), records, &limits());
    let names: Vec<_> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["fs"]);
    if let Ok(unpacked) = done {
        assert!(unpacked.tar_size <= INFLATED);
        let found = check(directory.as_fd(), tree.as_slice()).unwrap();
        assert_eq!(found.count, 0, "{:?}", found.differences);
        if unpacked.restorable {
            let mut again = Vec::new();
            let directory = directory.try_clone().unwrap();
            Restored::new(directory.into(), tape.as_slice()).unwrap().read_to_end(&mut again).unwrap();
            assert!(again == inflated(input, usize::MAX).0, "the stream is another");
        }
    }
    // The standard library's removal goes no deeper than its stack.
    remove_tree(File::open(place.path()).unwrap().as_fd(), c"fs", &mut || {}).unwrap();
}
