//! Images as a person handles them: pulled with bars at a terminal and lines in a pipe, listed, inspected, removed, pruned.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Said, Shell};
use crate::checks::{Checks, until};
use crate::daemon::{Daemon, IMAGE};
use crate::layers::proxy::{Proxy, Ways};
use crate::layers::write_big;
use crate::registry::{PASSWORD, Registry, USER};

/// Of an image's larger layer.
const BIG: usize = 6 << 20;
/// Bytes in a second: a layer takes so long that it is seen on its way.
const RATE: u64 = 4 << 20;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let shell = Shell(daemon);
    let registry = Registry::start(true).await?;
    let archive = daemon.path("big.tar");
    write_big(&archive, "x.test/big:1", BIG, 0)?;
    registry.push(&archive, "lane/big:1")?;
    let name = format!("{}/lane/big:1", registry.host());
    pipe(checks, &shell, &name)?;
    terminal(checks, &shell, &registry, &name).await?;
    shown(checks, &shell, &name)?;
    removed(checks, &shell, &name)?;
    pruned(checks, &shell, &archive)
}

pub(super) fn json(said: &Said) -> Value {
    serde_json::from_str(&said.text()).unwrap_or_default()
}

fn pipe(checks: &mut Checks, shell: &Shell<'_>, name: &str) -> Result<()> {
    let refused = shell.run(&["image", "pull", name])?;
    let holds = refused.code == Some(1) && refused.err.contains("image explain");
    checks.that("image pull: refused, with what tells more", holds, refused.all());
    let creds = format!("{USER}:{PASSWORD}");
    let said = shell.run(&["image", "pull", "--creds", &creds, name])?;
    let count = |word: &str| said.err.lines().filter(|line| line.contains(word)).count();
    let holds = count(": begins, ") == 2 && count(": done") == 2 && said.err.lines().count() == 5;
    checks.that("image pull in a pipe: a line where a layer begins and ends", holds, said.all());
    checks.that(
        "  and no more",
        !said.err.contains('\x1b') && said.text().starts_with("sha256:"),
        said.all(),
    );
    let said = shell.feed(&["pull", "--creds-stdin", name], format!("{creds}\n").into_bytes())?;
    let holds = said.code == Some(0) && said.err.matches(": there already").count() == 2;
    checks.that("pull with credentials from standard input: all is there", holds, said.all());
    let said = shell.run(&["pull", "--json", "--creds", &creds, name, "127.0.0.1:1/none:1"])?;
    let lines: Vec<Value> = said.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let holds = lines.len() == 2 && lines[0]["id"].is_string() && lines[1]["error"].is_string();
    checks.that(
        "  --json: an object for each, also for one that fails",
        holds && said.code == Some(1),
        said.all(),
    );
    let said = shell.run(&["image", "pull", "UPPER/x"])?;
    let holds = said.err.contains("image reference \"UPPER/x\"") && !said.err.contains("rpc");
    checks.that("  a name that is none, in plain words", holds, said.all());
    Ok(())
}

async fn terminal(checks: &mut Checks, shell: &Shell<'_>, registry: &Registry, name: &str) -> Result<()> {
    let creds = format!("{USER}:{PASSWORD}");
    shell.run(&["image", "remove", name])?;
    let proxy = Proxy::with(&registry.host(), u64::MAX, Ways { rate: Some(RATE), ..Ways::default() })?;
    let slow = format!("{}/lane/big:1", proxy.host());
    let mut pty = shell.at_terminal(&["image", "pull", "--creds", &creds, &slow])?;
    let code = pty.ended().await?;
    let seen = pty.seen();
    let holds = code == Some(0) && seen.contains("of 2 layers, ") && bar_went(&seen, "pulled ");
    checks.that("image pull at a terminal: bars, which go", holds, format!("{code:?} {seen:?}"));
    shell.run(&["image", "remove", &slow])?;

    // Stops in the middle of the larger layer.
    let proxy = Proxy::start(&registry.host(), 3 << 20, true)?;
    let slow = format!("{}/lane/big:1", proxy.host());
    let mut pty = shell.at_terminal(&["image", "pull", "--creds", USER, &slow])?;
    pty.expect("password of lane: ").await?;
    pty.send(&format!("{PASSWORD}\r"))?;
    pty.expect("[###").await?;
    checks.that("  a bar for a layer on its way", true, "");
    checks.that("  the password that was asked for is not shown", !pty.seen().contains(PASSWORD), pty.seen());
    pty.send("\x03")?;
    let code = pty.ended().await?;
    let holds = code == Some(130) && pty.seen().contains("the daemon goes on pulling");
    checks.that("  Ctrl-C ends it, and says who goes on", holds, format!("{code:?} {:?}", pty.seen()));
    let status = json(&shell.run(&["status", "--json"])?);
    let goes_on =
        status["pulls"].as_array().is_some_and(|pulls| pulls.iter().any(|pull| pull["reference"] == *slow));
    checks.that("  which is true", goes_on, &status["pulls"]);
    drop(proxy);
    until("the end of that pull", || {
        let said = shell.run(&["status", "--json"]);
        async move { Ok(json(&said?)["pulls"].as_array().is_some_and(Vec::is_empty).then_some(())) }
    })
    .await?;

    // A push that nobody waits for any more ends.
    let open = Registry::start(false).await?;
    let stopped = Proxy::start(&open.host(), 0, true)?;
    let to = format!("{}/lane/guest:1", stopped.host());
    let mut pty = shell.at_terminal(&["image", "push", IMAGE, &to])?;
    let pushes = |count: usize| {
        let said = shell.run(&["status", "--json"]);
        async move { Ok(json(&said?)["pushes"].as_array().is_some_and(|all| all.len() == count).then_some(())) }
    };
    until("the push", || pushes(1)).await?;
    pty.send("\x03")?;
    let code = pty.ended().await?;
    checks.that("  Ctrl-C ends a push by its signal", code.is_none(), format!("{code:?} {:?}", pty.seen()));
    checks.note("  and what it began ends with it", until("the end of the push", || pushes(0)).await);
    drop(stopped);
    let slow = Proxy::with(&open.host(), u64::MAX, Ways { asked_rate: Some(RATE), ..Ways::default() })?;
    let mut pty = shell.at_terminal(&["image", "push", IMAGE, &format!("{}/lane/guest:1", slow.host())])?;
    let code = pty.ended().await?;
    let seen = pty.seen();
    let holds = code == Some(0) && seen.contains("of 2 layers, ") && bar_went(&seen, "2 of 2 layers sent");
    checks.that("image push at a terminal: bars, and what was sent", holds, format!("{code:?} {seen:?}"));
    let to = format!("{}/lane/guest:1", open.host());
    let said = shell.run(&["image", "push", IMAGE, &to])?;
    let holds =
        said.err.matches(": there already").count() == 2 && said.text().contains("0 of 2 layers sent");
    checks.that("  in a pipe: lines", holds, said.all());
    shell.run(&["pull", "--creds", &creds, name])?;
    Ok(())
}

/// A bar was drawn, then all of them were taken away, then this was said.
fn bar_went(seen: &str, said: &str) -> bool {
    // Back to the first row and everything below cleared, without anything drawn between.
    let (bar, gone, said) = (seen.rfind("  [#"), seen.rfind("A\x1b[J"), seen.rfind(said));
    bar.is_some() && bar < gone && gone < said
}

fn shown(checks: &mut Checks, shell: &Shell<'_>, name: &str) -> Result<()> {
    let run = shell.run(&["run", "-d", "--name", "user", IMAGE, "pause"])?;
    let list = shell.run(&["image", "list"])?;
    let line = list.text().lines().find(|line| line.contains(IMAGE)).unwrap_or_default().to_owned();
    checks.that("image list: who uses it", run.code == Some(0) && line.ends_with("user"), list.all());
    let short = shell.run(&["images"])?;
    checks.that("  images is the same", short.out == list.out, short.all());
    let digests = shell.run(&["image", "ls", "--digests", "big"])?;
    let holds = digests.text().lines().count() == 2 && digests.text().contains(" sha256:");
    checks.that("  by a part of its name, with its digest", holds, digests.all());
    let used = shell.run(&["image", "list", "-q", "-f", "used"])?;
    let unused = shell.run(&["image", "list", "-q", "--filter", "unused", "127.0.0.1:*/lane/*"])?;
    let holds =
        used.text().lines().count() == 1 && unused.text().lines().count() == 1 && used.out != unused.out;
    checks.that("  by filters", holds, format!("{} {}", used.all(), unused.all()));
    let listed = json(&shell.run(&["image", "list", "--json"])?);
    let one = listed.as_array().and_then(|all| all.iter().find(|one| one["names"][0] == *IMAGE)).cloned();
    let one = one.unwrap_or_default();
    let holds = one["used_by"][0] == "user" && one["bytes"].as_u64().is_some() && one["pinned"] == false;
    checks.that("  --json", holds, &listed);
    let found = shell.run(&["image", "inspect", name])?;
    let lines = ["names", "digests", "registries", "layers (2)", "command", "[\"/none\"]"];
    let holds = lines.iter().all(|line| found.text().contains(line));
    checks.that("image inspect", found.code == Some(0) && holds, found.all());
    let found = json(&shell.run(&["image", "inspect", "--json", IMAGE, name])?);
    let user = &found[0]["used_by"][0];
    let holds = user["name"] == "user" && user["id"].as_str().is_some_and(|id| id.len() == 64);
    let holds = holds && found[0]["config"]["rootfs"]["diff_ids"][0] == found[0]["layers"][0]["diff_id"];
    checks.that(
        "  --json: of several, with the configuration as it is",
        holds && found[1]["layers"][1]["bytes"].as_u64() > Some(BIG as u64),
        &found,
    );
    Ok(())
}

fn removed(checks: &mut Checks, shell: &Shell<'_>, name: &str) -> Result<()> {
    let said = shell.run(&["image", "remove", IMAGE, "nobody", name])?;
    let holds = said.code == Some(1)
        && said.err.contains("is used by user")
        && said.err.contains("no image \"nobody\"");
    checks.that("image remove: what is used stays, what is not there is told", holds, said.all());
    checks.that("  and the others go all the same", said.text().lines().count() == 1, said.all());
    let said = shell.run(&["image", "rm", IMAGE])?;
    checks.that("  with what to do", said.err.contains("--force"), said.all());
    let archive = shell.0.path("image.tar").display().to_string();
    let said = shell.run(&["image", "rm", "-f", "--json", IMAGE])?;
    let runs = shell.run(&["exec", "user", "/guest", "echo", "on"])?;
    let holds = json(&said)["id"].is_string() && runs.text() == "on\n";
    checks.that("  --force: its container goes on", holds, format!("{} {}", said.all(), runs.all()));
    let back = shell.run(&["image", "import", &archive])?;
    checks.that("  and it comes back by import", back.text().contains(IMAGE), back.all());
    Ok(())
}

fn pruned(checks: &mut Checks, shell: &Shell<'_>, archive: &std::path::Path) -> Result<()> {
    shell.run(&["image", "import", &archive.display().to_string()])?;
    let would = json(&shell.run(&["image", "prune", "--dry-run", "--json"])?);
    let there = shell.run(&["image", "list", "-q", "x.test/big:1"])?;
    let holds = would["images"][0]["names"][0] == "x.test/big:1" && !there.out.is_empty();
    checks.that("image prune --dry-run: what would go, which stays", holds, &would);
    let bytes = |shell: &Shell<'_>| -> Result<u64> {
        json(&shell.run(&["status", "--json"])?)["images"]["bytes"].as_u64().context("bytes of images")
    };
    let before = bytes(shell)?;
    let said = shell.run(&["image", "prune"])?;
    let holds = said.text().contains("removed: x.test/big:1") && said.text().contains("came free");
    checks.that("image prune", said.code == Some(0) && holds, said.all());
    let freed = before - bytes(shell)?;
    checks.that("  frees what it said", would["bytes"].as_u64() == Some(freed) && freed > BIG as u64, freed);
    let kept = shell.run(&["image", "list", "-q", IMAGE])?;
    checks.that("  and what a container uses stays", !kept.out.is_empty(), kept.all());
    let said = shell.run(&["rm", "-f", "user"])?;
    checks.that("  rm", said.code == Some(0), said.all());
    let help = shell.command(&["image", "--help"])?.stdin(Stdio::null()).output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let verbs = [
        "pull", "push", "import", "export", "tag", "list", "remove", "verify", "inspect", "prune", "explain",
    ];
    let named = verbs.iter().all(|verb| help.contains(&format!("\n  {verb} ")));
    checks.that("image --help names every verb, on one screen", named && help.lines().count() < 40, help);
    Ok(())
}
