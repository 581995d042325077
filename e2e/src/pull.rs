//! The crictl lane's images from live registries: by tag, by digest, with a password, through a mirror, and each way it
//! can go wrong.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::checks::Checks;
use crate::crictl::{Crictl, refuses, says};
use crate::daemon::Daemon;
use crate::image;
use crate::registry::{PASSWORD, Registry, USER};

pub(crate) async fn run(checks: &mut Checks, daemon: &Daemon, crictl: &Crictl) -> Result<()> {
    let mut open = Registry::start(false).await?;
    let closed = Registry::start(true).await?;
    let archive = daemon.path("pushed.tar");
    image::write(&archive, "lane/guest:1", "pulled")?;
    open.push(&archive, "lane/guest:1")?;
    closed.push(&archive, "lane/guest:1")?;

    let tagged = format!("{}/lane/guest:1", open.host());
    says(checks, "pull by tag", &crictl.run(&["pull", &tagged])?, "Image is up to date");
    let found = crictl.json(&["inspecti", &tagged])?;
    let (id, digest) = (found["status"]["id"].clone(), found["status"]["repoDigests"][0].clone());
    let digest = digest.as_str().context("no repo digest")?.to_owned();
    checks.that(
        "  it has the tag and the digest it was pulled by",
        found["status"]["repoTags"][0] == tagged.as_str() && digest.starts_with(&open.host()),
        &found["status"],
    );
    says(checks, "  a second time: nothing to do", &crictl.run(&["pull", &tagged])?, "Image is up to date");
    says(checks, "rmi", &crictl.run(&["rmi", &tagged])?, "Deleted");
    says(checks, "pull by digest", &crictl.run(&["pull", &digest])?, "Image is up to date");
    let again = crictl.json(&["inspecti", &digest])?;
    checks.that(
        "  the same image, without a tag",
        again["status"]["id"] == id && again["status"]["repoTags"].as_array().is_none_or(Vec::is_empty),
        &again["status"],
    );
    forms(checks, daemon, crictl, (&open, &archive, &id))?;
    let wrong = format!("{}/lane/guest@sha256:{}", open.host(), "0".repeat(64));
    refuses(checks, "a digest that is not there", &crictl.run(&["pull", &wrong])?, "does not exist");
    let none = format!("{}/lane/none:1", open.host());
    refuses(checks, "an image that is not there, by its name", &crictl.run(&["pull", &none])?, &none);
    refuses(checks, "a name that is none", &crictl.run(&["pull", "UPPER/x"])?, "the repository may have");

    let locked = format!("{}/lane/guest:1", closed.host());
    refuses(checks, "a closed registry without a password", &crictl.run(&["pull", &locked])?, &closed.host());
    let bad = format!("{USER}:wrong-word");
    let answer = crictl.run(&["pull", "--creds", &bad, &locked])?;
    refuses(checks, "with a wrong one", &answer, &closed.host());
    checks.that("  which is not repeated", !answer.err.contains("wrong-word"), &answer.err);
    let good = format!("{USER}:{PASSWORD}");
    says(
        checks,
        "with the right one (basic)",
        &crictl.run(&["pull", "--creds", &good, &locked])?,
        "up to date",
    );
    let both = crictl.json(&["inspecti", &locked])?;
    checks.that("  one image by two names: one id", both["status"]["id"] == id, &both["status"]);
    says(checks, "rmi of both", &crictl.run(&["rmi", &locked])?, "Deleted");

    mirror(checks, daemon, crictl, &mut open).await
}

/// The same image in every form it may be stored in: one id, since that is the digest of its configuration.
fn forms(
    checks: &mut Checks,
    daemon: &Daemon,
    crictl: &Crictl,
    (open, archive, plain): (&Registry, &Path, &Value),
) -> Result<()> {
    let id = |name: &str| -> Result<Value> { Ok(crictl.json(&["inspecti", name])?["status"]["id"].clone()) };
    for (what, tag, words) in [
        ("gzip layers, OCI types", "gzip", ["--format", "oci", "--dest-compress-format", "gzip"]),
        ("zstd layers, OCI types", "zstd", ["--format", "oci", "--dest-compress-format", "zstd"]),
        ("gzip layers, Docker types", "docker", ["--format", "v2s2", "--dest-compress-format", "gzip"]),
    ] {
        let name = format!("{}/lane/forms:{tag}", open.host());
        open.push_as(archive, &format!("lane/forms:{tag}"), &words)?;
        says(checks, &format!("pull of {what}"), &crictl.run(&["pull", &name])?, "up to date");
        checks.that("  it is the same image", id(&name)? == *plain, id(&name)?);
    }
    let saved = daemon.path("saved.tar");
    let made = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("docker-archive:{}:lane.test/saved:1", saved.display()))
        .output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    daemon.import_stdin(&saved)?;
    says(checks, "import of a docker save archive from stdin", &crictl.run(&["images"])?, "lane.test/saved");
    let saved = id("lane.test/saved:1")?;
    checks.that("  it is the same image, too", saved == *plain, &saved);
    let all = plain.as_str().context("an id is a string")?;
    says(checks, "rmi by id: every name goes", &crictl.run(&["rmi", all])?, "Deleted");
    let left = crictl.run(&["images", "-q"])?;
    checks.that("  none is left", left.ok && left.out.is_empty(), &left.out);
    Ok(())
}

async fn mirror(checks: &mut Checks, daemon: &Daemon, crictl: &Crictl, open: &mut Registry) -> Result<()> {
    let hosts = daemon.path("certs.d/lane.test");
    std::fs::create_dir_all(&hosts)?;
    let dead = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = |first: &str| {
        format!(
            "server = \"http://127.0.0.1:{dead}\"\n[host.\"http://{first}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        )
    };
    std::fs::write(hosts.join("hosts.toml"), text(&open.host()))?;
    let name = "lane.test/lane/guest:1";
    says(checks, "through a mirror (certs.d/HOST/hosts.toml)", &crictl.run(&["pull", name])?, "up to date");
    let found = crictl.json(&["inspecti", name])?;
    checks.that(
        "  under the name that was asked for",
        found["status"]["repoTags"].to_string().contains(name),
        &found,
    );
    says(checks, "  rmi", &crictl.run(&["rmi", name])?, "Deleted");
    open.down();
    let answer = crictl.run(&["pull", name])?;
    refuses(checks, "mirror and registry are down: RegistryUnavailable", &answer, "RegistryUnavailable");
    checks.that("  names where it asked", answer.err.contains(&dead.to_string()), &answer.err);
    open.up().await?;
    says(checks, "  once it is back", &crictl.run(&["pull", name])?, "up to date");
    says(checks, "  rmi", &crictl.run(&["rmi", name])?, "Deleted");
    std::fs::write(hosts.join("hosts.toml"), "server = 3\n")?;
    refuses(
        checks,
        "a broken hosts.toml, by its path",
        &crictl.run(&["pull", name])?,
        "lane.test/hosts.toml",
    );
    std::fs::remove_file(hosts.join("hosts.toml"))?;
    Ok(())
}
