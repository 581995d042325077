//! Indexes, manifests, configs and archives that are not what they say.

use serde_json::{Value, json};

use super::case::{CONFIG, Documents, Layer, MANIFEST, digest, path};
use super::tarball::{Tar, entry};

pub(super) const NAME: &str = "berth.test/documents:1";

/// An archive that is refused with these words.
pub(super) struct Refused {
    pub(super) what: &'static str,
    pub(super) archive: Vec<u8>,
    pub(super) words: Vec<String>,
}

fn refused(what: &'static str, archive: Vec<u8>, words: &[&str]) -> Refused {
    Refused { what, archive, words: words.iter().map(|word| (*word).to_owned()).collect() }
}

fn layer(content: &str) -> Layer {
    Layer::plain(Tar::new().file("f", content).end())
}

fn honest() -> Documents {
    Documents::new(&[layer("one"), layer("two")])
}

/// An honest image, changed.
fn changed(what: &'static str, change: impl FnOnce(&mut Documents), words: &[&str]) -> Refused {
    let mut documents = honest();
    change(&mut documents);
    refused(what, documents.archive(NAME), words)
}

fn pointing(digest: &str) -> Value {
    json!({ "schemaVersion": 2, "manifests": [{ "mediaType": MANIFEST, "digest": digest, "size": 500 }] })
}

/// `depth` indexes, one in the other, around `inner`.
fn nested(documents: &mut Documents, depth: usize, inner: &str) {
    let mut below = inner.to_owned();
    for _ in 0..depth {
        let index = pointing(&below).to_string().into_bytes();
        below = digest(&index);
        documents.blobs.push((below.clone(), index));
    }
    documents.index = pointing(&below);
}

pub(super) fn cases() -> Vec<Refused> {
    let mut cases = indexes();
    cases.extend(manifests());
    cases.extend(configs());
    cases.extend(archives());
    cases
}

fn indexes() -> Vec<Refused> {
    let own = digest(b"whatever");
    let itself = pointing(&own).to_string().into_bytes();
    let entries = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|n| json!({ "mediaType": MANIFEST, "digest": digest(&n.to_le_bytes()), "size": 5 }))
            .collect()
    };
    vec![
        changed(
            "an index that names itself",
            |d| {
                d.blobs.push((own.clone(), itself));
                d.index = pointing(&own);
            },
            &[&own, "came as"],
        ),
        changed(
            "indexes in indexes in indexes",
            |d| {
                let (_, manifest) = d.written();
                let inner = digest(&manifest);
                nested(d, 40, &inner);
            },
            &["nested deeper than"],
        ),
        changed(
            "an index of thirty thousand images",
            |d| d.index = json!({ "schemaVersion": 2, "manifests": entries(30_000) }),
            &["more than 1000 images"],
        ),
        changed(
            "an index larger than any",
            |d| d.index = json!({ "schemaVersion": 2, "x": "x".repeat(9 << 20), "manifests": [] }),
            &["index.json is larger than"],
        ),
        changed("an index of lists in lists", |d| d.index = json!("replaced"), &["index.json"]),
        changed(
            "an index of nothing",
            |d| d.index = json!({ "schemaVersion": 2, "manifests": [] }),
            &["no image"],
        ),
        changed(
            "CVE-2024-3727: a digest that is a path",
            |d| d.index = pointing("sha256:../../../../../../etc/passwd"),
            &["index.json"],
        ),
        changed("a digest that is too short", |d| d.index = pointing("sha256:abcd"), &["index.json"]),
        changed(
            "a digest of no algorithm",
            |d| d.index = pointing(&format!("md5:{}", "0".repeat(64))),
            &["index.json"],
        ),
        changed(
            "a digest in capitals",
            |d| d.index = pointing(&format!("sha256:{}", "A".repeat(64))),
            &["index.json"],
        ),
        changed("a manifest that is not there", |d| d.index = pointing(&own), &[&path(&own), "is missing"]),
        changed(
            "CVE-2014-9358: a name that is a path",
            |d| {
                let (_, manifest) = d.written();
                d.index = json!({ "schemaVersion": 2, "manifests": [{ "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
                "annotations": { "io.containerd.image.name": "../../../../etc/berth:1" } }] });
            },
            &["../../../../etc/berth:1"],
        ),
    ]
}

fn manifests() -> Vec<Refused> {
    let many = |count: usize| -> Vec<Value> {
        (0..count).map(|_| json!({ "mediaType": "x", "digest": digest(b""), "size": 1 })).collect()
    };
    let replaced = |bytes: &'static [u8]| {
        move |d: &mut Documents| {
            d.blobs.push((digest(bytes), bytes.to_vec()));
            d.index = pointing(&digest(bytes));
        }
    };
    vec![
        changed(
            "a manifest of ten thousand layers",
            |d| d.manifest["layers"] = json!(many(10_000)),
            &["more than 500 layers"],
        ),
        changed("a manifest that is a list", replaced(b"[]"), &["manifest sha256:"]),
        changed("a manifest that is no JSON", replaced(b"\0\0\0"), &["manifest sha256:"]),
        changed(
            "a manifest without layers",
            |d| d.manifest["layers"] = Value::Null,
            &["neither config and layers"],
        ),
        changed(
            "CVE-2021-41190: a manifest that is an index, too",
            |d| {
                d.manifest["manifests"] =
                    json!([{ "mediaType": MANIFEST, "digest": digest(b"x"), "size": 1 }])
            },
            &["it is an index and a manifest at once"],
        ),
        changed(
            "CVE-2021-41190: an index by its type, a manifest by its fields",
            |d| d.manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json"),
            &["its mediaType says"],
        ),
        changed(
            "a layer from another host",
            |d| d.manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/x"]),
            &["foreign"],
        ),
        changed("a layer that is not there", |d| drop(d.blobs.remove(0)), &["is missing"]),
        changed("a layer that is another", |d| d.blobs[0].1 = b"another".to_vec(), &["sha256:"]),
        changed(
            "a config that is not there",
            |d| d.manifest["config"] = json!({ "mediaType": CONFIG, "digest": digest(b"no"), "size": 2 }),
            &["is missing"],
        ),
        changed(
            "CVE-2024-3727: a layer's digest that is a path",
            |d| d.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"),
            &["manifest sha256:"],
        ),
        changed(
            "a config's digest that is empty",
            |d| d.manifest["config"] = json!({ "mediaType": CONFIG, "digest": "", "size": 2 }),
            &["manifest sha256:"],
        ),
    ]
}

fn configs() -> Vec<Refused> {
    let ids = |d: &Documents| d.config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    vec![
        changed(
            "layers out of order",
            |d| {
                let mut swapped = ids(d);
                swapped.reverse();
                d.config["rootfs"]["diff_ids"] = json!(swapped);
            },
            &["unpacks to", "but the image's config says"],
        ),
        changed(
            "a diff id too few",
            |d| {
                let few = ids(d)[..1].to_vec();
                d.config["rootfs"]["diff_ids"] = json!(few);
            },
            &["disagree about the number of layers"],
        ),
        changed(
            "a diff id too many",
            |d| {
                let more = [ids(d), ids(d)].concat();
                d.config["rootfs"]["diff_ids"] = json!(more);
            },
            &["disagree about the number of layers"],
        ),
        changed(
            "a hundred thousand diff ids",
            |d| {
                let more = vec![ids(d)[0].clone(); 100_000];
                d.config["rootfs"]["diff_ids"] = json!(more);
            },
            &["disagree about the number of layers"],
        ),
        changed(
            "a diff id of something else",
            |d| d.config["rootfs"]["diff_ids"][1] = json!(digest(b"else")),
            &["unpacks to"],
        ),
        changed(
            "CVE-2024-3727: a diff id that is a path",
            |d| d.config["rootfs"]["diff_ids"][0] = json!("sha256:../../../../../../../etc"),
            &["rootfs.diff_ids"],
        ),
        changed("a config without layers", |d| d.config["rootfs"] = Value::Null, &["the image's config"]),
        changed("a config that is a word", |d| d.config = json!("config"), &["the image's config"]),
        changed(
            "a config of lists in lists in lists",
            |d| {
                let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)).into_bytes();
                d.manifest["config"] =
                    json!({ "mediaType": CONFIG, "digest": digest(&deep), "size": deep.len() });
                d.blobs.push((digest(&deep), deep));
            },
            &["the image's config"],
        ),
        changed(
            "CVE-2023-25153: a config larger than any",
            |d| d.config["x"] = json!("x".repeat(9 << 20)),
            &["is larger than"],
        ),
        changed(
            "a config with a list for its user",
            |d| d.config["config"] = json!({ "User": ["root"] }),
            &["the image's config"],
        ),
    ]
}

fn archives() -> Vec<Refused> {
    let saved = |manifest: Value, more: &dyn Fn(Tar) -> Tar| {
        more(Tar::new().file("manifest.json", manifest.to_string())).end()
    };
    let config = honest().config.to_string();
    let tar = Tar::new().file("f", "one").end();
    let one = |config: &str, tags: &[&str], layers: &[&str]| json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]);
    let with_config = |tar: Tar| tar.file("config.json", &config);
    let index = pointing(&digest(b"x")).to_string();
    let long = "n".repeat(900_000);
    let names = (0..150)
        .fold(Tar::new(), |tar, n| tar.long(b'L', format!("{n}{long}")).file("f", ""))
        .file("index.json", &index);
    vec![
        refused(
            "docker save: a config that is a path",
            saved(one("../../../../etc/passwd", &[], &[]), &with_config),
            &["../../../../etc/passwd is missing"],
        ),
        refused(
            "docker save: a layer that is a path",
            saved(one("config.json", &[], &["/etc/passwd", "/etc/group"]), &with_config),
            &["/etc/passwd is missing"],
        ),
        refused(
            "docker save: a layer that is a link out",
            saved(one("config.json", &[], &["l", "l"]), &|tar| with_config(tar).sym("l", "/etc/passwd")),
            &["l is missing"],
        ),
        refused(
            "docker save: a layer that is a hard link out",
            saved(one("config.json", &[], &["l", "l"]), &|tar| {
                with_config(tar).hard("l", "../../../etc/passwd")
            }),
            &["l is missing"],
        ),
        refused(
            "docker save: a layer that is a link in a circle",
            saved(one("config.json", &[], &["a", "b"]), &|tar| with_config(tar).sym("a", "b").sym("b", "a")),
            &["a is missing"],
        ),
        refused(
            "CVE-2014-9358: docker save: a tag that is a path",
            saved(one("config.json", &["../../x:1"], &["l", "l"]), &|t| with_config(t).file("l", &tar)),
            &["../../x:1"],
        ),
        refused(
            "docker save: layers fewer than the config's",
            saved(one("config.json", &[], &["l"]), &|t| with_config(t).file("l", &tar)),
            &["disagree about the number of layers"],
        ),
        refused(
            "docker save: what is no list",
            saved(json!({ "Config": "x" }), &|tar| tar),
            &["manifest.json"],
        ),
        refused(
            "neither index.json nor manifest.json",
            Tar::new().file("x", "y").end(),
            &["neither index.json"],
        ),
        refused("no tar file", b"image".repeat(300), &["it is no tar file"]),
        refused(
            "an archive that is cut",
            {
                let mut whole = honest().archive(NAME);
                whole.truncate(1300);
                whole
            },
            &["the archive"],
        ),
        refused("index.json as a directory", Tar::new().dir("index.json").end(), &["neither index.json"]),
        refused(
            "index.json as a link to the machine's",
            Tar::new().sym("index.json", "/etc/passwd").end(),
            &["neither index.json"],
        ),
        refused(
            "index.json as a fifo",
            Tar::new().entry(entry(b'6', "index.json")).end(),
            &["neither index.json"],
        ),
        refused("CVE-2023-25153: a hundred names of a megabyte", names.end(), &["the archive"]),
    ]
}
