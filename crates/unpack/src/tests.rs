use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use ::tar::{Builder, EntryType, Header};
use berth_sys::path::get_xattr;

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header
}

/// A tar writer that checks nothing.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, mut header: Header, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        for (field, at) in [(name, 0), (link, 157)] {
            let short = &field[..field.len().min(100)];
            header.as_mut_bytes()[at..at + short.len()].copy_from_slice(short);
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn file(self, name: &str, data: &str) -> Self {
        self.raw(header(EntryType::Regular, data.len() as u64), name.as_bytes(), b"", data.as_bytes())
    }
    fn dir(self, name: &str) -> Self {
        let mut h = header(EntryType::Directory, 0);
        h.set_mode(0o755);
        self.raw(h, name.as_bytes(), b"", b"")
    }
    fn sym(self, name: &str, to: &str) -> Self {
        self.raw(header(EntryType::Symlink, 0), name.as_bytes(), to.as_bytes(), b"")
    }
    fn hard(self, name: &str, to: &str) -> Self {
        self.raw(header(EntryType::Link, 0), name.as_bytes(), to.as_bytes(), b"")
    }
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|n| n.to_string().len() + rest == *n).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(header(EntryType::XHeader, data.len() as u64), b"pax", b"", &data)
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

struct Out {
    dir: tempfile::TempDir,
    result: Result<Unpacked, UnpackError>,
}

impl Out {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("fs").join(name)
    }
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
    fn opaque(&self, name: &str) -> bool {
        let open = File::open(self.path(name)).unwrap();
        get_xattr(&open, c"trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
    }
    fn is_whiteout(&self, name: &str) -> bool {
        let meta = fs::symlink_metadata(self.path(name)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    }
}

fn run_with(blob: &[u8], limits: &Limits) -> Out {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    fs::create_dir(dir.path().join("fs")).unwrap();
    let root = File::open(dir.path().join("fs")).unwrap();
    let (mut tree, mut tape) = (Vec::new(), Vec::new());
    let result = unpack(blob, root.as_fd(), Records { tree: &mut tree, tape: &mut tape }, limits);
    if let Ok(unpacked) = &result {
        let checked = check(root.as_fd(), &tree[..]).unwrap();
        assert_eq!(checked.differences, [], "the record disagrees with what was made");
        if unpacked.restorable {
            let restored = Restored::new(root.try_clone().unwrap().into(), &tape[..]).unwrap();
            assert_eq!(hashed(restored), unpacked.diff_id, "the stream cannot be made again");
        }
    }
    // Whatever the archive was: nothing beside the directory changed.
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "outside");
    assert_eq!(fs::metadata(dir.path().join("secret")).unwrap().nlink(), 1, "linked from outside");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    Out { dir, result }
}

fn sinks() -> Records<std::io::Sink> {
    Records { tree: std::io::sink(), tape: std::io::sink() }
}

fn hashed(mut stream: impl Read) -> Digest {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Digest::from_sha256(<sha2::Sha256 as sha2::Digest>::digest(&bytes).into()),
        Err(error) => panic!("restore the stream: {error}"),
    }
}

fn run(blob: &[u8]) -> Out {
    run_with(blob, &Limits::default())
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

#[test]
fn every_compression_gives_the_same_diff_id() {
    let plain = Tar::default().dir("etc/").file("etc/a", "one").file("./b", "two").end();
    let (head, tail) = plain.split_at(700);
    let members = [gzip(head), gzip(tail)].concat();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let want = run(&plain).result.unwrap();
    assert_eq!(want.diff_id, want.blob);
    assert_eq!(want.entries, 3);
    for blob in [gzip(&plain), members, zstd] {
        let out = run(&blob);
        let got = out.result.as_ref().unwrap();
        assert_eq!((&got.diff_id, got.tar_size), (&want.diff_id, want.tar_size));
        assert_eq!(got.blob_size, blob.len() as u64);
        assert_ne!(got.blob, got.diff_id);
        assert_eq!((out.read("etc/a"), out.read("b")), ("one".into(), "two".into()));
    }
}

#[test]
fn metadata_is_kept() {
    let mut setuid = header(EntryType::Regular, 1);
    setuid.set_mode(0o4755);
    setuid.set_uid(4_000_000_000);
    setuid.set_gid(7);
    let mut sticky = header(EntryType::Directory, 0);
    sticky.set_mode(0o1777);
    let mut device = header(EntryType::Char, 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let blob = Tar::default()
        .raw(sticky, b"tmp/", b"", b"")
        .pax(&[
            ("mtime", b"1500000000.123456789"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .raw(setuid, b"tmp/su", b"", b"x")
        .raw(device, b"null", b"", b"")
        .raw(header(EntryType::Fifo, 0), b"fifo", b"", b"")
        .sym("link", "tmp/su")
        .hard("hard", "/tmp/su")
        .end();
    let out = run(&blob);
    out.result.as_ref().unwrap();
    let meta = fs::metadata(out.path("tmp/su")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4755, 4_000_000_000, 7));
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.nlink()), (1_500_000_000, 123_456_789, 2));
    let open = File::open(out.path("tmp/su")).unwrap();
    assert_eq!(get_xattr(&open, c"security.capability").unwrap().as_deref(), Some(&capability[..]));
    assert_eq!(get_xattr(&open, c"user.note").unwrap().as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(get_xattr(&open, c"trusted.overlay.redirect").unwrap(), None);
    let tmp = fs::metadata(out.path("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_000_000), "after its files");
    assert!(fs::symlink_metadata(out.path("null")).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(out.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::symlink_metadata(out.path("link")).unwrap().mtime(), 1_000_000);
}

#[test]
fn whiteouts_become_overlays() {
    let out = run(&Tar::default()
        .dir("a/")
        .file("a/.wh..wh..opq", "")
        .file("a/.wh.gone", "")
        .file("a/.wh..wh.plnk", "")
        .file("own", "kept")
        .file(".wh.own", "")
        .dir("tree/")
        .file(".wh.tree", "")
        .file(".wh.back", "")
        .dir("back/")
        .file(".wh.deep", "")
        .file("deep/file", "x")
        .end());
    out.result.as_ref().unwrap();
    assert!(out.opaque("a") && out.is_whiteout("a/gone"));
    assert!(!out.path("a/.wh..wh.plnk").exists() && !out.path("a/.wh..wh..opq").exists());
    assert_eq!(out.read("own"), "kept");
    assert!(out.result.as_ref().unwrap().restorable);
    assert!(out.opaque("tree") && out.opaque("back") && out.opaque("deep"));
}

#[test]
fn the_last_of_duplicates_stays() {
    let out = run(&Tar::default()
        .file("a", "old")
        .file("a", "new")
        .dir("d/")
        .file("d/x", "1")
        .sym("d", "elsewhere")
        .sym("l", "a")
        .file("l", "a file now")
        .dir("keep/")
        .file("keep/x", "2")
        .dir("keep/")
        .file("was-file", "")
        .dir("was-file/")
        .end());
    out.result.as_ref().unwrap();
    assert_eq!(
        (out.read("a"), out.read("l"), out.read("keep/x")),
        ("new".into(), "a file now".into(), "2".into())
    );
    assert!(!out.result.unwrap().restorable, "what was replaced is gone");
    assert!(fs::symlink_metadata(out.dir.path().join("fs/d")).unwrap().is_symlink());
    assert!(out.dir.path().join("fs/was-file").is_dir());
}

#[test]
fn long_names_and_sparse_files() {
    let long = format!("{}/file", ["component-of-a-path"; 20].join("/"));
    let mut builder = Builder::new(Vec::new());
    let mut h = header(EntryType::Regular, 2);
    builder.append_data(&mut h, &long, &b"ok"[..]).unwrap();
    let gnu = builder.into_inner().unwrap();
    assert_eq!(run(&gnu).read(&long), "ok");
    assert_eq!(
        run(&Tar::default().pax(&[("path", long.as_bytes())]).file("x", "pax").end()).read(&long),
        "pax"
    );
    let map: &[(&str, &[u8])] =
        &[("GNU.sparse.map", b"0,2,8192,1"), ("GNU.sparse.size", b"10000"), ("GNU.sparse.name", b"s")];
    let out = run(&Tar::default().pax(map).file("x", "abc").end());
    out.result.as_ref().unwrap();
    let sparse = fs::read(out.path("s")).unwrap();
    assert_eq!((sparse.len(), &sparse[..3], sparse[8192]), (10_000, &b"ab\0"[..], b'c'));
}

#[test]
fn gnu_tar_agrees_on_a_sparse_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("s")).unwrap();
    for piece in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[b'z'; 4096], piece * 65536).unwrap();
    }
    file.set_len(10 << 20).unwrap();
    for format in [&["--format=gnu"][..], &["--format=posix"], &["--format=posix", "--sparse-version=0.1"]] {
        let out = std::process::Command::new("tar")
            .args(["-C", dir.path().to_str().unwrap(), "-cS"])
            .args(format)
            .arg("s")
            .output()
            .unwrap();
        assert!(out.stdout.len() < 1 << 20, "tar wrote it sparse");
        let got = run(&out.stdout);
        got.result.as_ref().unwrap();
        assert!(fs::read(got.path("s")).unwrap() == fs::read(dir.path().join("s")).unwrap(), "{format:?}");
    }
}

#[test]
fn no_entry_escapes() {
    // Accepted but contained: what it wrote is inside.
    for (what, blob, inside) in [
        ("absolute", Tar::default().file("/secret", "in").end(), "secret"),
        ("through a link up", Tar::default().sym("l", "..").file("l/secret", "in").end(), "secret"),
        (
            "through an absolute link",
            Tar::default().dir("x").sym("l", "/x").file("l/secret", "in").end(),
            "x/secret",
        ),
        ("onto a link", Tar::default().sym("secret", "../secret").file("secret", "in").end(), "secret"),
        ("long way up", Tar::default().sym("l", "../../../../../../").file("l/secret", "in").end(), "secret"),
    ] {
        let out = run(&blob);
        assert!(out.result.is_ok(), "{what}: {:?}", out.result);
        assert_eq!(out.read(inside), "in", "{what}");
    }
    let mut disk = header(EntryType::Block, 0);
    disk.set_device_major(7).unwrap();
    disk.set_device_minor(0).unwrap();
    let odd_owner = |field: &str, id: &[u8]| Tar::default().pax(&[(field, id)]).file("f", "").end();
    for (what, blob) in [
        ("dot dot", Tar::default().file("../secret", "x").end()),
        ("dot dot inside", Tar::default().dir("a").file("a/../../secret", "x").end()),
        ("dot dot directory", Tar::default().dir("..").end()),
        ("hard link up", Tar::default().hard("h", "../secret").end()),
        ("hard link through a link", Tar::default().sym("l", "..").hard("h", "l/secret").end()),
        ("hard link to an absolute path", Tar::default().hard("h", "/etc/passwd").end()),
        ("hard link to a directory", Tar::default().dir("d").hard("h", "d").end()),
        ("hard link to the root", Tar::default().hard("h", "/").end()),
        ("hard link to nothing", Tar::default().hard("h", "no").end()),
        ("the root as a file", Tar::default().file(".", "x").end()),
        ("the root as a link", Tar::default().sym("/", "/etc").end()),
        ("through a device", Tar::default().raw(disk.clone(), b"d", b"", b"").file("d/x", "").end()),
        ("through a file", Tar::default().file("f", "").file("f/x", "").end()),
        ("through a dangling link", Tar::default().sym("l", "/nowhere").file("l/x", "").end()),
        ("through a link to itself", Tar::default().sym("l", "l").file("l/x", "").end()),
        ("whiteout of nothing", Tar::default().file(".wh.", "").end()),
        ("whiteout of dot dot", Tar::default().file("a/.wh...", "").end()),
        ("whiteout of dot", Tar::default().file(".wh..", "").end()),
        ("through a whiteout", Tar::default().dir(".wh.a").file(".wh.a/x", "").end()),
        ("magic link", Tar::default().sym("l", "/proc/self/root").file("l/x", "").end()),
        ("uid -1", odd_owner("uid", b"4294967295")),
        ("uid beyond 32 bits", odd_owner("gid", b"4294967296")),
        ("NUL in a PAX path", Tar::default().pax(&[("path", b"a\0b")]).file("f", "").end()),
        ("component of 256", Tar::default().pax(&[("path", &[b'a'; 256])]).file("f", "").end()),
        ("empty link target", Tar::default().sym("l", "").end()),
    ] {
        let out = run(&blob);
        assert!(
            matches!(
                out.result,
                Err(UnpackError::Refused { .. } | UnpackError::Create { .. } | UnpackError::Tar(_))
            ),
            "{what}: {:?}",
            out.result
        );
    }
}

#[test]
fn a_link_that_was_there_before_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("fs")).unwrap();
    symlink("/proc/self/root/tmp", dir.path().join("fs/l")).unwrap();
    let root = File::open(dir.path().join("fs")).unwrap();
    let blob = Tar::default().file("l/berth-escape", "x").end();
    assert!(unpack(&blob[..], root.as_fd(), sinks(), &Limits::default()).is_err());
    assert!(!Path::new("/tmp/berth-escape").exists());
}

#[test]
fn malformed_and_huge_archives_are_refused() {
    let plain = Tar::default().file("a", &"x".repeat(5000)).end();
    let mut bad_sum = plain.clone();
    bad_sum[0] ^= 1;
    let mut gz_cut = gzip(&plain);
    gz_cut.truncate(gz_cut.len() - 9);
    let mut gz_bad = gzip(&plain);
    let middle = gz_bad.len() - 6;
    gz_bad[middle] ^= 0xff;
    let huge = |kind| Tar::default().raw(header(kind, 1 << 33), b"x", b"", b"").end();
    let mut after_end = Tar::default().file("a", "").0;
    after_end.extend_from_slice(&[0; 512]);
    after_end.extend_from_slice(&Tar::default().file("hidden", "").0);
    for (what, blob) in [
        ("checksum", bad_sum),
        ("cut in a header", plain[..100].to_vec()),
        ("cut in the data", plain[..2000].to_vec()),
        ("cut after an extended header", Tar::default().pax(&[("path", b"a")]).0),
        ("gzip cut", gz_cut),
        ("gzip checksum", gz_bad),
        ("gzip with a tail", [gzip(&plain), b"tail".to_vec()].concat()),
        ("zstd cut", zstd::encode_all(&plain[..], 1).unwrap()[..30].to_vec()),
        ("giant long name", huge(EntryType::GNULongName)),
        ("giant PAX header", huge(EntryType::XHeader)),
        ("giant global header", huge(EntryType::XGlobalHeader)),
        ("broken PAX", Tar::default().raw(header(EntryType::XHeader, 5), b"x", b"", b"9 a=b").end()),
        (
            "sparse map disagrees",
            Tar::default()
                .pax(&[("GNU.sparse.map", b"0,9"), ("GNU.sparse.size", b"9")])
                .file("s", "abc")
                .end(),
        ),
        (
            "sparse map overflows",
            Tar::default()
                .pax(&[("GNU.sparse.map", b"18446744073709551615,3"), ("GNU.sparse.size", b"9")])
                .file("s", "abc")
                .end(),
        ),
        (
            "sparse bomb",
            Tar::default()
                .pax(&[("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"9223372036854775807")])
                .file("s", "abc")
                .end(),
        ),
        ("unknown type", Tar::default().raw(header(EntryType::new(b'M'), 0), b"x", b"", b"").end()),
        ("entry after the end", after_end),
        ("PAX size beyond the stream", Tar::default().pax(&[("size", b"99999")]).file("a", "x").end()),
    ] {
        let out = run(&blob);
        assert!(out.result.is_err(), "{what} was accepted");
        if what == "cut in the data" {
            assert!(matches!(
                out.result,
                Err(UnpackError::Create { .. } | UnpackError::Tar(TarError::Truncated))
            ));
        }
    }
    let small = Limits { entries: 2, bytes: 4096, depth: 3, ..Limits::default() };
    for (what, blob) in [
        ("entries", Tar::default().dir("a").dir("b").dir("c").end()),
        ("bytes", gzip(&plain)),
        ("depth", Tar::default().file("a/b/c/d", "").end()),
    ] {
        assert!(run_with(&blob, &small).result.is_err(), "more {what} than allowed");
    }
}

#[test]
fn a_failing_source_is_told_from_a_bad_archive() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            let length = self.0.min(buffer.len());
            self.0 -= length;
            buffer[..length].fill(0);
            Ok(length)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    for after in [0, 100, 300 << 10, 3 << 20] {
        let error =
            unpack(std::io::BufReader::new(Failing(after)), root.as_fd(), sinks(), &Limits::default())
                .unwrap_err();
        assert!(matches!(error, UnpackError::Read { .. }), "after {after}: {error:?}");
    }
}

#[test]
fn damage_is_found() {
    type Harm = fn(&Path);
    let blob = Tar::default()
        .dir("d/")
        .file("d/f", "content")
        .file("other", "other")
        .hard("d/h", "d/f")
        .sym("d/l", "f")
        .file("d/.wh.gone", "")
        .end();
    let cases: [(&str, &str, Harm); 9] = [
        ("d/f", "has another content", |at| {
            let time = fs::metadata(at.join("d/f")).unwrap().modified().unwrap();
            fs::write(at.join("d/f"), "CONTENT").unwrap();
            File::options().write(true).open(at.join("d/f")).unwrap().set_modified(time).unwrap();
        }),
        ("d/f", "has another size", |at| fs::write(at.join("d/f"), "").unwrap()),
        ("other", "is missing", |at| fs::remove_file(at.join("other")).unwrap()),
        ("d/new", "is too much", |at| fs::write(at.join("d/new"), "").unwrap()),
        ("other", "has another owner", |at| {
            std::os::unix::fs::chown(at.join("other"), Some(5), None).unwrap()
        }),
        ("other", "has another mode", |at| {
            fs::set_permissions(at.join("other"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
                .unwrap();
        }),
        ("d/l", "points elsewhere", |at| {
            fs::remove_file(at.join("d/l")).unwrap();
            symlink("x", at.join("d/l")).unwrap();
        }),
        ("d/h", "is linked with another file", |at| {
            fs::remove_file(at.join("d/h")).unwrap();
            fs::copy(at.join("d/f"), at.join("d/h")).unwrap();
        }),
        ("d/gone", "is of another type", |at| {
            fs::remove_file(at.join("d/gone")).unwrap();
            fs::write(at.join("d/gone"), "").unwrap();
        }),
    ];
    for (path, what, harm) in cases {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let (mut record, mut tape) = (Vec::new(), Vec::new());
        let records = Records { tree: &mut record, tape: &mut tape };
        unpack(&blob[..], root.as_fd(), records, &Limits::default()).unwrap();
        harm(dir.path());
        let found = check(root.as_fd(), &record[..]).unwrap();
        let told = found.differences.iter().any(|found| found.path == path && found.what == what);
        // One of two names of a file may be named as the other's.
        let told = told || path == "d/h" && found.differences.iter().any(|found| found.what == what);
        assert!(told, "{path} {what}: {found:?}");
    }
}

#[test]
fn deep_trees_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    chain(dir.path(), 3000);
    let parent = File::open(dir.path()).unwrap();
    fs::write(dir.path().join("beside"), "").unwrap();
    symlink("beside", dir.path().join("top/link")).unwrap();
    let mut removed = 0;
    remove_tree(parent.as_fd(), c"top", &mut || removed += 1).unwrap();
    remove_tree(parent.as_fd(), c"top", &mut || {}).unwrap();
    assert_eq!(removed, 3002);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only what was beside it is left");
}

/// `top/d/d/d…`, deeper than a path can say.
fn chain(base: &Path, depth: usize) {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let mut at: std::os::fd::OwnedFd = File::open(base).unwrap().into();
    for name in std::iter::once("top").chain(std::iter::repeat_n("d", depth)) {
        let name = CString::new(name).unwrap();
        mkdirat(&at, name.as_c_str(), Mode::S_IRWXU).unwrap();
        at = openat(&at, name.as_c_str(), OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn directories_keep_their_times() {
    let mut parts = Tar::default()
        .dir("a/")
        .sym("l", "a")
        .file("a/1", "")
        .file("l/2", "")
        .dir("l/sub/")
        .file("a/sub/x", "");
    // More directories than are kept open, then back to the first.
    for number in 0..300 {
        parts = parts.dir(&format!("many/{number}/")).file(&format!("many/{number}/f"), "");
    }
    let out =
        run(&parts.dir("many/").file("a/3", "").sym("a/4", "x").hard("a/5", "a/1").file("a/.wh.6", "").end());
    out.result.as_ref().unwrap();
    for name in ["a", "a/sub", "many", "many/0", "many/299"] {
        assert_eq!(fs::metadata(out.path(name)).unwrap().mtime(), 1_000_000, "{name}");
    }
}

#[test]
fn links_lead_no_deeper_than_names() {
    let path = vec!["d"; 300].join("/");
    let blob = Tar::default()
        .pax(&[("path", path.as_bytes())])
        .dir("d")
        .pax(&[("linkpath", path.as_bytes())])
        .sym("l", "d")
        .pax(&[("path", format!("l/{path}").as_bytes())])
        .dir("d")
        .end();
    assert!(matches!(run(&blob).result, Err(UnpackError::Refused { why: "a path that is too deep", .. })));
}

#[test]
fn times_that_a_disk_cannot_keep_are_recorded_as_they_became() {
    let mtime: &[(&str, &[u8])] = &[("mtime", b"99999999999999.5")];
    // `run` compares the record with the disk.
    let out =
        run(&Tar::default().pax(mtime).file("f", "").pax(mtime).dir("d/").pax(mtime).sym("l", "f").end());
    out.result.as_ref().unwrap();
}

#[test]
fn little_does_not_become_too_much() {
    let zeros = {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(&vec![0; 8 << 20]).unwrap();
        out.finish().unwrap()
    };
    let mut whole = Vec::new();
    let bomb = zeros.repeat(200);
    let error = std::io::copy(&mut decoder(&bomb[..]).unwrap(), &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("500 times"), "{error}");
    decoder(&zeros[..]).unwrap().read_to_end(&mut whole).unwrap();
    assert_eq!(whole.len(), 8 << 20);
    for (magic, name) in [(&b"\xfd7zXZ\0......"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
        assert!(decoder(magic).err().unwrap().to_string().contains(name));
    }
}
