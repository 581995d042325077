//! What an extraction made, written down beside the layer so that damage can be told later.
//!
//! A zstd stream of records in the order things were done; what comes later replaces what came before at the same path.
//! A record is a line of text fields, then the path and the link's target, each ended by a NUL:
//! `kind mode uid gid mtime size sum xattrs NUL path NUL target NUL`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Bound;

use crate::Time;

/// What overlayfs knows an opaque directory by.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Longest field of a record.
const FIELD: u64 = 1 << 20;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Node {
    /// As tar's: `f`, `d`, `l`, `p`, `c`, `b`.
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `None` for directories that no entry named: theirs is when they were made.
    pub(crate) mtime: Option<Time>,
    /// Bytes of a file; the number of a device.
    pub(crate) size: u64,
    /// Of a file's content or a link's target.
    pub(crate) sum: u32,
    /// Names and the sums of their values.
    pub(crate) xattrs: BTreeMap<Vec<u8>, u32>,
    /// Paths of one file share it.
    pub(crate) file: u64,
}

/// Writes records.
pub(crate) struct Notes<W: Write> {
    out: W,
}

impl<W: Write> Notes<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    pub(crate) fn made(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        let mtime = node.mtime.map_or_else(|| "-".into(), |t| format!("{}.{:09}", t.seconds, t.nanos));
        write!(
            self.out,
            "{} {:o} {} {} {mtime} {} {:08x} ",
            char::from(node.kind),
            node.mode,
            node.uid,
            node.gid,
            node.size,
            node.sum
        )?;
        for (name, sum) in &node.xattrs {
            write!(self.out, "{sum:08x}")?;
            name.iter().try_for_each(|byte| write!(self.out, "{byte:02x}"))?;
            self.out.write_all(b",")?;
        }
        self.end(path, b"")
    }

    /// A second path of a file.
    pub(crate) fn linked(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.out.write_all(b"h")?;
        self.end(path, target)
    }

    /// A directory that shows nothing of the layers below.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> io::Result<()> {
        self.out.write_all(b"o")?;
        self.end(path, b"")
    }

    /// A directory that lost the attributes that it had, but for [`opaque`](Self::opaque).
    pub(crate) fn bare(&mut self, path: &[u8]) -> io::Result<()> {
        self.out.write_all(b"n")?;
        self.end(path, b"")
    }

    /// Removed to make place, with everything below.
    pub(crate) fn gone(&mut self, path: &[u8]) -> io::Result<()> {
        self.out.write_all(b"x")?;
        self.end(path, b"")
    }

    fn end(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        for part in [b"".as_slice(), path, target] {
            self.out.write_all(part)?;
            // The first one ends the line of fields.
            self.out.write_all(&[0])?;
        }
        Ok(())
    }

    pub(crate) fn into_inner(self) -> W {
        self.out
    }
}

/// The last state of every path; the root is the empty one.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// Reads what [`Notes`] wrote.
pub(crate) fn read(stream: impl Read) -> io::Result<Tree> {
    let mut stream = BufReader::new(zstd::stream::read::Decoder::new(stream)?);
    let mut tree = Tree::new();
    let mut files = 0;
    loop {
        let Some(fields) = field(&mut stream)? else { return Ok(tree) };
        let (Some(path), Some(target)) = (field(&mut stream)?, field(&mut stream)?) else {
            return Err(broken());
        };
        match fields.first() {
            Some(b'h') => {
                let node = tree.get(&target).cloned().ok_or_else(broken)?;
                tree.insert(path, node);
            }
            Some(b'o') => {
                let node = tree.entry(path).or_insert_with(|| root(0));
                node.xattrs.insert(OPAQUE.to_vec(), crc(b"y"));
            }
            Some(b'n') => {
                if let Some(node) = tree.get_mut(&path) {
                    node.xattrs.retain(|name, _| name == OPAQUE);
                }
            }
            Some(b'x') => {
                let below: Vec<u8> = [&path[..], b"/"].concat();
                let all = (Bound::Included(below.clone()), Bound::Unbounded);
                let gone: Vec<Vec<u8>> = tree
                    .range::<Vec<u8>, _>(all)
                    .map(|(path, _)| path.clone())
                    .take_while(|path| path.starts_with(&below))
                    .collect();
                gone.iter().chain([&path]).for_each(|path| drop(tree.remove(path)));
            }
            Some(_) => {
                files += 1;
                let mut node = parse(&fields, files).ok_or_else(broken)?;
                if let Some(before) =
                    tree.get(&path).filter(|before| before.kind == b'd' && node.kind == b'd')
                {
                    // A directory named again keeps what it was not told to lose, and gets more.
                    let mut xattrs = before.xattrs.clone();
                    xattrs.append(&mut node.xattrs);
                    node.xattrs = xattrs;
                }
                tree.insert(path, node);
            }
            None => return Err(broken()),
        }
    }
}

/// As the caller of an extraction makes it; nothing says more of it until an entry does.
fn root(file: u64) -> Node {
    Node { kind: b'd', mode: 0o755, file, ..Node::default() }
}

pub(crate) fn crc(data: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(data);
    sum.sum()
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of the layer's tree is broken")
}

fn field(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut field = Vec::new();
    stream.take(FIELD).read_until(0, &mut field)?;
    match field.pop() {
        Some(0) => Ok(Some(field)),
        Some(_) => Err(broken()),
        None => Ok(None),
    }
}

fn parse(fields: &[u8], file: u64) -> Option<Node> {
    let mut parts = std::str::from_utf8(fields).ok()?.split(' ');
    let mut next = || parts.next();
    let kind = *next()?.as_bytes().first()?;
    let mode = u32::from_str_radix(next()?, 8).ok()?;
    let (uid, gid) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let mtime = match next()? {
        "-" => None,
        text => {
            let (seconds, nanos) = text.split_once('.')?;
            Some(Time { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok()? })
        }
    };
    let size = next()?.parse().ok()?;
    let sum = u32::from_str_radix(next()?, 16).ok()?;
    let mut xattrs = BTreeMap::new();
    for xattr in next()?.split_terminator(',') {
        let (sum, name) = xattr.split_at_checked(8)?;
        let bytes = (0..name.len() / 2).map(|n| u8::from_str_radix(name.get(2 * n..2 * n + 2)?, 16).ok());
        xattrs.insert(bytes.collect::<Option<Vec<u8>>>()?, u32::from_str_radix(sum, 16).ok()?);
    }
    Some(Node { kind, mode, uid, gid, mtime, size, sum, xattrs, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_as_it_stands_in_the_end() {
        let node = Node { mode: 0o4755, uid: 7, mtime: Some(Time { seconds: -2, nanos: 5 }), ..root(0) };
        let file = Node { kind: b'f', size: 9, sum: 0xdead_beef, ..node.clone() };
        let xattrs = BTreeMap::from([(b"user. ,\xff".to_vec(), 3)]);
        let mut notes = Notes::new(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap());
        notes.made(b"a", &Node { xattrs: xattrs.clone(), ..node.clone() }).unwrap();
        notes.made(b"a/f\n", &file).unwrap();
        notes.linked(b"g", b"a/f\n").unwrap();
        notes.made(b"old", &node).unwrap();
        notes.made(b"old/below", &file).unwrap();
        notes.made(b"older", &file).unwrap();
        notes.gone(b"old").unwrap();
        notes.made(b"a", &node).unwrap();
        notes.made(b"bare", &Node { xattrs: xattrs.clone(), ..node.clone() }).unwrap();
        notes.opaque(b"bare").unwrap();
        notes.bare(b"bare").unwrap();
        notes.opaque(b"").unwrap();
        let stream = notes.into_inner().finish().unwrap();
        let tree = read(&stream[..]).unwrap();
        let paths: Vec<_> = tree.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(paths, ["", "a", "a/f\n", "bare", "g", "older"]);
        assert_eq!(tree[&b"bare"[..]].xattrs.keys().collect::<Vec<_>>(), [OPAQUE]);
        assert_eq!((&tree[&b"g"[..]], tree[&b"g"[..]].sum), (&tree[&b"a/f\n"[..]], 0xdead_beef));
        assert_eq!(tree[&b"a"[..]].xattrs, xattrs, "a directory named again");
        assert!(tree[&b""[..]].xattrs.contains_key(&b"trusted.overlay.opaque"[..]));
        for bad in [&b"f 1"[..], b"f 1\0p\0\0", b"\0\0\0", b"h\0a\0b\0"] {
            assert!(read(&zstd::encode_all(bad, 1).unwrap()[..]).is_err(), "{bad:?}");
        }
        assert!(read(&stream[..stream.len() - 4]).is_err(), "cut");
    }
}
