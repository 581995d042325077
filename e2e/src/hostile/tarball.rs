//! A tar writer that checks nothing: each field of each header may be anything.

/// One header block and the data after it.
#[derive(Clone)]
pub(super) struct Entry {
    header: [u8; 512],
    data: Vec<u8>,
    is_summed: bool,
}

/// Offsets and lengths of the fields of a header (POSIX.1-2017 pax, "ustar Interchange Format").
pub(super) const MODE: (usize, usize) = (100, 8);
pub(super) const UID: (usize, usize) = (108, 8);
pub(super) const GID: (usize, usize) = (116, 8);
pub(super) const SIZE: (usize, usize) = (124, 12);
pub(super) const MTIME: (usize, usize) = (136, 12);
pub(super) const MAGIC: (usize, usize) = (257, 8);
pub(super) const MAJOR: (usize, usize) = (329, 8);
pub(super) const MINOR: (usize, usize) = (337, 8);
pub(super) const PREFIX: (usize, usize) = (345, 155);
const NAME: (usize, usize) = (0, 100);
const LINK: (usize, usize) = (157, 100);
const SUM: (usize, usize) = (148, 8);

/// Root's, mode 0644 or 0755, from the epoch.
pub(super) fn entry(kind: u8, name: impl AsRef<[u8]>) -> Entry {
    let mut entry = Entry { header: [0; 512], data: Vec::new(), is_summed: true };
    entry.header[156] = kind;
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    entry
        .field(NAME, name)
        .number(MODE, mode)
        .number(UID, 0)
        .number(GID, 0)
        .number(SIZE, 0)
        .number(MTIME, 0)
        .field(MAGIC, b"ustar\x0000")
}

/// A field in base 256: the highest bit set, then a two's complement number.
pub(super) fn binary(value: i128, length: usize) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut field = vec![if value < 0 { 0xff } else { 0 }; length];
    let taken = length.min(bytes.len());
    field[length - taken..].copy_from_slice(&bytes[bytes.len() - taken..]);
    field[0] |= 0x80;
    field
}

impl Entry {
    pub(super) fn field(mut self, (at, length): (usize, usize), bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let used = bytes.len().min(length);
        self.header[at..at + length].fill(0);
        self.header[at..at + used].copy_from_slice(&bytes[..used]);
        self
    }

    /// In octal, ended by a NUL where there is room for one.
    pub(super) fn number(self, field: (usize, usize), value: u64) -> Self {
        let digits = field.1 - 1;
        self.field(field, format!("{value:0digits$o}"))
    }

    pub(super) fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.field(LINK, target)
    }

    /// The size goes with it.
    pub(super) fn data(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        let size = self.data.len() as u64;
        self.number(SIZE, size)
    }

    pub(super) fn device(self, major: u64, minor: u64) -> Self {
        self.number(MAJOR, major).number(MINOR, minor)
    }

    /// With a checksum that does not fit.
    pub(super) fn unsummed(mut self) -> Self {
        self.is_summed = false;
        self.number(SUM, 1)
    }

    fn bytes(mut self) -> Vec<u8> {
        if self.is_summed {
            self.header[SUM.0..SUM.0 + SUM.1].fill(b' ');
            let sum: u32 = self.header.iter().map(|&byte| u32::from(byte)).sum();
            self.header[SUM.0..SUM.0 + SUM.1].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut bytes = self.header.to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// The records of a PAX header: `length key=value\n`.
pub(super) fn records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        data.extend_from_slice(format!("{length} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

/// An archive, in the order of the calls.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn entry(mut self, entry: Entry) -> Self {
        self.0.extend_from_slice(&entry.bytes());
        self
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.entry(entry(b'0', name).data(data))
    }

    pub(super) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(entry(b'5', name))
    }

    pub(super) fn sym(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        self.entry(entry(b'2', name).link(to))
    }

    pub(super) fn hard(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        self.entry(entry(b'1', name).link(to))
    }

    /// Says more of the next entry.
    pub(super) fn pax(self, of: &[(&str, &[u8])]) -> Self {
        self.entry(entry(b'x', "pax").data(records(of)))
    }

    /// GNU's way to say more: a long name (`L`) or link target (`K`).
    pub(super) fn long(self, kind: u8, text: impl AsRef<[u8]>) -> Self {
        self.entry(entry(kind, "././@LongLink").data([text.as_ref(), &[0]].concat()))
    }

    /// A sparse file as GNU tar wrote it before PAX: the first four pieces in the header, the others in blocks after it.
    pub(super) fn old_sparse(self, made: Entry, size: u64, pieces: &[(u64, Vec<u8>)]) -> Self {
        const HEADER: (usize, usize) = (386, 4);
        const BLOCK: (usize, usize) = (0, 21);
        let data: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.clone()).collect();
        let (first, rest) = pieces.split_at(HEADER.1.min(pieces.len()));
        let map = |mut to: Entry, (at, _): (usize, usize), pieces: &[(u64, Vec<u8>)]| {
            for (n, (offset, data)) in pieces.iter().enumerate() {
                let field = at + 24 * n;
                to = to.number((field, 12), *offset).number((field + 12, 12), data.len() as u64);
            }
            to
        };
        let made = made.field(MAGIC, b"ustar  \0").number(SIZE, data.len() as u64).number((483, 12), size);
        let mut tar = self.entry(map(made, HEADER, first).field((482, 1), [u8::from(!rest.is_empty())]));
        let blocks: Vec<_> = rest.chunks(BLOCK.1).collect();
        for (n, pieces) in blocks.iter().enumerate() {
            let block = Entry { header: [0; 512], data: Vec::new(), is_summed: false };
            let goes_on = u8::from(n + 1 < blocks.len());
            tar = tar.raw(map(block, BLOCK, pieces).field((504, 1), [goes_on]).header);
        }
        let fill = data.len().next_multiple_of(512) - data.len();
        tar.raw(data).raw(vec![0; fill])
    }

    /// Whatever it is.
    pub(super) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Without the end mark.
    pub(super) fn open(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn end(self) -> Vec<u8> {
        self.raw([0; 1024]).0
    }
}
