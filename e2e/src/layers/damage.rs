//! Damage to what is unpacked: found by `berth image verify`, mended layer by layer, also below a container that runs.

use anyhow::{Context as _, Result};

use super::{layers, said, whole};
use crate::checks::Checks;
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;
use crate::image;
use crate::registry::Registry;

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    let archive = daemon.path("mend.tar");
    image::write(&archive, "lane/mend:1", "as it was")?;
    registry.push(&archive, "lane/mend:1")?;
    let name = format!("{}/lane/mend:1", registry.host());
    let mut client = Client::connect(&daemon.socket()).await?;
    client.pull(&name).await?;
    let logs = daemon.path("logs");
    let config = pod("mend", &logs);
    let sandbox = client.run_pod(&config).await?;
    let spec = || crate::client::Spec { image: Some(name.clone()), ..args(&["sleep", "100000"]) };
    let old = client.run(&sandbox, &config, "old", spec()).await?;

    checks.note("nothing is damaged", whole(daemon));
    let greeting = find(daemon, "greeting", b"as it was")?;
    let modified = greeting.metadata()?.modified()?;
    std::fs::write(&greeting, "AS IT was")?;
    std::fs::File::options().write(true).open(&greeting)?.set_modified(modified)?;
    let found = said(&mut daemon.typed(&["image", "verify", &name])?)?;
    let told = found.out.contains("DAMAGED") && found.out.contains("greeting has another content");
    checks.that(
        "a changed byte is found: exit code 1, the file named",
        found.code == Some(1) && told,
        &found.out,
    );
    checks.that("  in one layer only", found.out.matches("DAMAGED").count() == 1, &found.out);
    let mended = said(&mut daemon.typed(&["image", "verify", "--repair"])?)?;
    checks.that(
        "--repair fetches it again",
        mended.ok && mended.out.contains("repaired"),
        format!("{} {}", mended.out, mended.err),
    );
    checks.that("  the file is as it was", std::fs::read(&greeting)? == b"as it was", "it is not");
    checks.note("  and so is everything", whole(daemon));
    let kept = layers(daemon)?.iter().filter(|name| name.starts_with(".old-")).count();
    checks.that("  the container that runs keeps the damaged one", kept == 1, kept);
    let read = client.out(&old, &["cat", "/greeting"]).await?;
    checks.that("  and reads it still", read.contains("AS IT was"), &read);
    let new = client.run(&sandbox, &config, "new", spec()).await?;
    let read = client.out(&new, &["cat", "/greeting"]).await?;
    checks.that("  a new container reads the mended one", read.contains("as it was"), &read);

    daemon.kill()?;
    let mut client = daemon.start().await?;
    let read = client.out(&old, &["cat", "/greeting"]).await?;
    checks.that("  also after the daemon's death", read.contains("AS IT was"), &read);
    client.remove_image(&name).await?;
    let read = client.out(&new, &["cat", "/greeting"]).await?;
    checks.that("a removed image stays usable", read.contains("as it was"), &read);
    daemon.kill()?;
    let mut client = daemon.start().await?;
    let read = client.out(&new, &["cat", "/greeting"]).await?;
    checks.that("  also over the daemon's death", read.contains("as it was"), &read);
    client.remove_pod(&sandbox).await?;
    let kept = layers(daemon)?;
    let left = kept.iter().any(|name| name.starts_with('.'));
    checks.that("  with the pod the damaged layer goes, and what only it had", !left, kept.join(" "));

    for (what, harm) in [("a missing file", false), ("a file too many", true)] {
        client.pull(&name).await?;
        let greeting = find(daemon, "greeting", b"as it was")?;
        match harm {
            true => std::fs::write(greeting.with_file_name("planted"), "x")?,
            false => std::fs::remove_file(&greeting)?,
        }
        let mended = said(&mut daemon.typed(&["image", "verify", "--repair", "--json"])?)?;
        checks.that(what, mended.ok && mended.out.contains("\"repaired\""), &mended.out);
        checks.note("  is mended", whole(daemon));
        client.remove_image(&name).await?;
    }
    // As a release has it that wrote nothing down.
    client.pull(&name).await?;
    let greeting = find(daemon, "greeting", b"as it was")?;
    let records = greeting.ancestors().nth(2).context("a layer's directory")?.to_owned();
    for record in ["tree.zst", "tape.zst"] {
        std::fs::remove_file(records.join(record))?;
    }
    let found = said(&mut daemon.typed(&["image", "verify", &name])?)?;
    checks.that(
        "a layer without records is told from a whole one",
        found.out.contains("not known"),
        &found.out,
    );
    let mended = said(&mut daemon.typed(&["image", "verify", "--repair"])?)?;
    checks.that("  --repair fetches it again", mended.ok && records.join("tree.zst").exists(), &mended.out);
    checks.note("  and it is whole", whole(daemon));
    client.remove_image(&name).await?;

    client.pull(&name).await?;
    let greeting = find(daemon, "greeting", b"as it was")?;
    std::fs::remove_file(&greeting)?;
    let found = said(&mut daemon.typed(&["image", "verify"])?)?;
    client.pull(&name).await?;
    checks.that(
        "damage that was found is mended by the next pull",
        found.code == Some(1) && greeting.exists(),
        &found.out,
    );
    client.remove_image(&name).await
}

/// A file of some layer, by its content.
fn find(daemon: &Daemon, name: &str, content: &[u8]) -> Result<std::path::PathBuf> {
    let layers = daemon.path("root/images/layers");
    let found = std::fs::read_dir(&layers)?
        .filter_map(Result::ok)
        .map(|layer| layer.path().join("fs").join(name))
        .find(|path| std::fs::read(path).is_ok_and(|found| found == content));
    found.with_context(|| format!("{name} is in no layer"))
}
