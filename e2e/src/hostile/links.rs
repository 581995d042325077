//! Links that lead out, and what is written, linked, hidden or removed through them.

use super::case::{Case, become_each, becomes, refused};
use super::content;
use super::tarball::{MODE, Tar, entry};

/// A link to nothing inside is not followed and not replaced by the path's directories.
const NOWHERE: &str = "a link that leads nowhere in this layer";
const MISSING: &str = "a hard link to nothing in this layer";

/// `out` is a directory of the host with `secret`, `sub/victim` and `sub/empty`.
pub(super) fn cases(out: &str) -> Vec<Case> {
    let secret = format!("{out}/secret");
    let up = format!("../../../../../../../../../../../..{out}");
    let mut cases = through(out, &up);
    cases.extend(replaced(out, &secret));
    cases.extend(hard(out, &secret, &up));
    cases.extend(hidden(out));
    cases
}

fn through(out: &str, up: &str) -> Vec<Case> {
    let deep = format!("a/b/c/{up}");
    let mut cases = vec![
        refused(
            "CVE-2014-9356: a file through an absolute link",
            Tar::new().sym("l", out).file("l/new", "in").end(),
            &["\"l/new\"", NOWHERE],
        ),
        refused(
            "CVE-2014-6407: a file through a link upwards",
            Tar::new().sym("l", up).file("l/new", "in").end(),
            &["\"l/new\"", NOWHERE],
        ),
        refused(
            "CVE-2021-32760: a directory through a link",
            Tar::new().sym("l", out).dir("l/new/").end(),
            &["\"l/new/\"", NOWHERE],
        ),
        refused(
            "CVE-2025-47290: a file through a chain of links",
            Tar::new().sym("a", "b").sym("b", out).file("a/new", "in").end(),
            &["\"a/new\"", NOWHERE],
        ),
        refused(
            "a link from a directory far below",
            Tar::new().dir("a/b/c").sym("a/b/c/l", &deep).file("a/b/c/l/new", "in").end(),
            &["\"a/b/c/l/new\"", NOWHERE],
        ),
        refused(
            "a device through a link",
            Tar::new().sym("l", out).entry(entry(b'3', "l/null").device(1, 3)).end(),
            &["\"l/null\"", NOWHERE],
        ),
        refused(
            "a link through a link",
            Tar::new().sym("l", out).sym("l/new", "x").end(),
            &["\"l/new\"", NOWHERE],
        ),
        refused(
            "a loop of links",
            Tar::new().sym("a", "b").sym("b", "a").file("a/new", "in").end(),
            &["\"a/new\"", "a link that leads in a circle"],
        ),
        becomes(
            "a link one up from the root stays in it",
            Tar::new().sym("l", "..").file("l/secret", "in").end(),
            &["l l -> ..", "f secret in"],
        ),
        becomes(
            "a link to / is the layer's own root",
            Tar::new().dir("etc").sym("l", "/").file("l/etc/passwd", "in").end(),
            &["d etc", "f etc/passwd in", "l l -> /"],
        ),
        becomes(
            "an absolute link inside is followed inside",
            Tar::new().dir("x").sym("l", "/x").file("l/f", "in").end(),
            &["d x", "f x/f in", "l l -> /x"],
        ),
    ];
    for target in ["/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/proc/self/fd/3", "/dev/fd/3"] {
        let tar = Tar::new().sym("l", target).file("l/new", "in").end();
        cases.push(refused(
            &format!("CVE-2024-21626: a file through {target}"),
            tar,
            &["\"l/new\"", NOWHERE],
        ));
    }
    cases
}

fn replaced(out: &str, secret: &str) -> Vec<Case> {
    let shown = |path: &str, to: &str| format!("l {path} -> {}", content::shown(to.as_bytes()));
    vec![
        becomes(
            "CVE-2014-9356: a file over a link replaces the link",
            Tar::new().sym("f", secret).file("f", "in").end(),
            &["f f in"],
        ),
        becomes(
            "CVE-2026-33056: a directory over a link gives nobody its mode",
            Tar::new().sym("d", out).entry(entry(b'5', "d/").number(MODE, 0o777)).end(),
            &["d d mode 777"],
        ),
        becomes(
            "  and what follows is in the directory",
            Tar::new().sym("d", out).dir("d/").file("d/new", "in").end(),
            &["d d", "f d/new in"],
        ),
        refused(
            "a link over a directory, then through it",
            Tar::new().dir("d").file("d/x", "in").sym("d", out).file("d/new", "in").end(),
            &["\"d/new\"", NOWHERE],
        ),
        becomes(
            "a link over a full directory",
            Tar::new().dir("d").file("d/x", "in").sym("d", out).end(),
            &[&shown("d", out)],
        ),
        becomes(
            "a device over a link",
            Tar::new().sym("n", secret).entry(entry(b'3', "n").device(1, 3)).end(),
            &["c n 1:3"],
        ),
        becomes("a fifo over a link", Tar::new().sym("p", secret).entry(entry(b'6', "p")).end(), &["p p"]),
        refused(
            "CVE-2021-29136: the root as a link",
            Tar::new().sym(".", out).file("new", "in").end(),
            &["\".\"", "the root must be a directory"],
        ),
        refused(
            "CVE-2021-29136: the root as a link, named /",
            Tar::new().sym("/", out).file("new", "in").end(),
            &["\"/\"", "the root must be a directory"],
        ),
        refused(
            "the root as a hard link",
            Tar::new().file("f", "").hard("./", "f").end(),
            &["\"./\"", "the root must be a directory"],
        ),
        become_each(
            "CVE-2015-3629: a layer's directory is a link in the next one",
            vec![
                (Tar::new().dir("etc").file("etc/x", "one").end(), &["d etc", "f etc/x one"][..]),
                (Tar::new().sym("etc", out).end(), &[shown("etc", out).as_str()][..]),
                (Tar::new().file("etc/new", "three").end(), &["d etc", "f etc/new three"][..]),
            ],
        ),
    ]
}

fn hard(out: &str, secret: &str, up: &str) -> Vec<Case> {
    let above = format!("{up}/secret");
    let shown = format!("l s -> {}", content::shown(secret.as_bytes()));
    vec![
        refused(
            "CVE-2014-9356: a hard link to an absolute path",
            Tar::new().hard("h", secret).end(),
            &["\"h\"", MISSING],
        ),
        refused(
            "CVE-2014-6407: a hard link upwards",
            Tar::new().hard("h", &above).end(),
            &["\"h\"", "a path with `..`"],
        ),
        refused(
            "CVE-2019-10152: a hard link through a link",
            Tar::new().sym("l", out).hard("h", "l/secret").end(),
            &["\"h\"", MISSING],
        ),
        refused(
            "CVE-2020-10696: a hard link, then a file in its place",
            Tar::new().hard("h", "/etc/passwd").file("h", "in").end(),
            &["\"h\"", MISSING],
        ),
        refused("a hard link to /proc", Tar::new().hard("h", "/proc/self/exe").end(), &["\"h\"", MISSING]),
        refused(
            "a hard link to itself, which is not there",
            Tar::new().hard("h", "h").end(),
            &["\"h\"", MISSING],
        ),
        becomes(
            "a hard link to itself, which is there",
            Tar::new().file("h", "in").hard("h", "./h").end(),
            &["f h in"],
        ),
        refused(
            "a hard link to a directory",
            Tar::new().dir("d").hard("h", "d").end(),
            &["\"h\"", "a hard link to a directory"],
        ),
        refused(
            "a hard link to the root",
            Tar::new().hard("h", "/").end(),
            &["\"h\"", "a hard link to the root"],
        ),
        refused(
            "a hard link to what is hidden",
            Tar::new().file(".wh.x", "").hard("h", "x").end(),
            &["\"h\"", MISSING],
        ),
        refused(
            "a hard link to a file of the layer below",
            Tar::new().hard("h", "usr/bin/below").end(),
            &["\"h\"", MISSING],
        ),
        refused("an empty hard link", Tar::new().hard("h", "").end(), &["\"h\"", "a hard link to the root"]),
        becomes(
            "a hard link to a link is the link, and replaced as one",
            Tar::new().sym("s", secret).hard("h", "s").file("h", "in").end(),
            &[&shown, "f h in"],
        ),
        becomes(
            "hard links after a file was replaced are of the new one",
            Tar::new().file("a", "old").hard("b", "a").file("a", "new").hard("c", "a").end(),
            &["f a new file a", "f b old", "f c new file a"],
        ),
    ]
}

fn hidden(out: &str) -> Vec<Case> {
    vec![
        refused(
            "a whiteout through a link",
            Tar::new().sym("l", out).file("l/.wh.secret", "").end(),
            &["\"l/.wh.secret\"", NOWHERE],
        ),
        refused(
            "an opaque mark through a link",
            Tar::new().sym("l", out).file("l/.wh..wh..opq", "").end(),
            &["\"l/.wh..wh..opq\"", NOWHERE],
        ),
        becomes(
            "both through a link inside",
            Tar::new().dir("x").sym("l", "x").file("l/.wh.gone", "").file("l/.wh..wh..opq", "").end(),
            &["d x trusted.overlay.opaque=y", "c x/gone 0:0", "l l -> x"],
        ),
        refused(
            "a whiteout of ..",
            Tar::new().dir("d").file("d/.wh...", "").end(),
            &["\"d/.wh...\"", "a whiteout of nothing"],
        ),
        refused(
            "a whiteout of .",
            Tar::new().dir("d").file("d/.wh..", "").end(),
            &["\"d/.wh..\"", "a whiteout of nothing"],
        ),
        refused(
            "a whiteout of no name",
            Tar::new().file(".wh.", "").end(),
            &["\".wh.\"", "a whiteout of nothing"],
        ),
        refused(
            "a whiteout above the root",
            Tar::new().file("../.wh.secret", "").end(),
            &["\"../.wh.secret\"", "a path with `..`"],
        ),
        refused(
            "a path through a whiteout",
            Tar::new().dir(".wh.d").file(".wh.d/x", "").end(),
            &["\".wh.d/x\"", "a path through a whiteout"],
        ),
        becomes(
            "a whiteout as a hard link to nothing",
            Tar::new().hard(".wh.x", "no/such").end(),
            &["c x 0:0"],
        ),
        becomes("a whiteout as a link", Tar::new().sym(".wh.x", out).end(), &["c x 0:0"]),
        becomes(
            "a whiteout with a content",
            Tar::new().file(".wh.x", "content").file("y", "after").end(),
            &["c x 0:0", "f y after"],
        ),
        becomes(
            "a whiteout does not hide its own layer's file",
            Tar::new().file("x", "own").file(".wh.x", "").end(),
            &["f x own"],
        ),
        becomes(
            "a directory over a whiteout shows nothing from below",
            Tar::new().file(".wh.d", "").file("d/x", "own").end(),
            &["d d trusted.overlay.opaque=y", "f d/x own"],
        ),
        becomes(
            "marks of another filesystem are nothing",
            Tar::new().file(".wh..wh.plnk", "").file(".wh..wh.aufs", "").end(),
            &[],
        ),
        becomes("a link over a whiteout", Tar::new().file(".wh.x", "").sym("x", "y").end(), &["l x -> y"]),
        refused(
            "a file under a whiteout's place that is a device",
            Tar::new().entry(entry(b'3', "n").device(1, 3)).file("n/x", "").end(),
            &["\"n/x\"", "a path through what is no directory"],
        ),
    ]
}
