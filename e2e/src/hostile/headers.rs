//! Headers that lie, contradict each other, overflow or stop.

use super::case::{Case, becomes, refused};
use super::content;
use super::tarball::{GID, MAGIC, MAJOR, MODE, MTIME, SIZE, Tar, UID, binary, entry, records};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = numbers();
    cases.extend(sizes());
    cases.extend(ends());
    cases.extend(kinds());
    cases
}

fn numbers() -> Vec<Case> {
    let owner = "an owner that does not exist";
    let with = |field, bytes: &[u8]| Tar::new().entry(entry(b'0', "f").field(field, bytes)).end();
    let pax = |key: &str, value: &[u8]| Tar::new().pax(&[(key, value)]).file("f", "").end();
    vec![
        refused(
            "a negative size in base 256",
            with(SIZE, &binary(-512, 12)),
            &["malformed archive at byte 512", "size"],
        ),
        refused(
            "CVE-2025-62518: a size beyond 64 bits",
            with(SIZE, &binary((1 << 80) + 512, 12)),
            &["malformed archive at byte 512", "size"],
        ),
        refused("a size of 2^63", with(SIZE, &binary(1 << 63, 12)), &["the archive has more than", "bytes"]),
        refused("a size that is a word", with(SIZE, b"lots"), &["malformed archive at byte 512", "size"]),
        refused("a size with a sign", with(SIZE, b"-0000000001"), &["malformed archive at byte 512", "size"]),
        refused(
            "a size of 8 GiB and no data",
            with(SIZE, b"77777777777"),
            &["ends in the middle of an entry"],
        ),
        refused("a PAX size that is none", pax("size", b"-1"), &["malformed archive", "PAX"]),
        refused(
            "a PAX size beyond 64 bits",
            pax("size", b"99999999999999999999"),
            &["malformed archive", "PAX"],
        ),
        refused("a user of -1", pax("uid", b"4294967295"), &["\"f\"", owner]),
        refused("CVE-2024-40635: a user of 2^32", pax("uid", b"4294967296"), &["\"f\"", owner]),
        refused("a group of 2^32 in base 256", with(GID, &binary(1 << 32, 8)), &["\"f\"", owner]),
        refused("a negative user in base 256", with(UID, &binary(-2, 8)), &["malformed archive", "owner"]),
        refused("a user that is a word", with(UID, b"root"), &["malformed archive", "owner"]),
        refused("a mode that is a word", with(MODE, b"rwxr-xr"), &["malformed archive", "mode"]),
        refused(
            "a device number that is a word",
            Tar::new().entry(entry(b'3', "n").field(MAJOR, b"sda")).end(),
            &["malformed archive", "device"],
        ),
        becomes("a mode with more than twelve bits", with(MODE, b"7777644"), &["f f  mode 7644"]),
        becomes("a time before the epoch", with(MTIME, &binary(-86400, 12)), &["f f "]),
        becomes("a time beyond what a disk can keep", pax("mtime", b"99999999999999.5"), &["f f "]),
        becomes(
            "an empty owner, an empty time",
            Tar::new().entry(entry(b'0', "f").field(UID, b"").field(MTIME, b"")).end(),
            &["f f "],
        ),
        becomes(
            "setuid for an owner that nobody has",
            Tar::new()
                .entry(entry(b'0', "su").number(MODE, 0o6755).field(UID, binary(4_000_000_000, 8)))
                .end(),
            &["f su  mode 6755 owner 4000000000:0"],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let smuggled = Tar::new().file("smuggled", "in").open();
    let mut inner = entry(b'0', "f").data(&smuggled);
    // The block after the header is a header of its own where the PAX size counts, and a content where it does not.
    inner = inner.number(SIZE, smuggled.len() as u64);
    let long = Tar::new()
        .pax(&[("size", b"512")])
        .long(b'L', "long")
        .entry(entry(b'0', "f").data([b'x'; 512]))
        .file("after", "in")
        .end();
    let doubled = Tar::new().pax(&[("size", b"0")]).entry(inner).end();
    let record = |bytes: &[u8]| Tar::new().entry(entry(b'x', "pax").data(bytes)).file("f", "").end();
    let many = (0..60).fold(Tar::new(), |tar, n| {
        tar.pax(&[(format!("SCHILY.xattr.user.n{n}").as_str(), &[b'v'; 50_000][..])])
    });
    let global = |of: &[(&str, &[u8])]| entry(b'g', "g").data(records(of));
    vec![
        becomes(
            "CVE-2026-33055: a PAX size of 0 counts, as for everybody",
            doubled,
            &["f f ", "f smuggled in"],
        ),
        becomes(
            "GHSA-3cv2-h65g-fgmm: a PAX size is not that of a long name",
            long,
            &[&format!("f long {}", content::shown(&[b'x'; 512])), "f after in"],
        ),
        refused(
            "a PAX size beyond the archive",
            Tar::new().pax(&[("size", b"1000000")]).file("f", "").end(),
            &["ends in the middle of an entry"],
        ),
        refused("a PAX record longer than its header", record(b"99 path=f\n"), &["malformed archive", "PAX"]),
        refused("a PAX record of no length", record(b"0 path=f\n"), &["malformed archive", "PAX"]),
        refused("a PAX record of negative length", record(b"-9 path=f\n"), &["malformed archive", "PAX"]),
        refused("a PAX record without an end", record(b"9 path=ff"), &["malformed archive", "PAX"]),
        refused(
            "a PAX header and nothing after it",
            Tar::new().pax(&[("path", b"f")]).end(),
            &["ends in the middle of an entry"],
        ),
        refused("PAX headers without end for one entry", many.file("f", "").end(), &["an extended header"]),
        becomes(
            "a PAX header before a global one",
            Tar::new().pax(&[("path", b"own")]).entry(global(&[("comment", b"x")])).file("f", "in").end(),
            &["f own in"],
        ),
        becomes(
            "a comment for everybody",
            Tar::new().entry(global(&[("comment", b"0123")])).file("f", "in").end(),
            &["f f in"],
        ),
        becomes(
            "sizes of what has no data are not believed",
            Tar::new()
                .entry(entry(b'5', "d").number(SIZE, 512))
                .entry(entry(b'2', "l").link("d").number(SIZE, 512))
                .entry(entry(b'3', "n").device(1, 3).number(SIZE, 1 << 30))
                .file("f", "in")
                .end(),
            &["d d", "f f in", "l l -> d", "c n 1:3"],
        ),
        becomes(
            "an old file whose name ends in a slash has data",
            Tar::new().entry(entry(0, "d/").field(MAGIC, b"").data(&smuggled)).file("f", "in").end(),
            &["d d mode 644", "f f in"],
        ),
    ]
}

fn ends() -> Vec<Case> {
    let whole = Tar::new().file("f", "content");
    let cut = |length: usize| whole.clone().open()[..length].to_vec();
    let blank = [0; 512];
    vec![
        refused(
            "a checksum that does not fit",
            Tar::new().entry(entry(b'0', "f").unsummed()).end(),
            &["malformed archive at byte 512", "checksum"],
        ),
        refused(
            "one bit turned in the second header",
            {
                let mut tar = Tar::new().file("a", "").file("b", "").end();
                tar[512] ^= 1;
                tar
            },
            &["malformed archive at byte 1024", "checksum"],
        ),
        refused("cut in a header", cut(300), &["ends in the middle of an entry"]),
        refused("cut in a content", cut(515), &["ends in the middle of an entry"]),
        refused("cut in the padding", cut(1000), &["ends in the middle of an entry"]),
        becomes("no end mark", cut(1024), &["f f content"]),
        becomes("one block of an end mark", [&cut(1024)[..], &blank].concat(), &["f f content"]),
        refused(
            "an entry after half an end mark",
            [&cut(1024)[..], &blank, &cut(1024)].concat(),
            &["malformed archive", "an entry after the end mark"],
        ),
        becomes("anything after the end", [whole.clone().end(), vec![b'#'; 5000]].concat(), &["f f content"]),
        becomes(
            "another archive after the end is not read",
            [whole.clone().end(), Tar::new().file("x", "").end()].concat(),
            &["f f content"],
        ),
        becomes("an empty archive", Vec::from([0; 1024]), &[]),
        becomes("an empty layer", Vec::new(), &[]),
        refused(
            "no archive at all",
            b"#!/bin/sh\necho this is a layer, too\n".repeat(40),
            &["malformed archive", "checksum"],
        ),
        refused(
            "a zip",
            [b"PK\x03\x04".to_vec(), vec![7; 2000]].concat(),
            &["malformed archive", "checksum"],
        ),
    ]
}

fn kinds() -> Vec<Case> {
    let directory = "a path through what is no directory";
    vec![
        refused(
            "a file below a file",
            Tar::new().file("f", "").file("f/x", "").end(),
            &["\"f/x\"", directory],
        ),
        refused(
            "a file below a fifo",
            Tar::new().entry(entry(b'6', "p")).file("p/x", "").end(),
            &["\"p/x\"", directory],
        ),
        refused(
            "a file below a disk",
            Tar::new().entry(entry(b'4', "sda").device(8, 0)).file("sda/x", "").end(),
            &["\"sda/x\"", directory],
        ),
        becomes(
            "a file over a full directory",
            Tar::new().dir("d").file("d/x", "").file("d", "in").end(),
            &["f d in"],
        ),
        becomes(
            "a directory over a file",
            Tar::new().file("d", "in").dir("d").file("d/x", "").end(),
            &["d d", "f d/x "],
        ),
        becomes(
            "a directory over a disk",
            Tar::new().entry(entry(b'4', "d").device(8, 0)).dir("d").end(),
            &["d d"],
        ),
        becomes(
            "a file over a disk: the disk is not written",
            Tar::new().entry(entry(b'4', "sda").device(8, 0)).file("sda", "boot").end(),
            &["f sda boot"],
        ),
        becomes(
            "a name of seven types, the last stays",
            Tar::new()
                .file("x", "1")
                .dir("x")
                .sym("x", "y")
                .entry(entry(b'6', "x"))
                .entry(entry(b'3', "x").device(1, 3))
                .file("y", "")
                .hard("x", "y")
                .file("x", "7")
                .end(),
            &["f x 7", "f y "],
        ),
        becomes(
            "disks and memory are nodes, and only that",
            Tar::new()
                .entry(entry(b'4', "sda").device(8, 0).number(MODE, 0o666))
                .entry(entry(b'3', "mem").device(1, 1))
                .end(),
            &["b sda 8:0 mode 666", "c mem 1:1"],
        ),
        becomes(
            "a node of 0:0 hides what is below, as a whiteout does",
            Tar::new().entry(entry(b'3', "x").number(MODE, 0).device(0, 0)).end(),
            &["c x 0:0"],
        ),
        refused(
            "an unknown type",
            Tar::new().entry(entry(b'Q', "f")).end(),
            &["entry type 'Q' is not supported"],
        ),
        refused(
            "a part of several volumes",
            Tar::new().entry(entry(b'M', "f")).end(),
            &["entry type 'M' is not supported"],
        ),
        refused(
            "a type that is no letter",
            Tar::new().entry(entry(0xff, "f")).end(),
            &["entry type", "is not supported"],
        ),
        becomes(
            "a volume's label is nothing",
            Tar::new().entry(entry(b'V', "../label")).file("f", "").end(),
            &["f f "],
        ),
    ]
}
