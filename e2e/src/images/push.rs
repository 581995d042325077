//! Images from this node and from archives to registries, and back from there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::real::{Authority, hosts};
use super::server::Server;
use super::tokens::{Tokens, trust};
use super::uploads::{Faults, Uploads};
use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::daemon::Daemon;
use crate::hostile::tree::list_with_times;
use crate::image::{self, digest};
use crate::layers::{Said, said, whole, write_big};
use crate::registry::{HTPASSWD, PASSWORD, Registry, USER};

/// As it is imported.
const LOCAL: &str = "local.test/pushed:1";
/// Bytes of its larger layer: more than are sent at once in chunks.
const BIG: usize = 20 << 20;

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let before = Footprint::take(daemon)?;
    let archive = daemon.path("to-push.tar");
    write_big(&archive, LOCAL, BIG, 20)?;
    daemon.import_file(&archive)?;
    secured(checks, daemon).await?;
    tokens(checks, daemon).await?;
    unchanged(checks, daemon).await?;
    archives(checks, daemon, &archive).await?;
    faults(checks, daemon).await?;
    let all = typed(daemon, &["image", "list", "-q"])?;
    let mut words = vec!["image", "remove"];
    words.extend(all.out.lines());
    let removed = typed(daemon, &words)?;
    checks.that("all of it is removed", removed.ok, &removed.err);
    checks.note("  and nothing more is kept", given_back(daemon, &before).await);
    Ok(())
}

pub(super) fn typed(daemon: &Daemon, words: &[&str]) -> Result<Said> {
    said(daemon.typed(words)?.stdin(Stdio::null()))
}

/// With this as standard input.
fn fed(daemon: &Daemon, words: &[&str], input: &Path) -> Result<Said> {
    said(daemon.typed(words)?.stdin(std::fs::File::open(input)?))
}

/// What `push --json` said of its one image.
fn pushed(said: &Said) -> Value {
    serde_json::from_str::<Value>(&said.out).map_or(Value::Null, |all| all[0].clone())
}

/// How many layers came in which way.
fn layers(pushed: &Value) -> [usize; 3] {
    let layers = pushed["layers"].as_array().map_or(&[][..], Vec::as_slice);
    ["done", "there", "mounted"].map(|state| layers.iter().filter(|layer| layer["state"] == state).count())
}

fn is_upload(request: &str) -> bool {
    request.starts_with("PUT") && request.contains("/blobs/uploads/") || request.starts_with("PATCH")
}

/// The requests since `from`, once so many manifests have been put.
async fn requests(registry: &Registry, from: usize, manifests: usize) -> Result<Vec<String>> {
    until("the registry to write down what it did", || async {
        let all = registry.requests()?.split_off(from);
        let put = all.iter().filter(|one| one.starts_with("PUT") && one.contains("/manifests/")).count();
        Ok((put >= manifests).then_some(all))
    })
    .await
}

/// How many requests it has written down, all of those before its so-manieth manifest among them.
async fn so_far(registry: &Registry, manifests: usize) -> Result<usize> {
    Ok(requests(registry, 0, manifests).await?.len())
}

/// TLS and htpasswd; then what is not sent again.
async fn secured(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let at = daemon.path("push-tls");
    std::fs::create_dir_all(&at)?;
    let authority = Authority::new()?;
    std::fs::write(at.join("ca.pem"), &authority.pem)?;
    authority.write(&at, "server", &["127.0.0.1", "localhost"])?;
    std::fs::write(at.join("htpasswd"), HTPASSWD)?;
    let path = |name: &str| at.join(name).display().to_string();
    let http = format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    let auth = format!("auth:\n  htpasswd:\n    realm: lane\n    path: {}\n", path("htpasswd"));
    let registry = Registry::special(&at.join("data"), &http, &auth).await?;
    hosts(
        daemon,
        "push.test",
        &format!("server = \"https://{}\"\nca = \"{}\"\n", registry.host(), path("ca.pem")),
    )?;
    let creds = format!("{USER}:{PASSWORD}");
    let push = ["image", "push", "--json", "--creds", &creds, LOCAL];
    let refused = typed(daemon, &["image", "push", LOCAL, "push.test/one/image:1"])?;
    let holds = !refused.ok && refused.err.contains("wants credentials");
    checks.that("push: not without credentials", holds, &refused.err);
    let refused = typed(daemon, &["image", "push", "--creds", "lane:wrong", LOCAL, "push.test/one/image:1"])?;
    let holds =
        refused.code == Some(1) && refused.err.contains("from the request") && !refused.err.contains("wrong");
    checks.that("  nor with wrong ones, which are not shown", holds, &refused.err);

    let first = typed(daemon, &[&push[..], &["push.test/one/image:1"]].concat())?;
    let one = pushed(&first);
    checks.that("  by TLS and password: every layer is sent", layers(&one) == [2, 0, 0], &first.err);
    let from = so_far(&registry, 1).await?;
    let again = typed(daemon, &[&push[..], &["push.test/one/image:1"]].concat())?;
    let seen = requests(&registry, from, 1).await?;
    let holds = layers(&pushed(&again)) == [0, 2, 0] && !seen.iter().any(|one| is_upload(one));
    checks.that("  a second push sends no layer", holds, format!("{} {seen:?}", again.err));
    checks.that("  and is the same manifest", pushed(&again)["digest"] == one["digest"], pushed(&again));
    let from = so_far(&registry, 2).await?;
    let other = typed(daemon, &[&push[..], &["push.test/two/image:1"]].concat())?;
    let seen = requests(&registry, from, 1).await?;
    let mounts = seen
        .iter()
        .filter(|one| one.contains("mount=") && one.contains("from=one%2Fimage") && one.ends_with("201"));
    let holds =
        layers(&pushed(&other)) == [0, 0, 2] && mounts.count() == 3 && !seen.iter().any(|one| is_upload(one));
    checks.that("  to another repository they are mounted", holds, format!("{} {seen:?}", other.err));

    // Somebody else reads it.
    let name = format!("docker://{}/one/image:1", registry.host());
    let tools = |words: &[&str]| said(Command::new("skopeo").args(words).arg(&name));
    let raw = tools(&["inspect", "--raw", "--tls-verify=false", "--creds", &creds])?;
    checks.that("  skopeo inspect reads it", raw.ok && one["digest"] == digest(raw.out.as_bytes()), &raw.err);
    let to = format!("dir:{}", daemon.path("skopeo-copy").display());
    let copied = said(Command::new("skopeo").args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--src-creds",
        &creds,
        &name,
        &to,
    ]))?;
    checks.that("  skopeo copy finds every digest right", copied.ok, &copied.err);
    std::fs::remove_dir_all(daemon.path("skopeo-copy"))?;
    elsewhere(checks, daemon, &creds).await
}

/// On another node it is the same image of the same tree.
async fn elsewhere(checks: &mut Checks, daemon: &Daemon, creds: &str) -> Result<()> {
    let home = daemon.path("elsewhere");
    std::fs::create_dir_all(&home)?;
    let config = daemon.path("certs.d/push.test");
    std::fs::create_dir_all(home.join("certs.d"))?;
    std::os::unix::fs::symlink(config, home.join("certs.d/push.test"))?;
    let mut other = Daemon::bare(home, &format!("p{}", std::process::id())).await?;
    let done = async {
        let pulled = typed(&other, &["image", "pull", "--creds", creds, "push.test/one/image:1"])?;
        let own = typed(daemon, &["image", "list", "-q", LOCAL])?;
        checks.that("  pulled elsewhere it has the same id", pulled.out == own.out, &pulled.err);
        let inspected = typed(&other, &["image", "inspect", "--json", "push.test/one/image:1"])?;
        let inspected: Value = serde_json::from_str(&inspected.out)?;
        let layers = inspected[0]["layers"].as_array().context("layers")?;
        let mut differ = Vec::new();
        for layer in layers {
            let hex = layer["diff_id"].as_str().unwrap_or_default().trim_start_matches("sha256:");
            let below = format!("root/images/layers/{hex}/fs");
            let (here, there) =
                (list_with_times(&daemon.path(&below))?, list_with_times(&other.path(&below))?);
            if here != there || here.is_empty() {
                differ.push(hex.to_owned());
            }
        }
        checks.that("  and the same tree", layers.len() == 2 && differ.is_empty(), differ.join(" "));
        checks.note("  as it was unpacked", whole(&other));
        Ok(())
    };
    let done = done.await;
    other.finish(done).await?;
    Ok(std::fs::remove_dir_all(daemon.path("elsewhere"))?)
}

async fn tokens(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let service = Tokens::start(300).await?;
    let bundle = daemon.path("push-tls/tokens.pem");
    std::fs::write(&bundle, &service.certificate)?;
    let registry =
        Registry::special(&daemon.path("push-tokens"), "", &trust(&service.realm(), &bundle)).await?;
    // From a file, for once.
    let auths =
        serde_json::json!({ "auths": { registry.host(): { "username": USER, "password": PASSWORD } } });
    std::fs::write(daemon.path("auth.json"), auths.to_string())?;
    let push = ["image", "push", "--json", LOCAL];
    let first = typed(daemon, &[&push[..], &[&format!("{}/one/image:1", registry.host())]].concat())?;
    checks.that("push by token: every layer is sent", layers(&pushed(&first)) == [2, 0, 0], &first.err);
    let asked = service.server.seen();
    let holds = asked.iter().any(|one| one.path.contains("pull%2Cpush"));
    checks.that("  the token is for pull and push", holds, format!("{asked:?}"));
    let other = typed(daemon, &[&push[..], &[&format!("{}/two/image:1", registry.host())]].concat())?;
    checks.that("  layers are mounted with one for both", layers(&pushed(&other)) == [0, 0, 2], &other.err);
    std::fs::remove_file(daemon.path("auth.json"))?;
    Ok(())
}

/// What a registry is known to have keeps its manifest.
async fn unchanged(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let registry = Registry::over(&daemon.path("push-open")).await?;
    let archive = daemon.path("zstd.tar");
    write_big(&archive, "x.test/zstd:1", 1 << 20, 3)?;
    registry.push_as(&archive, "own/image:1", &["--dest-compress", "--dest-compress-format", "zstd"])?;
    let (own, other) =
        (format!("{}/own/image:1", registry.host()), format!("{}/other/image:2", registry.host()));
    let pulled = typed(daemon, &["image", "pull", &own])?;
    let raw = said(
        Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{own}")),
    )?;
    let from = so_far(&registry, 1).await?;
    let push = typed(daemon, &["image", "push", "--json", &own, &other])?;
    let seen = requests(&registry, from, 1).await?;
    let one = pushed(&push);
    let holds = pulled.ok && one["unchanged"] == true && one["digest"] == digest(raw.out.as_bytes());
    checks.that(
        "what was pulled there is pushed with its digest",
        holds,
        format!("{} {}", push.err, push.out),
    );
    checks.that(
        "  without a byte of a layer",
        layers(&one) == [0, 0, 2] && !seen.iter().any(|one| is_upload(one)),
        format!("{seen:?}"),
    );
    let empty = Registry::over(&daemon.path("push-empty")).await?;
    let push = typed(daemon, &["image", "push", &own, &format!("{}/image:2", empty.host())])?;
    let holds = push.ok && push.out.contains("new digest") && push.out.contains("2 of 2 layers sent");
    checks.that(
        "  where it is not, it is compressed anew, and that is said",
        holds,
        format!("{} {}", push.out, push.err),
    );
    Ok(())
}

async fn archives(checks: &mut Checks, daemon: &Daemon, archive: &Path) -> Result<()> {
    let registry = Registry::over(&daemon.path("push-archives")).await?;
    let name = |name: &str| format!("{}/{name}", registry.host());
    let file = archive.display().to_string();
    let manifest = |name: &str| {
        said(
            Command::new("skopeo")
                .args(["inspect", "--raw", "--tls-verify=false"])
                .arg(format!("docker://{name}")),
        )
    };
    let push = typed(daemon, &["image", "push", "--json", "--archive", &file, &name("oci:1")])?;
    let (one, raw) = (pushed(&push), manifest(&name("oci:1"))?);
    let holds = layers(&one) == [2, 0, 0] && one["digest"] == digest(raw.out.as_bytes());
    checks.that("push --archive: an OCI archive, byte by byte", holds, format!("{} {}", push.err, push.out));
    let push = fed(daemon, &["image", "push", "--json", "--archive", "-", &name("stdin:1")], archive)?;
    checks.that("  by standard input", pushed(&push)["digest"] == one["digest"], &push.err);
    let saved = daemon.path("saved.tar");
    let copied = said(Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy"]).args([
        format!("oci-archive:{file}"),
        format!("docker-archive:{}:x.test/saved:1", saved.display()),
    ]))?;
    let push = typed(
        daemon,
        &["image", "push", "--json", "--archive", &saved.display().to_string(), &name("saved:1")],
    )?;
    let holds = copied.ok && pushed(&push)["image"] == one["image"] && one["image"].is_string();
    checks.that("  what docker save wrote: the same image id", holds, format!("{} {}", copied.err, push.err));
    let (both, first, second) = (daemon.path("both.tar"), name("both:1"), name("both:2"));
    let copied = said(Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy"]).args([
        "--additional-tag",
        &second,
        &format!("oci-archive:{file}"),
        &format!("docker-archive:{}:{first}", both.display()),
    ]))?;
    let push = typed(daemon, &["image", "push", "--archive", &both.display().to_string()])?;
    let holds = copied.ok && push.ok && push.out.contains(&first) && push.out.contains(&second);
    checks.that("  to all the names that it has", holds, format!("{} {} {}", copied.err, push.err, push.out));
    index(checks, daemon, &registry).await?;
    let refused = typed(daemon, &["image", "push", "--archive", "/dev/null", &name("none:1")])?;
    checks.that(
        "  nothing that is no archive",
        refused.code == Some(1) && refused.err.contains("the archive"),
        &refused.err,
    );
    Ok(())
}

/// An index of two platforms, with all that it leads to.
async fn index(checks: &mut Checks, daemon: &Daemon, registry: &Registry) -> Result<()> {
    let layout = daemon.path("index-layout");
    let digest = image::write_index(&layout)?;
    let packed = daemon.path("index.tar");
    let tar = Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&packed).arg(".").status()?;
    anyhow::ensure!(tar.success(), "tar does not pack the layout");
    let to = format!("{}/index:1", registry.host());
    for (what, source) in [("an index goes whole", &packed), ("  and from a directory", &layout)] {
        let push =
            typed(daemon, &["image", "push", "--json", "--archive", &source.display().to_string(), &to])?;
        let found = format!("{} {}", push.err, push.out);
        checks.that(what, pushed(&push)["digest"] == *digest && pushed(&push)["unchanged"] == true, found);
    }
    let copy = daemon.path("index-copy");
    let copied = said(
        Command::new("skopeo")
            .args(["copy", "--all", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
            .args([format!("docker://{to}"), format!("dir:{}", copy.display())]),
    )?;
    checks.that("  and is there with every platform", copied.ok, &copied.err);
    std::fs::remove_dir_all(&layout)?;
    Ok(std::fs::remove_dir_all(copy)?)
}

/// Registries that take only small bodies, cut, are busy or mad.
async fn faults(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let one = |faults: Faults| async move {
        let uploads = Arc::new(Uploads::default());
        let server = Server::start(uploads.answers(faults)).await?;
        let to = format!("{}/lane/image:1", server.host());
        let push = typed(daemon, &["image", "push", LOCAL, &to])?;
        let holds = push.ok && uploads.is_whole("1");
        Ok::<_, anyhow::Error>((holds, push.err, server.seen()))
    };
    let (holds, err, seen) = one(Faults { largest: Some(17 << 20), ..Faults::default() }).await?;
    let chunks = seen.iter().filter(|one| one.method == "PATCH").count();
    checks.that(
        "a registry that takes no large body gets chunks",
        holds && chunks == 2,
        format!("{err} {chunks}"),
    );
    let cut = Faults { largest: Some(17 << 20), cut: true, ..Faults::default() };
    let (holds, err, seen) = one(cut).await?;
    let chunks: Vec<usize> =
        seen.iter().filter(|one| one.method == "PATCH").map(|one| one.content.len()).collect();
    let resumed = chunks.len() == 3 && chunks[2] < chunks[1];
    checks.that("  a cut chunk goes on where it was cut", holds && resumed, format!("{err} {chunks:?}"));
    let (holds, err, _) = one(Faults { busy: 2, ..Faults::default() }).await?;
    checks.that("  one that is busy is asked again", holds, err);
    let (holds, err, _) = one(Faults { elsewhere: true, ..Faults::default() }).await?;
    let told = err.contains("an upload to http://127.0.0.1:1");
    checks.that("  nothing is sent to another host", !holds && told, err);
    let (holds, err, _) = one(Faults { confused: true, ..Faults::default() }).await?;
    checks.that(
        "  a manifest that became another is told",
        !holds && err.contains("as the registry took it"),
        err,
    );
    let uploads = Arc::new(Uploads::default());
    let server = Server::start(uploads.answers(Faults::default())).await?;
    let mirror = format!("server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\n", server.host());
    hosts(daemon, "mirrored-push.test", &mirror)?;
    let refused = typed(daemon, &["image", "push", LOCAL, "mirrored-push.test/a:1"])?;
    let holds =
        !refused.ok && refused.err.contains("127.0.0.1:1 does not answer") && server.seen().is_empty();
    checks.that("  a mirror gets no push", holds, &refused.err);
    hosts(daemon, "mirrored-push.test", &format!("{mirror}capabilities = [\"pull\", \"push\"]\n"))?;
    let push = typed(daemon, &["image", "push", LOCAL, "mirrored-push.test/a:1"])?;
    checks.that("  unless it is said to take them", push.ok && uploads.is_whole("1"), &push.err);
    let refused = typed(daemon, &["image", "push", LOCAL, &format!("x.test/a@{}", digest(b"x"))])?;
    checks.that(
        "  a digest is no destination",
        refused.code == Some(1) && refused.err.contains("to a tag"),
        &refused.err,
    );
    let refused = typed(daemon, &["image", "push", "local.test/none:1"])?;
    checks.that(
        "  an image that is not here",
        refused.code == Some(1) && refused.err.contains("none:1"),
        &refused.err,
    );
    Ok(())
}
