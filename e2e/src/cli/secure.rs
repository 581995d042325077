//! A streaming server behind TLS that asks who comes.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Shell;
use crate::certificates::Authority;
use crate::checks::{Checks, until};
use crate::daemon::{Daemon, IMAGE};

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let home = daemon.path("tls");
    std::fs::create_dir(&home)?;
    let (ours, others) = (Authority::new(&home, "ca")?, Authority::new(&home, "other-ca")?);
    let server = ours.sign(&home, "server", "127.0.0.1")?;
    let client = ours.sign(&home, "client", "person")?;
    let stranger = others.sign(&home, "stranger", "person")?;
    let former = std::mem::take(&mut daemon.flags);
    daemon.flags =
        [former.clone(), flags("streaming-tls", &server), flag("streaming-tls-client-ca", &ours.file)]
            .concat();
    daemon.kill()?;
    daemon.start().await?;

    let pinned = [flags("streaming-tls", &server), flags("client-tls", &client)].concat();
    let said = typed(daemon, &["run", "--rm", IMAGE, "echo", "sealed"], &pinned).await?;
    let holds = said.code == Some(0) && said.text() == "sealed\n";
    checks.that("TLS: run, which trusts the node's own certificate", holds, said.all());
    let signed = [flag("client-tls-ca", &ours.file), flags("client-tls", &client)].concat();
    let said = typed(daemon, &["run", "-d", "--name", "sealed", IMAGE, "pause"], &signed).await?;
    checks.that("  run -d", said.code == Some(0), said.all());
    let said = typed(daemon, &["exec", "sealed", "/guest", "exit", "9"], &signed).await?;
    checks.that("  exec, which trusts who signed it", said.code == Some(9), said.all());
    let much = vec![b'x'; 300_000];
    let command = Shell(daemon).words(&["exec", "-i", "sealed", "/guest", "stdin"], &signed);
    let said = Shell(daemon).feed(&words(&command), much)?;
    checks.that("  exec -i: the end of much input arrives", said.text() == "300000 bytes\n", said.all());

    // A new certificate while somebody is connected.
    let talk = Shell(daemon).words(&["exec", "-it", "sealed", "/guest", "talk"], &pinned);
    let mut pty = Shell(daemon).at_terminal(&words(&talk))?;
    pty.expect("a terminal").await?;
    let next = ours.sign(&home, "next", "127.0.0.1")?;
    std::fs::rename(&next.1, &server.1)?;
    std::fs::rename(&next.0, &server.0)?;
    // What is pinned is the file's new content: the server answers with it from then on.
    let renewed = until("the new certificate", || {
        let said = typed(daemon, &["exec", "sealed", "/guest", "echo", "renewed"], &pinned);
        async move { Ok((said.await?.text() == "renewed\n").then_some(())) }
    });
    checks.note(
        "  a changed certificate is shown to new clients",
        renewed.await.map_err(|error| format!("{error:#}")),
    );
    pty.send("still\r")?;
    let there = pty.expect("said still").await;
    pty.send("exit 4\r")?;
    let code = pty.ended().await?;
    checks.that(
        "  and the stream from before goes on",
        there.is_ok() && code == Some(4),
        format!("{code:?} {}", pty.seen()),
    );

    for (what, flags, problem) in [
        ("nothing is trusted", flags("client-tls", &client), "client.tls_ca"),
        (
            "another authority is trusted",
            [flag("client-tls-ca", &others.file), flags("client-tls", &client)].concat(),
            "certificate",
        ),
        (
            "a stranger's certificate is shown",
            [flag("client-tls-ca", &ours.file), flags("client-tls", &stranger)].concat(),
            "",
        ),
        ("no certificate is shown", flag("client-tls-ca", &ours.file), ""),
        (
            "the server has another certificate than told",
            [flags("streaming-tls", &client), flags("client-tls", &client)].concat(),
            "another certificate",
        ),
    ] {
        let said = typed(daemon, &["exec", "sealed", "/guest", "true"], &flags).await?;
        let holds = said.code == Some(125) && said.err.contains("stream") && said.err.contains(problem);
        checks.that(&format!("  refused: {what}"), holds, said.all());
    }
    let said = typed(daemon, &["rm", "-f", "sealed"], &[]).await?;
    checks.that("  rm -f", said.code == Some(0), said.all());
    daemon.flags = former;
    daemon.kill()?;
    daemon.start().await?;
    Ok(())
}

fn flag(name: &str, file: &Path) -> Vec<String> {
    vec![format!("--{name}"), file.display().to_string()]
}

fn flags(name: &str, (certificate, key): &(PathBuf, PathBuf)) -> Vec<String> {
    [flag(&format!("{name}-cert"), certificate), flag(&format!("{name}-key"), key)].concat()
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

async fn typed(daemon: &Daemon, command: &[&str], settings: &[String]) -> Result<super::Said> {
    let all = Shell(daemon).words(command, settings);
    Shell(daemon).run(&words(&all))
}

impl Shell<'_> {
    /// The verb, the settings, and the rest.
    fn words(&self, command: &[&str], settings: &[String]) -> Vec<String> {
        let verb = command.iter().take(1).map(|word| (*word).to_owned());
        let rest = command.iter().skip(1).map(|word| (*word).to_owned());
        verb.chain(settings.iter().cloned()).chain(rest).collect()
    }
}
