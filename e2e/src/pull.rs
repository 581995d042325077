//! The crictl lane's images from live registries: by tag, by digest, with a password, through a mirror, and each way it
//! can go wrong.

use anyhow::{Context as _, Result};

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
    let wrong = format!("{}/lane/guest@sha256:{}", open.host(), "0".repeat(64));
    refuses(checks, "a digest that is not there", &crictl.run(&["pull", &wrong])?, "does not exist");
    let none = format!("{}/lane/none:1", open.host());
    refuses(checks, "an image that is not there, by its name", &crictl.run(&["pull", &none])?, &none);
    refuses(checks, "a name that is none", &crictl.run(&["pull", "UPPER/x"])?, "InvalidArgument");

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
