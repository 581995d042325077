//! Extended attributes: the overlay's own, the host's labels, and such as nobody can set.

use super::case::{Case, becomes, refused};
use super::tarball::{Tar, entry};

fn with(attributes: &[(&str, &[u8])]) -> Tar {
    let named: Vec<_> =
        attributes.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)).collect();
    let named: Vec<_> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    Tar::new().pax(&named)
}

pub(super) fn cases() -> Vec<Case> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut cases = vec![
        becomes(
            "an opaque directory by attribute is not one",
            with(&[("trusted.overlay.opaque", b"y")]).dir("d").end(),
            &["d d"],
        ),
        becomes(
            "an overlay's redirect to elsewhere",
            with(&[("trusted.overlay.redirect", b"/etc")]).dir("d").end(),
            &["d d"],
        ),
        becomes(
            "an overlay's metacopy of another file",
            with(&[("trusted.overlay.metacopy", b""), ("trusted.overlay.redirect", b"/etc/shadow")])
                .file("f", "")
                .end(),
            &["f f "],
        ),
        becomes(
            "an overlay's whiteout by attribute",
            with(&[("trusted.overlay.whiteout", b"y"), ("trusted.overlay.overlay.opaque", b"y")])
                .file("f", "")
                .end(),
            &["f f "],
        ),
        becomes(
            "the same for overlays of users",
            with(&[("user.overlay.opaque", b"y"), ("user.overlay.redirect", b"/etc")]).dir("d").end(),
            &["d d"],
        ),
        becomes(
            "a directory that is named again has what is said last, as for GNU tar and umoci",
            with(&[("user.a", b"1"), ("trusted.b", b"2")])
                .dir("d")
                .pax(&[("SCHILY.xattr.user.c", b"3")])
                .dir("d")
                .end(),
            &["d d user.c=3"],
        ),
        becomes(
            "and hides what it hid",
            with(&[("user.a", b"1")]).dir("d").file("d/.wh..wh..opq", "").dir("d").end(),
            &["d d trusted.overlay.opaque=y"],
        ),
        becomes(
            "labels of another host",
            with(&[
                ("security.selinux", b"system_u:object_r:etc_t:s0"),
                ("security.ima", b"x"),
                ("security.evm", b"x"),
                ("security.apparmor", b"x"),
            ])
            .file("f", "")
            .end(),
            &["f f "],
        ),
        becomes(
            "attributes of no known kind",
            with(&[("", b"x"), ("name", b"x"), ("system.data", b"x"), ("trustedx", b"x")])
                .file("f", "")
                .end(),
            &["f f "],
        ),
        becomes(
            "a user's attribute of what cannot have one",
            with(&[("user.a", b"x")])
                .sym("l", "x")
                .pax(&[("SCHILY.xattr.user.a", b"x")])
                .entry(entry(b'6', "p"))
                .end(),
            &["l l -> x", "p p"],
        ),
        becomes(
            "one that an image may have",
            with(&[("user.a", b"x\n\0=")]).file("f", "").end(),
            &["f f  user.a=x\\n\\x00="],
        ),
        refused(
            "an attribute's value that is too long",
            with(&[("user.a", &[b'v'; 70_000])]).file("f", "").end(),
            &["\"f\"", "user.a"],
        ),
        refused(
            "an attribute's name that is too long",
            with(&[(format!("user.{}", "n".repeat(300)).as_str(), b"x")]).file("f", "").end(),
            &["\"f\"", "user.n"],
        ),
        refused(
            "a capability that is none",
            with(&[("security.capability", b"all of them")]).file("f", "").end(),
            &["\"f\"", "security.capability"],
        ),
    ];
    let shown = format!("f f  security.capability={}", capability.escape_ascii());
    cases.push(becomes(
        "a file's capability is the image's",
        with(&[("security.capability", &capability)]).file("f", "").end(),
        &[&shown],
    ));
    cases
}
