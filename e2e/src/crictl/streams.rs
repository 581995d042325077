//! What a person types at a terminal: exec -it, attach, port-forward.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use super::Crictl;
use crate::checks::Checks;
use crate::pty::Pty;

/// `id`: a container that writes lines for ever, in the sandbox `pod`.
pub(super) async fn run(checks: &mut Checks, crictl: &Crictl, pod: &str, id: &str) -> Result<()> {
    let typed = exec(crictl, id).await;
    checks.note("exec -it: a terminal, its size and another, the exit code", told(typed));
    let attached = attach(crictl, id).await;
    checks.note("attach: lines from now on; leaving it leaves the container alone", told(attached));
    let still = crictl.run(&["ps", "-q", "--id", id])?;
    checks.that("  it runs on", still.ok && still.out.contains(&id[..12]), &still.out);
    let (served, forwarded) = (start(crictl, &["exec", "-i", id, "/guest", "tcp", "7000"])?, pod.to_owned());
    let forwarding = start(crictl, &["port-forward", &forwarded, ":7000"])?;
    let echoed = tokio::task::spawn_blocking(move || forward(served, forwarding)).await?;
    checks.note("exec -i serves, port-forward reaches it, half-closed", told(echoed));
    Ok(())
}

fn told(result: Result<()>) -> Result<(), String> {
    result.map_err(|error| format!("{error:#}"))
}

async fn exec(crictl: &Crictl, id: &str) -> Result<()> {
    let mut terminal = Pty::start(&crictl.command(&["exec", "-it", id, "/guest", "talk"]), 91, 31)?;
    terminal.expect("a terminal").await?;
    sized(&mut terminal, "size 91 31").await?;
    terminal.resize(120, 50)?;
    sized(&mut terminal, "size 120 50").await?;
    terminal.send("exit 5\r")?;
    let code = terminal.ended().await?;
    anyhow::ensure!(code.is_some_and(|code| code != 0), "ended with {code:?}: {:?}", terminal.seen());
    anyhow::ensure!(
        terminal.modes()? == terminal.before,
        "the terminal is left as it was set for the command"
    );
    Ok(())
}

/// Asks until the size is this one: it travels beside the question.
async fn sized(terminal: &mut Pty, wanted: &str) -> Result<()> {
    for _ in 0..200 {
        let before = terminal.seen().matches("size ").count();
        terminal.send("size\r")?;
        crate::checks::until("an answer", || {
            let answered = terminal.seen().matches("size ").count() > before;
            async move { Ok(answered.then_some(())) }
        })
        .await?;
        if terminal.seen().contains(wanted) {
            return Ok(());
        }
    }
    anyhow::bail!("{wanted:?} never came: {:?}", terminal.seen())
}

async fn attach(crictl: &Crictl, id: &str) -> Result<()> {
    // It does not hear ^C: whoever leaves kills it.
    Pty::start(&crictl.command(&["attach", id]), 80, 24)?.expect("line ").await
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It runs up to here, unless it has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(crictl: &Crictl, words: &[&str]) -> Result<Running> {
    let mut command = crictl.command(words);
    Ok(Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?))
}

/// Waits for a line with this in it.
fn line(of: &mut Running, part: &str) -> Result<String> {
    let output = of.0.stdout.as_mut().context("a pipe")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.contains(part) {
            return Ok(line);
        }
    }
    anyhow::bail!("it never said {part:?}")
}

fn forward(mut served: Running, mut forwarding: Running) -> Result<()> {
    line(&mut served, "listening")?;
    let said = line(&mut forwarding, "127.0.0.1:")?;
    let port = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next());
    let port: u16 = port.context("a port")?.parse().with_context(|| said.clone())?;
    for word in ["once", "and again"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(word.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer == word, "{word:?} came back as {answer:?}");
    }
    Ok(())
}
