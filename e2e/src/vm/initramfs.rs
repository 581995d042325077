//! The archive a kernel unpacks as its first root: cpio in the form "newc" (kernel documentation,
//! driver-api/early-userspace/buffer-format).

#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, 0o40755, &[]);
    }

    /// For everybody to read and run.
    pub(crate) fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100755, data);
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = name.len() as u32 + 1;
        // inode, mode, uid, gid, links, mtime, size, device, device of a node, length of the name, checksum (unused).
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.directory("d");
        archive.file("d/f", b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, w)| *w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
    }
}
