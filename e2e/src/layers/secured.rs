//! A damaged layer of a registry that wants a password: nothing changes without it, and nobody else learns it.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::proxy::{Proxy, Ways};
use super::{Said, layers, said, whole, write_big};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::{Daemon, processes};
use crate::registry::{PASSWORD, Registry, USER};

/// Of the layer that is damaged, and of its bytes in a second: it is on its way long enough to be looked at.
const SIZE: usize = 4 << 20;
const RATE: u64 = 3 << 20;
const NAME: &str = "lane/locked:1";

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let registry = Registry::start(true).await?;
    let archive = daemon.path("locked.tar");
    write_big(&archive, NAME, SIZE, 3)?;
    registry.push(&archive, NAME)?;
    let proxy = Proxy::with(&registry.host(), u64::MAX, Ways { rate: Some(RATE), ..Ways::default() })?;
    let name = format!("{}/{NAME}", proxy.host());
    let creds = format!("{USER}:{PASSWORD}");
    let pulled = fed(daemon.typed(&["image", "pull", "--creds-stdin", &name])?, &creds)?.0;
    checks.that("pulled with a password", pulled.ok, &pulled.err);
    let id = pulled.out.trim_start_matches("sha256:").to_owned();

    let top = daemon.path("root/images/layers");
    let (small, damaged) = (holding(&top, "small")?, holding(&top, "d/large0")?);
    let file = damaged.join("fs/d/large0");
    let good = std::fs::read(&file)?;
    let mut bad = good.clone();
    bad[SIZE / 8] ^= 1;
    std::fs::write(&file, &bad)?;
    let (beside, kept) = (small.metadata()?.ino(), layers(daemon)?);
    let words = ["image", "verify", "--repair", name.as_str()];
    let wrong = format!("{USER}:not-it");
    for (what, word, more, why) in [
        ("without a password", None, &[][..], "it wants credentials, and none were given"),
        (
            "with a wrong one",
            Some(wrong.as_str()),
            &["--creds-stdin"][..],
            "the credentials are not accepted",
        ),
    ] {
        let mut command = daemon.typed(&words)?;
        command.args(more);
        let refused = match word {
            Some(word) => fed(command, word)?.0,
            None => said(&mut command)?,
        };
        let told = refused.out.contains("not repaired: ") && refused.out.contains(why);
        checks.that(
            &format!("--repair {what}: exit code 1, and why"),
            refused.code == Some(1) && told,
            format!("{} {}", refused.out, refused.err),
        );
        let same =
            std::fs::read(&file)? == bad && small.metadata()?.ino() == beside && layers(daemon)? == kept;
        checks.that("  nothing changed", same, format!("{:?}", layers(daemon)?));
    }

    let before = transfers(&registry, &id)?;
    let mut command = daemon.typed(&words)?;
    command.arg("--creds-stdin");
    let (mended, looks) = fed(command, &creds)?;
    checks.that(
        "--repair with it, by standard input: mended",
        mended.ok && mended.out.matches("repaired").count() == 1,
        format!("{} {}", mended.out, mended.err),
    );
    checks.that("  the file is as it was", std::fs::read(&file)? == good, "it is not");
    checks.note("  and so is everything", whole(daemon));
    let came: Vec<String> = transfers(&registry, &id)?.into_iter().skip(before.len()).collect();
    let alone = came.len() == 1 && small.metadata()?.ino() == beside;
    checks.that("  that layer alone was fetched", alone, came.join("; "));
    checks.that(
        &format!("  in {looks} looks at every process nobody's words had the password"),
        looks > 3,
        looks,
    );
    let log = std::fs::read_to_string(daemon.path("log"))?;
    checks.that("  nor has the log", !log.contains(PASSWORD), "it has");

    std::fs::write(&file, &bad)?;
    let mended = said(daemon.typed(&words)?.args(["--creds", &creds]))?;
    checks.that("--repair with --creds: mended", mended.ok && mended.out.contains("repaired"), mended.out);
    checks.that("  the file is as it was", std::fs::read(&file)? == good, "it is not");
    Client::connect(&daemon.socket()).await?.remove_image(&name).await
}

/// With this line as standard input, and how often every process was looked at meanwhile; one that shows the password is an error.
fn fed(mut command: Command, line: &str) -> Result<(Said, usize)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    writeln!(stdin, "{line}")?;
    drop(stdin);
    let mut looks = 0;
    while child.try_wait()?.is_none() {
        let shown = processes(|words| words.iter().any(|word| word.contains(PASSWORD)))?;
        ensure!(shown.is_empty(), "processes {shown:?} show the password");
        looks += 1;
    }
    let done = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    Ok((Said { ok: done.status.success(), code: done.status.code(), out, err }, looks))
}

/// The directory of the layer that has a file.
fn holding(top: &Path, name: &str) -> Result<PathBuf> {
    let layers: Vec<PathBuf> =
        std::fs::read_dir(top)?.map(|layer| Ok(layer?.path())).collect::<std::io::Result<_>>()?;
    let has = |layer: &PathBuf| layer.join("fs").join(name).exists();
    layers.into_iter().find(has).with_context(|| format!("no layer has {name}"))
}

/// Blobs that the registry gave, but for the configuration, whose digest the image's id is.
fn transfers(registry: &Registry, id: &str) -> Result<Vec<String>> {
    let given = |line: &String| {
        line.starts_with("GET ") && line.contains("/blobs/") && line.ends_with(" 200") && !line.contains(id)
    };
    let mut requests = registry.requests()?;
    requests.retain(given);
    Ok(requests)
}
