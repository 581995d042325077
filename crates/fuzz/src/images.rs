/// An archive that somebody imports, up to the layers of its images.
pub(crate) fn archive(input: &[u8]) {
    if let Some(images) = berth_images::fuzz::archive(input) {
        assert!(images <= 1000, "{images} images of one archive");
    }
}
