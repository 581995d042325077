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
fn archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
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

struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Images {
        let store = Store::open(&self.directory.path().join("db")).unwrap();
        Images::open(ImagesConfig { root: self.directory.path().join("images"), certs_d: Vec::new() }, store)
            .unwrap()
    }

    fn file(&self, bytes: &[u8]) -> std::fs::File {
        let path = self.directory.path().join("archive");
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        std::fs::File::open(path).unwrap()
    }

    fn layers(&self) -> usize {
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
