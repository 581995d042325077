use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::*;
use crate::tests::{Rig, archive};

/// Mode, owner and time of a directory; `None`: an empty file.
type Kind = Option<(u32, u32, u64)>;

/// A tar; headers as POSIX has them.
fn tar(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, directory) in entries {
        let (mode, owner, time) = directory.unwrap_or((0o644, 0, 1));
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[108..115].copy_from_slice(format!("{owner:07o}").as_bytes());
        header[116..123].copy_from_slice(format!("{owner:07o}").as_bytes());
        header[124..135].copy_from_slice(b"00000000000");
        header[136..147].copy_from_slice(format!("{time:011o}").as_bytes());
        header[156] = if directory.is_some() { b'5' } else { b'0' };
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// `mode owner time` of each of these paths of an image's tree.
fn shown(rig: &Rig, layers: &[Vec<u8>], paths: &[&str]) -> Vec<String> {
    let images = rig.open();
    let image = images.import(rig.file(&archive("r.io/app:1", layers))).unwrap().remove(0);
    let shown = [(); 2].map(|()| {
        let view = images.image_volume(&image, "", None).unwrap();
        let look = |path: &&str| {
            let open = open_without_links(&view, *path, DIRECTORY, Mode::empty()).unwrap();
            let found = File::from(open).metadata().unwrap();
            format!("{:o} {} {}", found.mode() & 0o7777, found.uid(), found.mtime())
        };
        paths.iter().map(look).collect::<Vec<_>>()
    });
    assert_eq!(shown[0], shown[1], "made once, and there the second time");
    images.remove("r.io/app:1").unwrap();
    images.prune(false).unwrap();
    assert_eq!(rig.layers(), 0, "it goes with the layers");
    shown.into_iter().next().unwrap()
}

#[test]
fn a_directory_that_a_layer_does_not_name_is_as_the_layer_below_has_it() {
    let base = tar(&[
        ("tmp/", Some((0o1777, 0, 100))),
        ("home/", Some((0o711, 0, 200))),
        ("home/me/", Some((0o2700, 1000, 300))),
        ("etc/", Some((0o755, 0, 400))),
    ]);
    let middle = tar(&[("home/me/one", None), ("etc/", Some((0o750, 7, 500))), ("new/d/f", None)]);
    let top = tar(&[("tmp/two", None), ("etc/three", None), ("home/me/deep/er/f", None)]);
    let paths = [".", "tmp", "home", "home/me", "home/me/deep", "etc"];
    let found = shown(&Rig::new(), &[base, middle, top], &paths);
    assert!(found[0].starts_with("755 0"), "{found:?}");
    assert_eq!(found[1..4], ["1777 0 100", "711 0 200", "2700 1000 300"]);
    assert!(found[4].starts_with("755 0"), "nobody names it: {found:?}");
    assert_eq!(found[5], "750 7 500", "the topmost that names it counts");
}

#[test]
fn what_was_hidden_in_between_says_nothing() {
    let was = |name| (name, Some((0o700, 5, 100)));
    let base = tar(&[was("a/"), was("b/"), was("c/"), was("d/"), was("d/s/"), was("e/"), was("f/")]);
    let middle = tar(&[
        (".wh.a", None),
        ("b/.wh..wh..opq", None),
        ("b/f", None),
        ("c", None),
        ("d/.wh..wh..opq", None),
        ("d/s/f", None),
        // Hidden and there again in one layer, in both orders.
        (".wh.e", None),
        ("e/f", None),
        ("f/f", None),
        (".wh.f", None),
    ]);
    let again = tar(&[(".wh.c", None)]);
    let top = tar(&[("a/f", None), ("b/g", None), ("c/f", None)]);
    let found = shown(&Rig::new(), &[base, middle, again, top], &["a", "c", "d/s", "e", "f", "b", "d"]);
    for one in &found[..5] {
        assert!(one.starts_with("755 0"), "{found:?}");
    }
    // What is in a directory is hidden, not that itself.
    assert_eq!(found[5..], ["700 5 100", "700 5 100"]);
}

#[test]
fn images_of_the_same_layer_have_what_is_below_it_in_each() {
    let rig = Rig::new();
    let top = tar(&[("d/f", None)]);
    let images = rig.open();
    for (name, mode) in [("r.io/a:1", 0o700), ("r.io/b:1", 0o711)] {
        let base = tar(&[("d/", Some((mode, 9, 100)))]);
        images.import(rig.file(&archive(name, &[base, top.clone()]))).unwrap();
    }
    for (name, mode) in [("r.io/a:1", 0o700), ("r.io/b:1", 0o711), ("r.io/a:1", 0o700)] {
        let image = images.resolve(name).unwrap();
        let view = images.image_volume(&image, "d", None).unwrap();
        assert_eq!(fstat(&view).unwrap().st_mode & 0o7777, mode, "{name}");
    }
}

#[test]
fn one_that_was_cut_off_is_made_again_and_images_without_have_none() {
    let rig = Rig::new();
    let images = rig.open();
    let base = tar(&[("d/", Some((0o700, 9, 100)))]);
    let layers = [base.clone(), tar(&[("d/f", None)])];
    let image = images.import(rig.file(&archive("r.io/a:1", &layers))).unwrap().remove(0);
    let home =
        |image: &Image| images.shared.layer_path(image.layers.last().unwrap()).parent().unwrap().to_owned();
    std::fs::create_dir_all(home(&image).join(NEW).join("left/over")).unwrap();
    let made = images.shared.parents(&image).unwrap().unwrap();
    let names =
        |path: &Path| std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&made), ["d"]);
    assert!(!home(&image).join(NEW).exists());
    // Named by the layer itself; and of one layer alone.
    let named = [base.clone(), tar(&[("d/", Some((0o711, 0, 1))), ("d/f", None)])];
    for layers in [&named[..], &layers[1..]] {
        let image = images.import(rig.file(&archive("r.io/b:1", layers))).unwrap().remove(0);
        assert_eq!(images.shared.parents(&image).unwrap(), None);
        assert!(
            !names(&home(&image)).iter().any(|name| name.as_encoded_bytes().starts_with(b"parents"))
                || layers.len() == 1
        );
    }
}
