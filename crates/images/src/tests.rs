use super::*;
use sha2::{Digest as _, Sha256};
use std::io::Write as _;

fn hash(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// A tar of one file; headers as POSIX has them.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An OCI archive with one image of these layers.
pub(crate) fn archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| hash(layer)).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"User": "web:1"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": []})
    .to_string();
    let descriptors: Vec<_> =
        layers.iter().map(|layer| serde_json::json!({"digest": hash(layer), "size": layer.len()})).collect();
    let manifest =
        serde_json::json!({"config": {"digest": hash(config.as_bytes())}, "layers": descriptors}).to_string();
    let index = serde_json::json!({"manifests": [{"digest": hash(manifest.as_bytes()),
        "annotations": {"io.containerd.image.name": name}}]})
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hash(bytes).hex());
    let (config_name, manifest_name) = (blob(config.as_bytes()), blob(manifest.as_bytes()));
    let names: Vec<_> = layers.iter().map(|layer| blob(layer)).collect();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("index.json", index.as_bytes()),
        (&config_name, config.as_bytes()),
        (&manifest_name, manifest.as_bytes()),
    ];
    files.extend(names.iter().zip(layers).map(|(name, layer)| (name.as_str(), layer.as_slice())));
    tar(&files)
}

fn registry() -> ClientConfig {
    let stall = std::time::Duration::from_secs(5);
    ClientConfig { certs_d: Vec::new(), auth_files: Vec::new(), stall }
}

pub(crate) struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn open(&self) -> Images {
        let store = Store::open(&self.directory.path().join("db")).unwrap();
        let root = self.directory.path().join("images");
        let pinned = vec![Pin::parse("*/pinned:*").unwrap()];
        Images::open(ImagesConfig { root, registry: registry(), pinned }, store).unwrap()
    }

    pub(crate) fn file(&self, bytes: &[u8]) -> std::fs::File {
        let path = self.directory.path().join("archive");
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        std::fs::File::open(path).unwrap()
    }

    pub(crate) fn layers(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("images/layers")).unwrap().count()
    }
}

#[test]
fn an_archive_becomes_an_image_that_survives() {
    let rig = Rig::new();
    let images = rig.open();
    let layers = [tar(&[("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")]), tar(&[("b", b"2")])];
    let imported = images.import(rig.file(&archive("r.io/app:1", &layers))).unwrap();
    assert_eq!(imported[0].repo_tags, ["r.io/app:1"]);
    assert_eq!(imported[0].user(), (None, "web".to_owned()));
    assert!(imported[0].size > 0);
    drop(images);
    let images = rig.open();
    let id = imported[0].id.to_string();
    for name in ["r.io/app:1", id.as_str(), &id[7..], &id[7..19], &imported[0].repo_digests[0]] {
        assert_eq!(images.resolve(name).unwrap().id, imported[0].id, "{name}");
    }
    for name in ["r.io/app:2", "app", "0", ""] {
        assert!(images.resolve(name).is_none(), "{name}");
    }
    let image = images.resolve("r.io/app:1").unwrap();
    let passwd = images.read_file(&image, "etc/passwd", 1 << 20).unwrap();
    assert!(passwd.unwrap().starts_with(b"root"));
    assert_eq!(images.read_file(&image, "etc/none", 10).unwrap(), None);
}

#[test]
fn shared_layers_are_unpacked_once_and_go_with_the_last_user() {
    let rig = Rig::new();
    let images = rig.open();
    let base = tar(&[("base", b"x")]);
    images.import(rig.file(&archive("r.io/a:1", &[base.clone(), tar(&[("a", b"1")])]))).unwrap();
    images.import(rig.file(&archive("r.io/b:1", &[base, tar(&[("b", b"1")])]))).unwrap();
    assert_eq!(rig.layers(), 3);
    let image = images.resolve("r.io/a:1").unwrap();
    images.acquire(&image.id, "c").unwrap();
    images.remove("r.io/a:1").unwrap();
    assert!(images.resolve("r.io/a:1").is_none());
    assert_eq!(rig.layers(), 3, "a leased layer is gone");
    assert_eq!(images.image(&image.id).unwrap().id, image.id);
    images.release("c").unwrap();
    assert_eq!(rig.layers(), 2);
    images.remove("r.io/b:1").unwrap();
    images.remove("r.io/b:1").unwrap();
    assert_eq!((rig.layers(), images.fs_usage().used_bytes), (0, 0));
}

#[test]
fn a_broken_archive_leaves_nothing() {
    let rig = Rig::new();
    let images = rig.open();
    let mut bytes = archive("r.io/a:1", &[tar(&[("a", &[7; 5000])])]);
    // A byte inside the layer's content: its digest no longer fits.
    let at = bytes.windows(8).rposition(|w| w == [7; 8]).unwrap();
    bytes[at] = 8;
    let error = images.import(rig.file(&bytes)).unwrap_err();
    assert!(matches!(error, ImageError::Blob { .. }), "{error}");
    assert_eq!((rig.layers(), images.list().len()), (0, 0));
    assert!(images.import(rig.file(b"no tar")).is_err());
    assert!(images.import(rig.file(&tar(&[("x", b"")]))).is_err());
}

#[test]
fn a_start_clears_what_has_no_record() {
    let rig = Rig::new();
    drop(rig.open());
    let layers = rig.directory.path().join("images/layers");
    std::fs::create_dir_all(layers.join(".tmp-1-1/fs")).unwrap();
    std::fs::create_dir_all(layers.join("a".repeat(64))).unwrap();
    rig.open();
    assert_eq!(rig.layers(), 0);
}

#[test]
fn a_tag_moves_to_the_newer_image() {
    let rig = Rig::new();
    let images = rig.open();
    images.import(rig.file(&archive("r.io/a:1", &[tar(&[("a", b"1")])]))).unwrap();
    let second = images.import(rig.file(&archive("r.io/a:1", &[tar(&[("a", b"2")])]))).unwrap();
    assert_eq!(images.resolve("r.io/a:1").unwrap().id, second[0].id);
    assert_eq!(images.list().len(), 2);
}

#[test]
fn rootfs_is_an_overlay_of_its_own() {
    let rig = Rig::new();
    let images = rig.open();
    let imported =
        images.import(rig.file(&archive("r.io/a:1", &[tar(&[("a", b"1"), ("v/x", b"2")])]))).unwrap();
    let container = ContainerId::from_bytes([1; 32]);
    let root = images.prepare_rootfs(&imported[0], &container, None).unwrap();
    let flags = nix::fcntl::OFlag::O_RDONLY;
    berth_sys::path::open_in_root(&root, "a", flags, nix::sys::stat::Mode::empty()).unwrap();
    let volumes = images.prepare_volumes(&imported[0], &container, &["/v".into(), "/none".into()]).unwrap();
    assert_eq!(std::fs::read(volumes[0].join("x")).unwrap(), b"2");
    assert_eq!(std::fs::read_dir(&volumes[1]).unwrap().count(), 0);
    assert_eq!(images.rootfs_ids().unwrap(), vec![container.clone()]);
    drop(root);
    images.remove_rootfs(&container).unwrap();
    images.remove_rootfs(&container).unwrap();
    assert!(images.rootfs_ids().unwrap().is_empty());
}

#[test]
fn an_export_is_read_back_as_the_same_image() {
    let rig = Rig::new();
    let images = rig.open();
    let shared = tar(&[("base", &[3; 4000])]);
    let both = [archive("r.io/a:1", &[shared.clone(), tar(&[("a", b"1")])]), archive("r.io/b:2", &[shared])];
    let ids = both.map(|bytes| images.import(rig.file(&bytes)).unwrap()[0].id.clone());
    let path = rig.directory.path().join("export.tar");
    let names = ["r.io/a:1".to_owned(), "r.io/b:2".to_owned()];
    images.export(&names, std::fs::File::create(&path).unwrap()).unwrap();
    assert!(images.export(&["r.io/none:1".to_owned()], std::fs::File::create(&path).unwrap()).is_err());
    images.export(&names, std::fs::File::create(&path).unwrap()).unwrap();
    for name in &names {
        images.remove(name).unwrap();
    }
    assert_eq!(rig.layers(), 0);
    let again = images.import(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(again.iter().map(|image| image.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(again.iter().flat_map(|image| image.repo_tags.clone()).collect::<Vec<_>>(), names);
    assert_eq!(rig.layers(), 2, "the common layer is one");
}

#[test]
fn archives_may_be_compressed_or_directories() {
    let rig = Rig::new();
    let images = rig.open();
    let plain = archive("r.io/a:1", &[tar(&[("a", b"1")])]);
    let run = |program: &str| {
        let path = rig.directory.path().join("plain.tar");
        std::fs::write(&path, &plain).unwrap();
        std::process::Command::new(program).arg("-c").arg(&path).output().unwrap().stdout
    };
    let directory = rig.directory.path().join("layout");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(rig.directory.path().join("plain.tar"), &plain).unwrap();
    let unpacked = std::process::Command::new("tar")
        .arg("-xf")
        .arg(rig.directory.path().join("plain.tar"))
        .arg("-C")
        .arg(&directory)
        .status();
    assert!(unpacked.unwrap().success());
    let open = |bytes: &[u8]| rig.file(bytes);
    for (what, file) in [
        ("plain", open(&plain)),
        ("gzip", open(&run("gzip"))),
        ("a directory", std::fs::File::open(&directory).unwrap()),
    ] {
        let imported = images.import(file).unwrap();
        assert_eq!(imported[0].repo_tags, ["r.io/a:1"], "{what}");
        images.remove("r.io/a:1").unwrap();
    }
    let (read, write) = std::io::pipe().unwrap();
    let squeezed = run("gzip");
    let writer = std::thread::spawn(move || {
        let mut write = write;
        write.write_all(&squeezed).unwrap();
    });
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(read));
    assert_eq!(images.import(file).unwrap()[0].repo_tags, ["r.io/a:1"], "gzip by a pipe");
    writer.join().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.join("evil")).unwrap();
    std::fs::rename(directory.join("evil"), directory.join("index.json")).unwrap();
    assert!(images.import(std::fs::File::open(&directory).unwrap()).is_err(), "a link out of the directory");
    let error = images.import(rig.file(b"\xfd7zXZ\0rest")).unwrap_err();
    assert!(error.to_string().contains("xz"), "{error}");
}

fn verify(images: &Images, reference: Option<&str>, repair: bool) -> Vec<LayerReport> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let done = match repair {
        true => runtime.block_on(images.repair(reference, None)),
        false => runtime.block_on(images.verify(reference)),
    };
    done.unwrap()
}

#[test]
fn a_damaged_layer_is_found_and_comes_back_with_the_next_import() {
    let rig = Rig::new();
    let images = rig.open();
    let bytes = archive("127.0.0.1:1/a:1", &[tar(&[("a", b"1")]), tar(&[("b", b"2")])]);
    let image = images.import(rig.file(&bytes)).unwrap().remove(0);
    let whole = verify(&images, None, false);
    assert!(whole.len() == 2 && whole.iter().all(|layer| layer.state == LayerState::Whole), "{whole:?}");
    let path = rig.directory.path().join("images/layers").join(image.layers[1].hex());
    std::fs::write(path.join("fs/b"), b"3").unwrap();
    let found = verify(&images, Some("127.0.0.1:1/a:1"), false);
    let state = |id: &Digest, reports: &[LayerReport]| {
        reports.iter().find(|report| report.layer == *id).unwrap().state.clone()
    };
    assert_eq!(state(&image.layers[0], &found), LayerState::Whole);
    assert!(
        matches!(state(&image.layers[1], &found), LayerState::Damaged(what) if what[0].starts_with("b has"))
    );
    // It came from an archive, and where its name points nobody answers.
    let found = verify(&images, None, true);
    assert!(matches!(state(&image.layers[1], &found), LayerState::Unrepaired(..)), "{found:?}");
    let mut export = tempfile::tempfile().unwrap();
    let refused = images.export(&["127.0.0.1:1/a:1".into()], export.try_clone().unwrap()).unwrap_err();
    assert!(matches!(refused, ImageError::Damaged { .. }), "{refused}");
    export.flush().unwrap();
    // A container holds the damaged one.
    images.acquire(&image.id, "c").unwrap();
    let held = std::fs::File::open(path.join("fs")).unwrap();
    images.import(rig.file(&bytes)).unwrap();
    assert_eq!(std::fs::read(path.join("fs/b")).unwrap(), b"2");
    assert_eq!(rig.layers(), 3, "the damaged one stays for the container");
    berth_sys::path::open_in_root(&held, "b", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())
        .unwrap();
    drop(images);
    let images = rig.open();
    assert_eq!(rig.layers(), 3, "a start does not know yet who lives");
    images.acquire(&image.id, "c").unwrap();
    images.settle().unwrap();
    assert_eq!(rig.layers(), 3);
    images.release("c").unwrap();
    assert_eq!(rig.layers(), 2);
    let whole = verify(&images, None, false);
    assert!(whole.iter().all(|layer| layer.state == LayerState::Whole), "{whole:?}");
    // A layer that is gone altogether.
    std::fs::remove_dir_all(path).unwrap();
    let found = verify(&images, None, false);
    assert!(matches!(state(&image.layers[1], &found), LayerState::Damaged(..)), "{found:?}");
    images.import(rig.file(&bytes)).unwrap();
    assert!(verify(&images, None, false).iter().all(|layer| layer.state == LayerState::Whole));
}

#[test]
fn preloaded_archives_are_taken_in_when_they_are_new_or_missing() {
    let rig = Rig::new();
    let images = rig.open();
    let directory = rig.directory.path().join("preload");
    assert!(images.preload(&directory).unwrap().is_empty(), "no directory");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.tar"), archive("r.io/a:1", &[tar(&[("a", b"1")])])).unwrap();
    std::fs::write(directory.join("b.tar.gz"), "no archive").unwrap();
    std::fs::write(directory.join("readme"), "x").unwrap();
    let first = images.preload(&directory).unwrap();
    assert_eq!(first.len(), 2, "{first:?}");
    assert_eq!(first[0].images.as_ref().unwrap(), &["r.io/a:1"]);
    assert!(first[1].images.is_err());
    // What failed is tried again, what was taken in is not.
    let second = images.preload(&directory).unwrap();
    assert!(second.len() == 1 && second[0].images.is_err(), "{second:?}");
    images.remove("r.io/a:1").unwrap();
    let third = images.preload(&directory).unwrap();
    assert_eq!(third[0].images.as_ref().unwrap(), &["r.io/a:1"], "removed: {third:?}");
    // A name that has moved on stays where it is, also when another of the archive comes back.
    images.import(rig.file(&archive("r.io/a:1", &[tar(&[("a", b"newer")])]))).unwrap();
    let newer = images.resolve("r.io/a:1").unwrap();
    assert_eq!(images.preload(&directory).unwrap().len(), 1);
    assert_eq!(images.resolve("r.io/a:1").unwrap().id, newer.id);
    std::fs::write(directory.join("a.tar"), archive("r.io/a:2", &[tar(&[("a", b"2")])])).unwrap();
    let changed = images.preload(&directory).unwrap();
    assert_eq!(changed[0].images.as_ref().unwrap(), &["r.io/a:2"]);
}

#[test]
fn a_layer_that_is_gone_takes_its_image_off_the_list() {
    let rig = Rig::new();
    let bytes = archive("r.io/a:1", &[tar(&[("a", b"1")])]);
    let layer = rig.open().import(rig.file(&bytes)).unwrap()[0].layers[0].clone();
    std::fs::remove_dir_all(rig.directory.path().join("images/layers").join(layer.hex())).unwrap();
    let images = rig.open();
    assert!(images.resolve("r.io/a:1").is_none());
    images.import(rig.file(&bytes)).unwrap();
    assert_eq!(rig.layers(), 1);
}

#[test]
fn a_removed_image_stays_for_its_containers_over_a_restart() {
    let rig = Rig::new();
    let bytes = archive("r.io/a:1", &[tar(&[("a", b"1")])]);
    let images = rig.open();
    let image = images.import(rig.file(&bytes)).unwrap().remove(0);
    images.acquire(&image.id, "c").unwrap();
    images.remove("r.io/a:1").unwrap();
    drop(images);
    let images = rig.open();
    assert!(images.list().is_empty() && images.resolve(&image.id.to_string()).is_none());
    images.acquire(&image.id, "c").unwrap();
    images.settle().unwrap();
    assert_eq!(rig.layers(), 1);
    assert_eq!(images.image(&image.id).unwrap().id, image.id);
    // Pulled again meanwhile: it stays when the container goes.
    images.import(rig.file(&bytes)).unwrap();
    images.release("c").unwrap();
    assert_eq!((rig.layers(), images.list().len()), (1, 1));
    images.acquire(&image.id, "c").unwrap();
    images.remove("r.io/a:1").unwrap();
    images.release("c").unwrap();
    assert_eq!(rig.layers(), 0);
    drop(images);
    let images = rig.open();
    assert!(images.image(&image.id).is_err() && images.list().is_empty());
}

#[test]
fn what_nobody_holds_is_pruned_and_what_it_frees_is_told_before() {
    let rig = Rig::new();
    let images = rig.open();
    let base = tar(&[("base", &[7; 50_000])]);
    let mut ids = Vec::new();
    for name in ["held", "pinned", "spare", "other"] {
        let layers = [base.clone(), tar(&[(name, name.as_bytes())])];
        ids.push(
            images.import(rig.file(&archive(&format!("r.io/{name}:1"), &layers))).unwrap()[0].id.clone(),
        );
    }
    images.acquire(&ids[0], "container").unwrap();
    let inspected = images.inspect("r.io/held:1").unwrap();
    assert_eq!(inspected.holders, ["container"]);
    assert_eq!(inspected.layers[0].shared_by.len(), 3);
    assert!(inspected.layers[1].shared_by.is_empty() && inspected.layers[0].size >= 50_000);
    let named = |pruned: &Pruned| {
        let mut names: Vec<_> = pruned.images.iter().map(|image| image.called()).collect();
        names.sort();
        names
    };
    let before = images.fs_usage().used_bytes;
    let would = images.prune(false).unwrap();
    assert_eq!((named(&would), would.layers), (vec!["r.io/other:1".into(), "r.io/spare:1".into()], 2));
    assert_eq!((images.fs_usage().used_bytes, rig.layers()), (before, 5));
    let did = images.prune(true).unwrap();
    assert_eq!((named(&did), did.bytes), (named(&would), would.bytes));
    assert_eq!((before - images.fs_usage().used_bytes, rig.layers()), (did.bytes, 3));
    assert!(images.resolve("r.io/held:1").is_some() && images.resolve("r.io/pinned:1").is_some());
    assert!(images.prune(true).unwrap().images.is_empty());
}

/// A lost record or directory below a container: its other layers stay, and one pull or import mends it.
#[test]
fn what_containers_stand_on_stays_when_records_are_lost() {
    let first = tar(&[("a", b"1")]);
    let layers = [first.clone(), tar(&[("b", b"2")])];
    let bytes = archive("r.io/a:1", &layers);
    let lost: [(&str, &[Table], bool); 5] = [
        ("a layer's record", &[Table::Layers], false),
        ("the image's record", &[Table::Images], false),
        ("both", &[Table::Layers, Table::Images], false),
        ("a layer's directory", &[], true),
        ("that and the image's record", &[Table::Images], true),
    ];
    for (what, tables, directory) in lost {
        let rig = Rig::new();
        let images = rig.open();
        let image = images.import(rig.file(&bytes)).unwrap().remove(0);
        images.acquire(&image.id, "c").unwrap();
        drop(images);
        let path = |n: usize| rig.directory.path().join("images/layers").join(image.layers[n].hex());
        let store = Store::open(&rig.directory.path().join("db")).unwrap();
        for table in tables {
            let id = if *table == Table::Layers { image.layers[0].to_string() } else { image.id.to_string() };
            store.put(*table, &id, &"damaged", Durability::Ordinary).unwrap();
        }
        drop(store);
        if directory {
            std::fs::remove_dir_all(path(0)).unwrap();
        }
        for _start in 0..2 {
            let images = rig.open();
            let _ = images.acquire(&image.id, "c");
            assert_eq!(images.holders(), ["c"], "{what}");
            images.settle().unwrap();
            assert_eq!(path(0).exists(), !directory, "{what}");
            assert!(path(1).join("fs/b").exists(), "{what}");
            let seen = !directory && !tables.contains(&Table::Images);
            assert_eq!(images.resolve("r.io/a:1").is_some(), seen, "{what}");
            assert_eq!(images.list().len(), usize::from(seen), "{what}");
        }
        let images = rig.open();
        let _ = images.acquire(&image.id, "c");
        images.settle().unwrap();
        let marker = path(1).join("tree.zst").metadata().unwrap().modified().unwrap();
        images.import(rig.file(&bytes)).unwrap();
        assert_eq!(images.resolve("r.io/a:1").unwrap().id, image.id, "{what}");
        assert!(verify(&images, None, false).iter().all(|layer| layer.state == LayerState::Whole), "{what}");
        assert_eq!(path(1).join("tree.zst").metadata().unwrap().modified().unwrap(), marker, "{what}");
        images.remove("r.io/a:1").unwrap();
        assert!(path(1).exists(), "{what}: removed below a container");
        images.release("c").unwrap();
        assert_eq!((rig.layers(), images.fs_usage().used_bytes), (0, 0), "{what}");
    }
}

#[test]
fn a_layer_is_said_to_be_there_before_it_is_recorded_and_never_when_it_is_another() {
    let rig = Rig::new();
    let images = rig.open();
    let shared = &images.shared;
    let (layer, said) = (tar(&[("f", b"one")]), std::cell::Cell::new(0));
    let (id, there) = (hash(&layer), || said.set(said.get() + 1));
    for (id, blob) in [(&hash(b"another"), &id), (&id, &hash(b"another"))] {
        shared.add_layer(id, Some(blob), &layer[..], there).unwrap_err();
    }
    shared.add_layer(&id, Some(&id), &layer[..600], there).unwrap_err();
    assert_eq!((said.get(), rig.layers()), (0, 0));
    let there = || {
        there();
        assert!(!shared.has_layer(&id));
    };
    shared.add_layer(&id, Some(&id), &layer[..], there).unwrap();
    assert!((said.get(), shared.has_layer(&id)) == (1, true));
}
