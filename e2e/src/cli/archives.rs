//! Archives as a person brings and takes them: bars at a terminal, lines in a pipe, objects for programs; and an end with
//! whoever asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Shell;
use super::images::json;
use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::daemon::Daemon;
use crate::layers::write_big;

const NAME: &str = "x.test/archived:1";
/// Of its larger layer.
const BIG: usize = 6 << 20;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let shell = Shell(daemon);
    let before = Footprint::take(daemon)?;
    let archive = daemon.path("archived.tar");
    write_big(&archive, NAME, BIG, 0)?;
    imported(checks, &shell, &archive).await?;
    exported(checks, &shell, daemon).await?;
    ended(checks, &shell, daemon, &archive).await?;
    shell.run(&["image", "remove", NAME])?;
    checks.note("of all that nothing is left", given_back(daemon, &before).await);
    Ok(())
}

async fn imported(checks: &mut Checks, shell: &Shell<'_>, archive: &Path) -> Result<()> {
    let path = archive.display().to_string();
    let said = shell.run(&["image", "import", &path])?;
    let count = |word: &str| said.err.lines().filter(|line| line.contains(word)).count();
    let holds = count(": begins, ") == 2 && count(": done") == 2 && said.err.lines().count() == 4;
    checks.that("image import in a pipe: a line where a layer begins and ends", holds, said.all());
    let holds = said.text().starts_with("sha256:") && said.text().trim_end().ends_with(NAME);
    checks.that("  and what came", holds, said.all());
    let none = "/no/such.tar";
    let said = shell.run(&["image", "import", "--json", none, &path])?;
    let lines: Vec<Value> = said.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(lines.len() == 2, "{}", said.all());
    let holds = lines[0]["error"].as_str().is_some_and(|text| text.contains(none));
    let holds = holds && lines[1]["archive"] == *path && lines[1]["images"][0]["names"][0] == NAME;
    checks.that("  --json: an object for each; one that fails does not keep the others", holds, said.all());
    let holds = said.code == Some(1) && said.err.lines().count() == 1;
    checks.that("  with exit code 1 and no progress", holds, said.all());
    shell.run(&["image", "remove", NAME])?;
    let mut pty = shell.at_terminal(&["image", "import", &path])?;
    let code = pty.ended().await?;
    let seen = pty.seen();
    let holds = code == Some(0) && seen.contains("2 of 2 layers, ") && seen.contains("\x1b[J");
    checks.that("image import at a terminal: bars, which go", holds, format!("{code:?} {seen:?}"));
    Ok(())
}

async fn exported(checks: &mut Checks, shell: &Shell<'_>, daemon: &Daemon) -> Result<()> {
    let out = daemon.path("out.tar");
    let to = out.display().to_string();
    let said = shell.run(&["image", "export", NAME, "-o", &to])?;
    let begun = said.err.lines().filter(|line| line.contains(": begins, ")).count();
    let holds = begun == 2 && said.err.matches(": done").count() == 2 && said.text().contains("2 layers, ");
    checks.that("image export in a pipe: lines, and what it wrote", holds, said.all());
    let size = out.metadata()?.len();
    let said = shell.run(&["image", "export", "--json", NAME, "-o", &to])?;
    let found = json(&said);
    let holds = found["bytes"] == size && found["layers"] == 2 && found["images"][0]["names"][0] == NAME;
    checks.that("  --json: an object about it", holds && said.err.is_empty(), said.all());
    let said = shell.run(&["image", "export", "--json", NAME, "-o", "-"])?;
    checks.that("  which does not go where the archive goes", said.code == Some(64), said.all());
    let said = shell.run(&["image", "export", NAME, "-o", "-"])?;
    let same = said.out == std::fs::read(&out)?;
    checks.that("  to a pipe: the same bytes, progress beside it", same && !said.err.is_empty(), said.err);
    let mut pty = shell.at_terminal(&["image", "export", NAME, "-o", &to])?;
    let code = pty.ended().await?;
    let holds =
        code == Some(0) && pty.seen().contains("2 of 2 layers, ") && pty.seen().contains("2 layers, ");
    checks.that("image export at a terminal: bars", holds, format!("{code:?} {:?}", pty.seen()));
    std::fs::remove_file(out)?;
    Ok(())
}

/// Who asked goes in the middle.
async fn ended(checks: &mut Checks, shell: &Shell<'_>, daemon: &Daemon, archive: &Path) -> Result<()> {
    shell.run(&["image", "remove", NAME])?;
    let before = Footprint::take(daemon)?;
    let mut squeezed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::open(archive)?, &mut squeezed)?;
    let squeezed = squeezed.finish()?;
    let going = |what: &'static str, wanted: fn(&Value) -> bool| {
        until(what, move || {
            let said = shell.run(&["status", "--json"]);
            async move {
                let status = json(&said?);
                Ok(wanted(&status).then_some(()))
            }
        })
    };
    let mut command = shell.command(&["image", "import", "-"])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    // Half of it, and then nothing more.
    input.write_all(&squeezed[..squeezed.len() / 2])?;
    going("the import", |status| {
        let part = &status["imports"][0]["parts"][0];
        part["state"] == "copying" && part["bytes_done"].as_u64() > Some(0)
    })
    .await?;
    let shown = shell.run(&["status"])?;
    let holds = shown.text().contains("imports (1)") && !shown.text().contains("bytes_done\":");
    checks.that("status shows an import, without its parts", holds, shown.all());
    let mut said = String::new();
    BufReader::new(child.stderr.take().context("its errors")?).read_line(&mut said)?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    child.wait()?;
    checks.that("an import by a pipe says that it is copied", said.contains("archive: is copied"), &said);
    // The daemon is in the middle of a read: it learns of it with the next bytes, or the pipe's end.
    drop(input);
    let over = going("its end", |status| status["imports"].as_array().is_some_and(Vec::is_empty)).await;
    checks.note("  and ends with its client", over);
    checks.note("  of which nothing is left", given_back(daemon, &before).await);

    daemon.import_file(archive)?;
    // A pipe that nobody reads is full at once.
    let (mut unread, out) = std::io::pipe()?;
    let mut command = shell.command(&["image", "export", NAME, "-o", "-"])?;
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn()?;
    drop(command);
    going("the export", |status| {
        status["exports"][0]["parts"]
            .as_array()
            .is_some_and(|parts| parts.iter().any(|part| part["state"] == "moving"))
    })
    .await?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    child.wait()?;
    let over = going("its end", |status| status["exports"].as_array().is_some_and(Vec::is_empty)).await;
    checks.note("an export to a pipe that nobody reads ends with its client", over);
    // What was on its way, and no more.
    let mut rest = Vec::new();
    unread.read_to_end(&mut rest)?;
    let few = rest.len() < BIG / 2;
    checks.that("an export goes no further without its client", few, format!("{} bytes", rest.len()));
    interrupted(checks, shell, daemon)
}

/// Ctrl-C in an export to a file: stopped by a fifo in the file's place, which the client opens as it would the file.
fn interrupted(checks: &mut Checks, shell: &Shell<'_>, daemon: &Daemon) -> Result<()> {
    let home = daemon.path("interrupted");
    std::fs::create_dir(&home)?;
    let (to, beside) = (home.join("out.tar"), home.join("out.tar.part"));
    nix::unistd::mkfifo(&beside, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    // Read and write: neither side waits for the other to open it, and nobody reads.
    let held = std::fs::File::options().read(true).write(true).open(&beside)?;
    let mut command = shell.command(&["image", "export", NAME, "-o", &to.display().to_string()])?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut said = String::new();
    BufReader::new(child.stderr.take().context("its errors")?).read_line(&mut said)?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    let status = child.wait()?;
    let left: Vec<_> = std::fs::read_dir(&home)?.collect::<std::io::Result<_>>()?;
    let holds = left.is_empty() && std::os::unix::process::ExitStatusExt::signal(&status) == Some(2);
    checks.that(
        "Ctrl-C in an export to a file: nothing is left of it",
        holds,
        format!("{said} {status} {left:?}"),
    );
    drop(held);
    Ok(())
}
