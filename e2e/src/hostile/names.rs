//! Names: upwards, absolute, of bytes that nobody types, too long, too deep; each in every field that can carry one.

use super::case::{Case, becomes, refused};
use super::tarball::{PREFIX, SIZE, Tar, entry};

const UP: &str = "a path with `..`";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = upwards();
    cases.extend(odd());
    cases.extend(long());
    cases
}

fn upwards() -> Vec<Case> {
    let map: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.map", b"0,1"),
        ("GNU.sparse.size", b"1"),
        ("GNU.sparse.name", b"../new"),
    ];
    vec![
        refused("CVE-2020-10696: a file upwards", Tar::new().file("../new", "in").end(), &["\"../new\"", UP]),
        refused(
            "a file upwards from inside",
            Tar::new().dir("a").file("a/../../new", "in").end(),
            &["\"a/../../new\"", UP],
        ),
        refused(
            "a file down, up and down",
            Tar::new().dir("a").dir("b").file("a/../b/new", "in").end(),
            &["\"a/../b/new\"", UP],
        ),
        refused("a directory upwards", Tar::new().dir("..").end(), &["\"..\"", UP]),
        refused("a link upwards", Tar::new().sym("../new", "x").end(), &["\"../new\"", UP]),
        refused(
            "a hard link's name upwards",
            Tar::new().file("f", "").hard("../new", "f").end(),
            &["\"../new\"", UP],
        ),
        refused("a fifo upwards", Tar::new().entry(entry(b'6', "../new")).end(), &["\"../new\"", UP]),
        refused(
            "upwards in a PAX path",
            Tar::new().pax(&[("path", b"../new")]).file("f", "in").end(),
            &["\"../new\"", UP],
        ),
        refused(
            "upwards in a PAX link path",
            Tar::new().pax(&[("linkpath", b"../secret")]).hard("h", "f").end(),
            &["\"h\"", UP],
        ),
        refused(
            "upwards in a GNU long name",
            Tar::new().long(b'L', "../new").file("f", "in").end(),
            &["\"../new\"", UP],
        ),
        refused(
            "upwards in a GNU long link",
            Tar::new().long(b'K', "../secret").hard("h", "f").end(),
            &["\"h\"", UP],
        ),
        refused(
            "upwards in a ustar prefix",
            Tar::new().entry(entry(b'0', "new").field(PREFIX, "..")).end(),
            &["\"../new\"", UP],
        ),
        refused(
            "upwards in a sparse file's name",
            Tar::new().pax(map).file("f", "x").end(),
            &["\"../new\"", UP],
        ),
        refused(
            "upwards in a global header",
            Tar::new()
                .entry(entry(b'g', "g").data(super::tarball::records(&[("path", b"../new")])))
                .file("f", "in")
                .end(),
            &["\"../new\"", UP],
        ),
    ]
}

fn odd() -> Vec<Case> {
    vec![
        becomes(
            "an absolute name is inside",
            Tar::new().file("/etc/new", "in").file("//x", "in").end(),
            &["d etc", "f etc/new in", "f x in"],
        ),
        becomes("dots and slashes", Tar::new().dir(".").dir("./").file("././/./a", "in").end(), &["f a in"]),
        becomes("three dots are a name", Tar::new().file(".../x", "in").end(), &["d ...", "f .../x in"]),
        becomes(
            "a backslash is a letter",
            Tar::new().file("..\\..\\new", "in").end(),
            &["f ..\\\\..\\\\new in"],
        ),
        becomes(
            "newlines and escapes",
            Tar::new().file("a\nb\x1b[2J", "in").sym("l", "x\ny").end(),
            &["f a\\nb\\x1b[2J in", "l l -> x\\ny"],
        ),
        becomes(
            "bytes that are no UTF-8",
            Tar::new().file(b"\xff\xfe", "in").sym(b"\xc0", b"\xff").end(),
            &["f \\xff\\xfe in", "l \\xc0 -> \\xff"],
        ),
        refused(
            "a NUL in a PAX path",
            Tar::new().pax(&[("path", b"a\0b")]).file("f", "").end(),
            &["a name that no file can have"],
        ),
        refused(
            "a NUL in a PAX link path",
            Tar::new().pax(&[("linkpath", b"a\0b")]).sym("l", "x").end(),
            &["\"l\"", "a name that no file can have"],
        ),
        refused(
            "a file without a name",
            Tar::new().file("", "in").end(),
            &["\"\"", "the root must be a directory"],
        ),
        refused(
            "a link to nothing",
            Tar::new().sym("l", "").end(),
            &["\"l\"", "a symbolic link target that is empty or too long"],
        ),
        becomes(
            "an empty PAX path says nothing",
            Tar::new().pax(&[("path", b"")]).file("f", "in").end(),
            &["f f in"],
        ),
        becomes(
            "the last of two PAX paths",
            Tar::new().pax(&[("path", b"a"), ("path", b"b")]).file("f", "in").end(),
            &["f b in"],
        ),
        refused(
            "a GNU long name and a PAX path, of which each reader takes one",
            Tar::new().long(b'L', "gnu").pax(&[("path", b"pax")]).file("f", "in").end(),
            &["malformed archive", "disagree"],
        ),
        becomes(
            "a long name ends at its NUL",
            Tar::new().long(b'L', b"a\0/../../new").file("f", "in").end(),
            &["f a in"],
        ),
    ]
}

fn long() -> Vec<Case> {
    let longest = "n".repeat(255);
    let path = |components: usize| vec!["d"; components].join("/");
    let wide = format!("{}/x", vec!["n".repeat(250); 16].join("/"));
    // Directories below one another, then a link to the lowest, and the same below the link.
    let mut chained = Tar::new().long(b'L', path(300)).dir("d").long(b'K', path(300)).sym("l", "d");
    chained = chained.long(b'L', format!("l/{}", path(300))).dir("d");
    vec![
        becomes(
            "a name of 255 bytes",
            Tar::new().pax(&[("path", longest.as_bytes())]).file("f", "in").end(),
            &[&format!("f {longest} in")],
        ),
        refused(
            "a name of 256 bytes",
            Tar::new().pax(&[("path", format!("{longest}n").as_bytes())]).file("f", "in").end(),
            &["a name that no file can have"],
        ),
        refused(
            "a path of 4096 bytes",
            Tar::new().pax(&[("path", format!("{wide}{}", "y".repeat(90)).as_bytes())]).file("f", "in").end(),
            &["a path that is too long"],
        ),
        refused(
            "a path of 513 directories",
            Tar::new().long(b'L', path(513)).dir("d").end(),
            &["a path that is too deep"],
        ),
        refused("as deep through a link to half of it", chained.end(), &["a path that is too deep"]),
        refused(
            "a link target of 5000 bytes",
            Tar::new().long(b'K', "t".repeat(5000)).sym("l", "t").end(),
            &["\"l\"", "a symbolic link target that is empty or too long"],
        ),
        refused(
            "a long name of two mebibytes",
            Tar::new().long(b'L', "n".repeat(2 << 20)).file("f", "").end(),
            &["an extended header"],
        ),
        refused(
            "CVE-2022-2879: a long name said to have 8 GiB",
            Tar::new().entry(entry(b'L', "x").number(SIZE, (8 << 30) - 1)).raw([b'n'; 4096]).end(),
            &["an extended header"],
        ),
        refused(
            "CVE-2022-2879: a PAX header said to have 8 GiB",
            Tar::new().entry(entry(b'x', "x").number(SIZE, (8 << 30) - 1)).raw([b'n'; 4096]).end(),
            &["an extended header"],
        ),
    ]
}
