//! What a registry may do wrong, and what has to come of it.

use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::image::{INDEX, MANIFEST, NAME, Served};
use super::kinds;
use super::server::{How, Reply, Request};
use crate::image::digest;

/// What a case's pull ends with.
pub(super) enum End {
    /// The message has all of these.
    Refused(&'static [&'static str]),
    /// In spite of it the image comes.
    Comes,
}

/// Changes what a good registry would have answered; the number counts requests for the same path from 1.
type Twist = Arc<dyn Fn(&Request, usize, Reply) -> Reply + Send + Sync>;

pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) served: Served,
    pub(super) twist: Twist,
    pub(super) end: End,
    /// By digest and not by tag.
    pub(super) pinned: bool,
}

pub(super) struct Table(Vec<Case>);

fn is_manifest(request: &Request) -> bool {
    request.path.contains("/manifests/")
}

impl Table {
    pub(super) fn push(
        &mut self,
        what: &'static str,
        end: End,
        make: impl FnOnce(&mut Served),
        twist: Twist,
    ) -> Result<()> {
        let mut served = Served::new(what)?;
        make(&mut served);
        self.0.push(Case { what, served, twist, end, pinned: false });
        Ok(())
    }

    /// The manifest's answer is another.
    fn manifest(
        &mut self,
        what: &'static str,
        end: End,
        twist: impl Fn(usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Result<()> {
        let twist: Twist = Arc::new(move |request, count, good| match is_manifest(request) {
            true => twist(count, good),
            false => good,
        });
        self.push(what, end, |_| {}, twist)
    }

    /// The layer's answer is another.
    fn layer(
        &mut self,
        what: &'static str,
        end: End,
        twist: impl Fn(&Request, usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Result<()> {
        let layer = Served::new(what)?.layer;
        let twist: Twist = Arc::new(move |request, count, good| match request.path.contains(&layer) {
            true => twist(request, count, good),
            false => good,
        });
        self.push(what, end, |_| {}, twist)
    }

    /// The registry is true to the protocol; what it has is wrong.
    pub(super) fn content(
        &mut self,
        what: &'static str,
        parts: &'static [&'static str],
        make: impl FnOnce(&mut Served),
    ) -> Result<()> {
        self.push(what, End::Refused(parts), make, Arc::new(|_, _, good| good))
    }

    fn config(
        &mut self,
        what: &'static str,
        parts: &'static [&'static str],
        twist: impl Fn(Reply) -> Reply + Send + Sync + 'static,
    ) -> Result<()> {
        let config = Served::new(what)?.config_digest();
        let twist: Twist = Arc::new(move |request, _, good| match request.path.contains(&config) {
            true => twist(good),
            false => good,
        });
        self.push(what, End::Refused(parts), |_| {}, twist)
    }
}

fn unavailable(code: u16) -> Reply {
    Reply::new(code, r#"{"errors":[{"code":"UNAVAILABLE","message":"come back\nlater"}]}"#)
}

pub(super) fn all() -> Result<Vec<Case>> {
    let mut table = Table(Vec::new());
    answers(&mut table)?;
    authorization(&mut table)?;
    redirects(&mut table)?;
    documents(&mut table)?;
    manifests(&mut table)?;
    indexes(&mut table)?;
    configs(&mut table)?;
    layers(&mut table)?;
    contents(&mut table)?;
    kinds::add(&mut table)?;
    Ok(table.0)
}

fn answers(table: &mut Table) -> Result<()> {
    use End::{Comes, Refused};
    table.manifest(
        "404 with the specification's error",
        Refused(&["does not exist", "manifest unknown"]),
        |_, _| Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    )?;
    table.manifest("404 with a page for people", Refused(&["does not exist"]), |_, _| {
        Reply::new(404, "<html>".repeat(10_000))
    })?;
    table.manifest(
        "500 for ever",
        Refused(&["RegistryUnavailable: ", "answered 500", "come back later"]),
        |_, _| unavailable(500),
    )?;
    table.manifest("503 twice", Comes, |count, good| if count < 3 { unavailable(503) } else { good })?;
    table.manifest("400", Refused(&["answered 400"]), |_, _| unavailable(400))?;
    table.manifest("429, in a second again", Comes, |count, good| match count {
        1 => unavailable(429).with("Retry-After", "1"),
        _ => good,
    })?;
    table.manifest(
        "429, in an hour again",
        Refused(&["RegistryUnavailable: ", "limits how much", "wait 3600 s"]),
        |_, _| unavailable(429).with("Retry-After", "3600"),
    )?;
    table.manifest(
        "429 with Docker Hub's limits",
        Refused(&["100 pulls in 360 min", "credentials"]),
        |_, _| unavailable(429).with("Retry-After", "21600").with("RateLimit-Limit", "100;w=21600"),
    )?;
    table.manifest("no HTTP at all", Refused(&["RegistryUnavailable: ", "does not answer"]), |_, _| {
        Reply::new(200, "SSH-2.0-OpenSSH_9.2\r\n").how(How::Noise)
    })?;
    table.manifest(
        "a connection that ends at once",
        Refused(&["RegistryUnavailable: ", "does not answer"]),
        |_, good| good.how(How::Nothing),
    )?;
    table.manifest("a header of a megabyte", Refused(&["RegistryUnavailable: "]), |_, good| {
        good.with("X-Long", &"x".repeat(1 << 20))
    })?;
    table.manifest("a status that HTTP does not have", Refused(&["answered 799"]), |_, _| Reply::new(799, ""))
}

fn authorization(table: &mut Table) -> Result<()> {
    use End::Refused;
    let asks = |challenge: &'static str| move |_, _| Reply::new(401, "").with("WWW-Authenticate", challenge);
    table.manifest("403", Refused(&["refuses", "none were given", "denied no"]), |_, _| {
        Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)
    })?;
    table.manifest("401 without a challenge", Refused(&["does not know"]), |_, _| Reply::new(401, ""))?;
    table.manifest("401 that wants Kerberos", Refused(&["does not know"]), asks("Negotiate"))?;
    table.manifest("401 that wants a password", Refused(&["none were given"]), asks("Basic realm=\"x\""))?;
    table.manifest(
        "a token address that is none",
        Refused(&["is no address"]),
        asks("Bearer realm=\"here\""),
    )?;
    table.manifest(
        "a token address without TLS elsewhere",
        Refused(&["without TLS", "not sent"]),
        asks("Bearer realm=\"http://token.invalid/x\""),
    )?;
    table.manifest(
        "a token address with a user in it",
        Refused(&["a user in it"]),
        asks("Bearer realm=\"http://u:p@127.0.0.1:1/x\""),
    )?;
    table.manifest(
        "a token address that is a file",
        Refused(&["scheme \"file\""]),
        asks("Bearer realm=\"file:///etc/passwd\""),
    )?;
    table.manifest(
        "a token service that nobody serves",
        Refused(&["RegistryUnavailable: ", "127.0.0.1:1 "]),
        asks("Bearer realm=\"http://127.0.0.1:1/x\""),
    )
}

fn redirects(table: &mut Table) -> Result<()> {
    use End::Refused;
    let to = |place: &'static str| move |_, _| Reply::new(307, "").with("Location", place);
    table.manifest(
        "a redirect to itself",
        Refused(&["redirects", "more than 5 times"]),
        to("/v2/lane/image/manifests/1"),
    )?;
    table.manifest("a redirect to nowhere", Refused(&["does not say where"]), |_, _| Reply::new(302, ""))?;
    table.manifest(
        "a redirect without TLS elsewhere",
        Refused(&["without TLS"]),
        to("http://other.invalid/x"),
    )?;
    table.manifest("a redirect to a file", Refused(&["scheme \"file\""]), to("file:///etc/passwd"))?;
    table.manifest(
        "a redirect with a user in it",
        Refused(&["a user in it"]),
        to("http://u:p@127.0.0.1:1/x"),
    )?;
    table.manifest("a redirect to no address", Refused(&["no address"]), to("http://[/"))
}

fn documents(table: &mut Table) -> Result<()> {
    use End::{Comes, Refused};
    table.manifest(
        "a manifest of 5 MiB by its length",
        Refused(&["larger than 4194304 bytes"]),
        |_, good| good.how(How::Length(5 << 20)),
    )?;
    table.manifest("a manifest of endless chunks", Refused(&["larger than 4194304 bytes"]), |_, good| {
        good.how(How::Endless)
    })?;
    table.manifest(
        "a manifest that is cut each time",
        Refused(&["RegistryUnavailable: ", "does not answer"]),
        |_, good| good.how(How::Cut(50)),
    )?;
    table.manifest("a manifest that is cut once", Comes, |count, good| match count {
        1 => good.how(How::Cut(50)),
        _ => good,
    })?;
    table.manifest(
        "a manifest that stands still",
        Refused(&["RegistryUnavailable: ", "stood still for 1 s"]),
        |_, good| good.how(How::Stall(50)),
    )?;
    table.manifest("a manifest in slow pieces", Comes, |_, good| good.how(How::Slow(8)))?;
    table.manifest("a page in place of a manifest", Refused(&["\"text/html\"", "no JSON"]), |_, _| {
        Reply::new(200, "<html>log in</html>").with("Content-Type", "text/html")
    })?;
    table
        .manifest("nothing in place of a manifest", Refused(&["the manifest"]), |_, _| Reply::new(200, ""))?;
    table.manifest(
        "a manifest that is called an index",
        Refused(&["it is a manifest", "Content-Type", INDEX]),
        |_, good| good.with("Content-Type", INDEX),
    )?;
    table.manifest(
        "another manifest than the header says",
        Refused(&["the manifest", "is sha256:", "not sha256:0000"]),
        |_, good| good.with("Docker-Content-Digest", &format!("sha256:{}", "0".repeat(64))),
    )?;
    table.manifest(
        "another manifest than the digest asked for",
        Refused(&["the manifest", "is sha256:"]),
        |_, mut good| {
            good.body.push(b' ');
            good
        },
    )?;
    if let Some(last) = table.0.last_mut() {
        last.pinned = true;
    }
    Ok(())
}

fn manifests(table: &mut Table) -> Result<()> {
    table.content("docker's schema 1", &["schema 1"], |served| {
        let old = json!({ "schemaVersion": 1, "name": NAME, "fsLayers": [], "history": [] });
        served.point("application/vnd.docker.distribution.manifest.v1+prettyjws", old);
    })?;
    table.content(
        "an artifact by its type",
        &["artifact of type \"application/vnd.cncf.helm.config.v1+json\""],
        |served| {
            served.manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
            let manifest = served.manifest.clone();
            served.point(MANIFEST, manifest);
        },
    )?;
    table.content("foreign layers", &["foreign layers"], |served| {
        served.manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
        served.settle();
    })?;
    table.content("an encrypted layer", &["is encrypted"], |served| {
        served.manifest["layers"][0]["mediaType"] =
            json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        served.settle();
    })?;
    table.content("a manifest and an index in one", &["at once"], |served| {
        served.manifest["manifests"] = json!([]);
        served.settle();
    })?;
    table.content("a digest that climbs", &["digest \"sha256:../../../etc/passwd\""], |served| {
        served.manifest["layers"][0]["digest"] = json!("sha256:../../../etc/passwd");
        served.settle();
    })?;
    table.content("a digest of another kind", &["\"sha512:"], |served| {
        served.manifest["layers"][0]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        served.settle();
    })?;
    table.content("501 layers", &["more than 500 layers"], |served| {
        served.manifest["layers"] = Value::Array(vec![served.manifest["layers"][0].clone(); 501]);
        served.settle();
    })?;
    table.content(
        "layers that the config does not have",
        &["disagree about the number of layers"],
        |served| {
            served.manifest["layers"] = Value::Array(vec![served.manifest["layers"][0].clone(); 2]);
            served.settle();
        },
    )?;
    table.content("a negative size", &["the manifest", "-1"], |served| {
        served.manifest["layers"][0]["size"] = json!(-1);
        served.settle();
    })?;
    table.content("a manifest 100,000 brackets deep", &["EOF while parsing"], |served| {
        let deep = "[".repeat(100_000);
        let text = format!("{{\"x\":{deep}");
        served.tag = served.add(MANIFEST, text.into_bytes());
    })
}

fn indexes(table: &mut Table) -> Result<()> {
    let entry = |digest: &str, platform: Option<&str>| {
        let mut entry = json!({ "mediaType": INDEX, "digest": digest, "size": 1 });
        if let Some((os, architecture)) = platform.and_then(|text| text.split_once('/')) {
            entry["mediaType"] = json!(MANIFEST);
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        entry
    };
    table.content(
        "an index for other machines",
        &["has no image for linux/", "windows/amd64, linux/s390x"],
        move |served| {
            let tag = served.tag.clone();
            let entries = [entry(&tag, Some("windows/amd64")), entry(&tag, Some("linux/s390x"))];
            served.point(INDEX, json!({ "schemaVersion": 2, "manifests": entries }));
        },
    )?;
    table.content("an index of nothing", &["has no image for", "it has none"], |served| {
        served.point(INDEX, json!({ "schemaVersion": 2, "manifests": [] }));
    })?;
    table.content("indexes in indexes in indexes", &["nested deeper than 4"], move |served| {
        for _ in 0..8 {
            let below = served.tag.clone();
            served.point(INDEX, json!({ "schemaVersion": 2, "manifests": [entry(&below, None)] }));
        }
    })?;
    table.content("an index of a thousand indexes", &["more than 16 manifests"], move |served| {
        let mut entries = Vec::new();
        for n in 0..1000 {
            let empty = json!({ "schemaVersion": 2, "manifests": [], "annotations": { "n": n.to_string() } });
            entries.push(entry(&served.add(INDEX, empty.to_string().into_bytes()), None));
        }
        served.point(INDEX, json!({ "schemaVersion": 2, "manifests": entries }));
    })?;
    table.content("an index of 1001 manifests", &["more than 1000 manifests"], move |served| {
        let entries = vec![entry(&served.tag, None); 1001];
        served.point(INDEX, json!({ "schemaVersion": 2, "manifests": entries }));
    })?;
    table.content("an index whose manifest is not there", &["does not exist"], move |served| {
        let gone = format!("sha256:{}", "1".repeat(64));
        served.point(INDEX, json!({ "schemaVersion": 2, "manifests": [entry(&gone, None)] }));
    })
}

fn configs(table: &mut Table) -> Result<()> {
    table.config("a config that is not there", &["does not exist"], |_| Reply::new(404, ""))?;
    table.config("another config than the digest says", &["the config", "is sha256:"], |mut good| {
        good.body.push(b' ');
        good
    })?;
    table.config("a config of endless chunks", &["the config", "larger than 8388608 bytes"], |good| {
        good.how(How::Endless)
    })?;
    table.content("a config that is no JSON", &["the image's config"], |served| {
        let bytes = b"no JSON".to_vec();
        served.manifest["config"] = json!({ "digest": digest(&bytes), "size": bytes.len(), "own": true });
        served.blobs.insert(digest(&bytes), bytes);
        served.settle();
    })?;
    table.content("a config with a diff id that is none", &["rootfs.diff_ids"], |served| {
        served.config["rootfs"]["diff_ids"] = json!(["sha256:.."]);
        served.settle();
    })
}

fn layers(table: &mut Table) -> Result<()> {
    use End::{Comes, Refused};
    table.layer("a layer that is not there", Refused(&["does not exist"]), |_, _, _| Reply::new(404, ""))?;
    table.layer(
        "a layer of half its length",
        Refused(&["by its own account", "the manifest says"]),
        |_, _, mut good| {
            good.body.truncate(good.body.len() / 2);
            good
        },
    )?;
    table.layer(
        "a layer of twice its length",
        Refused(&["by its own account", "the manifest says"]),
        |_, _, mut good| {
            good.body.extend(good.body.clone());
            good
        },
    )?;
    table.layer("a layer of endless chunks", Refused(&["has more", "the manifest says"]), |_, _, good| {
        good.how(How::Endless)
    })?;
    table.layer("half a layer, chunked", Refused(&["the manifest says"]), |_, _, mut good| {
        good.body.truncate(good.body.len() / 2);
        good.how(How::Chunked)
    })?;
    table.layer("a whole layer, chunked", Comes, |_, _, good| good.how(How::Chunked))?;
    table.layer("another layer of the same length", Refused(&["came as sha256:"]), |_, _, mut good| {
        if let Some(byte) = good.body.get_mut(600) {
            *byte ^= 1;
        }
        good
    })?;
    table.layer("a layer that is cut once", Comes, |_, count, good| match count {
        1 => good.how(How::Cut(100_000)),
        _ => good,
    })?;
    table.layer("a layer that is cut thrice", Comes, |_, count, good| match count {
        1..=3 => good.how(How::Cut(40_000)),
        _ => good,
    })?;
    let what = "a cut where ranges are not known";
    let served = Served::new(what)?;
    let whole = served.blobs.get(&served.layer).cloned().unwrap_or_default();
    table.layer(what, Comes, move |_, count, good| match count {
        1 => good.how(How::Cut(100_000)),
        _ => Reply::new(200, whole.clone()),
    })?;
    table.layer(
        "a layer that is cut each time",
        Refused(&["RegistryUnavailable: ", "does not answer"]),
        |_, _, good| good.how(How::Cut(10)),
    )?;
    table.layer("a layer that stands still once", Comes, |_, count, good| match count {
        1 => good.how(How::Stall(100_000)),
        _ => good,
    })?;
    table.layer(
        "a layer that stands still each time",
        Refused(&["RegistryUnavailable: ", "stood still for 1 s"]),
        |_, _, good| good.how(How::Stall(0)),
    )?;
    table.layer("a layer in slow pieces", Comes, |_, _, good| good.how(How::Slow(10)))?;
    table.layer(
        "a range from elsewhere",
        Refused(&["was asked for byte"]),
        |_, count, good| match count {
            1 => good.how(How::Cut(100_000)),
            _ => good.with("Content-Range", "bytes 150000-201000/201000"),
        },
    )?;
    table.layer("500 in the middle of a layer", Comes, |_, count, good| match count {
        1 => good.how(How::Cut(100_000)),
        2 => unavailable(500),
        _ => good,
    })
}

fn contents(table: &mut Table) -> Result<()> {
    fn replace(served: &mut Served, bytes: Vec<u8>) {
        *served = Served::of(bytes);
    }
    table.content("a layer that is no tar", &["unpack layer"], |served| {
        replace(served, b"no tar ".repeat(1000))
    })?;
    table.content("half a gzip stream", &["inflate"], |served| {
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        bytes.extend([0x4b, 0x4c]);
        replace(served, bytes);
    })?;
    table.content("a gzip header and noise", &["inflate"], |served| {
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        bytes.extend(b"\xff\xfe\xfd noise".repeat(50));
        replace(served, bytes);
    })?;
    table.content("a zstd header and noise", &["inflate"], |served| {
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd];
        bytes.extend(b"\xff\xfe\xfd noise".repeat(50));
        replace(served, bytes);
    })?;
    table.content("a tar that ends in a file", &["unpack layer"], |served| {
        let mut bytes = served.blobs.get(&served.layer).cloned().unwrap_or_default();
        bytes.truncate(100_000);
        replace(served, bytes);
    })?;
    table.content("another diff id than the config says", &["unpacks to sha256:", "config says"], |served| {
        served.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "2".repeat(64))]);
        served.settle();
    })
}
