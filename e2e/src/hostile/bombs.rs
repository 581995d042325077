//! Little that becomes much: in bytes, entries, directories, memory.

use std::io::Write as _;

use anyhow::Result;

use super::case::{Case, Layer, Want, becomes, digest, refused};
use super::content;
use super::tarball::{SIZE, Tar, entry};

fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(data)?;
    Ok(out.finish()?)
}

/// A frame without checksum or content size (RFC 8878, 3.1.1) with a window of 2^(10 + `exponent`) bytes.
fn zstd(exponent: u8, blocks: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3], blocks].concat()
}

/// A block of `count` bytes, all the same (RFC 8878, 3.1.1.2: kind 1).
fn repeated(byte: u8, count: u32, is_last: bool) -> [u8; 4] {
    let [low, middle, high, _] = (count << 3 | 1 << 1 | u32::from(is_last)).to_le_bytes();
    [low, middle, high, byte]
}

/// A block as it is.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let [low, middle, high, _] = ((bytes.len() as u32) << 3).to_le_bytes();
    [&[low, middle, high][..], bytes].concat()
}

/// Blobs whose stream is refused before anybody can ask for its digest.
fn sent(what: &str, blob: Vec<u8>, words: &[&str]) -> Case {
    let layer = Layer { diff_id: digest(b"of no layer"), blob };
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Case { what: what.to_owned(), layers: vec![layer], want: Want::Refused(words), once: false }
}

/// Sent compressed, and what it is without.
fn compressed(what: &str, blob: Vec<u8>, plain: &[u8], lines: &[&str]) -> Case {
    let mut case = becomes(what, plain.to_vec(), lines);
    case.layers[0].blob = blob;
    case
}

pub(super) fn cases() -> Result<Vec<Case>> {
    let mut cases = streams()?;
    cases.extend(inflating()?);
    cases.extend(sparse());
    cases.extend(many());
    cases.push(entries()?);
    Ok(cases)
}

fn streams() -> Result<Vec<Case>> {
    let plain = Tar::new().file("f", "content").end();
    let whole = gzip(&plain)?;
    let mut wrong = whole.clone();
    let at = wrong.len() - 8;
    wrong[at] ^= 1;
    // A gzip header with a file name that does not end.
    let named = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], &vec![b'n'; 4 << 20]].concat();
    let (head, tail) = plain.split_at(700);
    let empty = gzip(b"")?.repeat(20_000);
    // More than the window holds, so that all of it is used.
    let large = Tar::new().entry(entry(b'0', "f").number(SIZE, 40 << 20)).open();
    let zeros: Vec<u8> = std::iter::repeat_n(repeated(0, 128 << 10, false), 320).flatten().collect();
    let large_end = [&large[..], &vec![0; (40 << 20) + 1024]].concat();
    Ok(vec![
        compressed(
            "several gzip members are one stream",
            [gzip(head)?, gzip(tail)?].concat(),
            &plain,
            &["f f content"],
        ),
        compressed(
            "thousands of empty gzip members before it",
            [empty, whole.clone()].concat(),
            &plain,
            &["f f content"],
        ),
        sent(
            "garbage after a gzip member",
            [&whole[..], b"garbage that is no member"].concat(),
            &["inflate the layer"],
        ),
        sent("a gzip stream that is cut", whole[..whole.len() - 12].to_vec(), &["inflate the layer"]),
        sent("a gzip stream with a wrong sum", wrong, &["inflate the layer"]),
        sent("a gzip header without end", named, &["inflate the layer"]),
        sent(
            "CVE-2014-9357, CVE-2021-20291: an xz layer",
            [&[0xfd, b'7', b'z', b'X', b'Z', 0][..], &[7; 600]].concat(),
            &["inflate the layer", "xz"],
        ),
        sent("a bzip2 layer", [&b"BZh91AY&SY"[..], &[7; 600]].concat(), &["inflate the layer", "bzip2"]),
        sent("a zstd frame that is cut", zstd(10, &stored(&plain)), &["inflate the layer"]),
        sent(
            "a zstd frame with a window of 1 GiB",
            zstd(20, &repeated(0, 512, true)),
            &["inflate the layer", "zstd window has 1073741824 bytes"],
        ),
        sent(
            "a zstd frame with a window of 128 MiB, as --ultra has it",
            zstd(17, &[stored(&plain), repeated(0, 512, true).to_vec()].concat()),
            &["inflate the layer", "zstd window has 134217728 bytes", "33554432", "--long"],
        ),
        sent(
            "a zstd frame with a larger window than the first",
            [zstd(10, &repeated(0, 512, true)), zstd(17, &repeated(0, 512, true))].concat(),
            &["inflate the layer", "too much memory"],
        ),
        compressed(
            "a zstd frame that fills its window of 32 MiB",
            zstd(15, &[stored(&large), zeros, repeated(0, 1024, true).to_vec()].concat()),
            &large_end,
            &[&format!("f f {}", content::pieces(40 << 20, &[]))],
        ),
    ])
}

fn inflating() -> Result<Vec<Case>> {
    let header = Tar::new().entry(entry(b'0', "zeros").number(SIZE, 7 << 30)).open();
    let zeros = gzip(&vec![0; 16 << 20])?;
    let gigabytes = [gzip(&header)?, zeros.repeat(256)].concat();
    let blocks: Vec<u8> = std::iter::repeat_n(repeated(0, 128 << 10, false), 32_768).flatten().collect();
    let rest = [gzip(&Tar::new().file("f", "").end())?, zeros.repeat(256)].concat();
    let words = &["inflates to more than", "times its size"][..];
    let mut cases = vec![
        sent("CVE-2017-14992: 4 MiB of gzip that are 4 GiB", gigabytes, words),
        sent("128 KiB of zstd that are 4 GiB", zstd(10, &[stored(&header), blocks].concat()), words),
        sent("4 GiB after the end mark", rest, words),
    ];
    cases[1..].iter_mut().for_each(|case| case.once = true);
    Ok(cases)
}

/// More entries than a layer may have. A thousand make files; the others are notes of a filesystem that layers no longer
/// come from, which make nothing, so that it is not the disk that ends it.
fn entries() -> Result<Case> {
    const MOST: usize = 4_000_000;
    const MADE: usize = 1000;
    const MEMBER: usize = 4096;
    let files = (0..MADE).fold(Tar::new(), |tar, n| tar.file(format!("file{n}"), "made"));
    // Not all the same: more than a few hundred times its size is nothing that gzip may become.
    let notes = (0..MEMBER).fold(Tar::new(), |tar, n| tar.file(format!(".wh..wh.{:x}", n / 8), ""));
    let blob = [gzip(&files.open())?, gzip(&notes.open())?.repeat(MOST / MEMBER + 1)].concat();
    anyhow::ensure!(blob.len() < 16 << 20, "{} bytes are not little", blob.len());
    let mut case =
        sent("four million entries in a few megabytes", blob, &["the archive has more than 4000000 entries"]);
    case.once = true;
    Ok(case)
}

fn sparse() -> Vec<Case> {
    let map = |map: &[u8], size: &[u8], data: &str| {
        Tar::new()
            .pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size), ("GNU.sparse.name", b"s")])
            .file("x", data)
            .end()
    };
    let counted = |text: &str| {
        let of: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"1"),
            ("GNU.sparse.name", b"s"),
        ];
        let mut data = text.as_bytes().to_vec();
        data.resize(data.len().next_multiple_of(512), 0);
        Tar::new().pax(of).file("x", data).end()
    };
    // An old GNU header whose map goes on and on, each block with one piece of no length.
    let mut old = entry(b'S', "s").field((257, 8), b"ustar  \0").number((483, 12), 1).number(SIZE, 0);
    old = old.field((482, 1), [1]);
    let mut chain = [0; 512];
    chain[504] = 1;
    let endless = Tar::new().entry(old).raw(chain.repeat(8000)).end();
    let words = &["malformed archive", "a sparse map"][..];
    vec![
        refused("sparse pieces that overlap", map(b"0,2,1,1", b"9", "abc"), words),
        refused("sparse pieces that go back", map(b"5,1,0,2", b"9", "abc"), words),
        refused("sparse pieces beyond the end", map(b"0,3", b"2", "abc"), words),
        refused("sparse pieces that overflow", map(b"18446744073709551615,3", b"9", "abc"), words),
        refused("sparse pieces that are more than the data", map(b"0,9", b"9", "abc"), words),
        refused("half a sparse piece", map(b"0,1,2", b"9", "a"), words),
        refused(
            "a sparse file of 8 EiB",
            map(b"0,3", b"9223372036854775807", "abc"),
            &["the archive has more than", "bytes"],
        ),
        refused(
            "CVE-2025-58183: a sparse map of a billion pieces",
            counted("1000000000\n0\n1\n"),
            &["pieces of a sparse file"],
        ),
        refused("a sparse map without its end", counted("2\n0\n1\n"), &["sparse map"]),
        refused("CVE-2025-58183: an old sparse map without end", endless, &["pieces of a sparse file"]),
        becomes(
            "a sparse file of 100 GiB takes three bytes",
            map(b"0,3", b"107374182400", "abc"),
            &[&format!("f s {}", content::pieces(107_374_182_400, &[(0, b"abc")]))],
        ),
    ]
}

fn many() -> Vec<Case> {
    // Nothing that is made a second time; four kilobytes of a name each.
    let named = ["n".repeat(250).as_str(); 15].join("/");
    let mut again = Tar::new();
    for _ in 0..25_000 {
        again = again.long(b'L', &named).dir("d");
    }
    let again = again.raw([7; 512]).end();
    let mut case = refused(
        "100 MiB of the name of a directory, then nonsense",
        again,
        &["malformed archive", "checksum"],
    );
    if let Ok(blob) = gzip(&case.layers[0].blob) {
        case.layers[0].blob = blob;
    }
    let deep = (0..200).fold(Tar::new(), |tar, _| tar.dir("d").file("d/x", "").sym("d", "x"));
    vec![case, becomes("a directory made and replaced two hundred times", deep.end(), &["l d -> x"])]
}
