//! What a person types on a node without a kubelet, at a terminal and in a script.

mod archives;
mod door;
mod images;
mod secure;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::{Daemon, IMAGE};
use crate::pty::{Pty, Running, ended};

struct Said {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn all(&self) -> String {
        format!("{:?} {:?} {:?}", self.code, self.text(), self.err)
    }
}

struct Shell<'a>(&'a Daemon);

impl Shell<'_> {
    fn command(&self, words: &[&str]) -> Result<Command> {
        self.0.typed(words)
    }

    fn run(&self, words: &[&str]) -> Result<Said> {
        let done = self.command(words)?.stdin(Stdio::null()).output()?;
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok(Said { code: done.status.code(), out: done.stdout, err })
    }

    /// With this as standard input.
    fn feed(&self, words: &[&str], input: Vec<u8>) -> Result<Said> {
        let mut command = self.command(words)?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("its input")?;
        let feeding = std::thread::spawn(move || stdin.write_all(&input));
        let done = child.wait_with_output()?;
        // It may have ended before it had read all.
        let _ = feeding.join();
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok(Said { code: done.status.code(), out: done.stdout, err })
    }

    fn at_terminal(&self, words: &[&str]) -> Result<Pty> {
        Pty::start(&self.command(words)?, 100, 30)
    }

    fn in_background(&self, words: &[&str]) -> Result<Running> {
        let mut command = self.command(words)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        Ok(Running(child))
    }
}

/// What a machine without a registry's program is asked for.
pub(crate) const NO_REGISTRY: &str = "no-registry";

/// `part`: [`NO_REGISTRY`], or all of it.
pub(crate) async fn lane(checks: &mut Checks, part: Option<&str>) -> Result<()> {
    anyhow::ensure!(
        part.is_none_or(|part| part == NO_REGISTRY),
        "cli has one part of its own: {NO_REGISTRY}"
    );
    let mut daemon = Daemon::new().await?;
    let done = all(checks, &mut daemon, part.is_none()).await;
    daemon.finish(done).await
}

async fn all(checks: &mut Checks, daemon: &mut Daemon, registry: bool) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = Footprint::take(daemon)?;
    let shell = Shell(daemon);
    script(checks, &shell)?;
    input_and_output(checks, daemon, &shell)?;
    terminal(checks, &shell).await?;
    signals(checks, &shell, &mut client).await?;
    service(checks, &shell, &mut client).await?;
    exec(checks, &shell, &mut client).await?;
    mistakes(checks, &shell)?;
    archives::run(checks, daemon).await?;
    door::run(checks, daemon).await?;
    if registry {
        images::run(checks, daemon).await?;
    }
    restart(checks, daemon).await?;
    secure::run(checks, daemon).await?;
    let shell = Shell(daemon);
    let left = shell.run(&["ps", "-a", "-q"])?;
    checks.that("ps -a: nothing is left", left.code == Some(0) && left.out.is_empty(), left.all());
    checks.that("nor a log", !daemon.path("root/run-logs").exists(), "run-logs");
    checks.note("no directory, row or descriptor is left", given_back(daemon, &before).await);
    Ok(())
}

/// One command after the other, as in a script.
fn script(checks: &mut Checks, shell: &Shell<'_>) -> Result<()> {
    let said = shell.run(&["images"])?;
    checks.that("images", said.code == Some(0) && said.text().contains(IMAGE), said.all());
    let said = shell.run(&["run", "--rm", IMAGE, "echo", "hello", "--world"])?;
    let holds = said.code == Some(0) && said.text() == "hello --world\n" && said.err.is_empty();
    checks.that("run --rm: its output, and nothing else", holds, said.all());
    let said = shell.run(&["run", "--rm", IMAGE, "complain", "oh"])?;
    let holds = said.code == Some(0) && said.out.is_empty() && said.err == "oh\n";
    checks.that("  its errors apart", holds, said.all());
    let said = shell.run(&["run", "--rm", IMAGE, "exit", "7"])?;
    checks.that("  its exit code", said.code == Some(7), said.all());
    let words =
        ["run", "--rm", "-e", "A=b c", "-w", "/etc", "-u", "33:50", "--hostname", "here", IMAGE, "env"];
    let said = shell.run(&words)?;
    checks.that("  its environment", said.text().contains("A=b c\n"), said.all());
    let said = shell.run(&["run", "--rm", "-w", "/etc", IMAGE, "cwd"])?;
    checks.that("  its working directory", said.text() == "/etc\n", said.all());
    let said = shell.run(&["run", "--rm", "-m", "32m", "--cpus", "0.5", IMAGE, "alloc", "200"])?;
    let holds = said.code == Some(137) && said.err.contains("used all the memory");
    checks.that("  its limit, told from any other end", holds, said.all());
    let said = shell.run(&["run", "--rm", "--entrypoint", "/no/such", IMAGE])?;
    let holds = said.code == Some(125) && said.err.contains("/no/such");
    checks.that("  a program that is not there: 125", holds, said.all());
    Ok(())
}

fn input_and_output(checks: &mut Checks, daemon: &Daemon, shell: &Shell<'_>) -> Result<()> {
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let said = shell.feed(&["run", "-i", "--rm", IMAGE, "copy"], data.clone())?;
    checks.that(
        "run -i: 8 MiB through it, intact",
        said.code == Some(0) && said.out == data,
        format!("{:?}, {} bytes, {}", said.code, said.out.len(), said.err),
    );
    let large = daemon.path("large");
    std::fs::create_dir_all(&large)?;
    std::fs::write(large.join("file"), data.repeat(4))?;
    let volume = format!("{}:/data:ro", large.display());
    let said = shell.run(&["run", "--rm", "-v", &volume, IMAGE, "cat", "/data/file"])?;
    checks.that(
        "run -v: 32 MiB of output at once, all of it",
        said.out == data.repeat(4),
        format!("{:?}, {} bytes, {}", said.code, said.out.len(), said.err),
    );
    let said = shell.run(&["run", "--rm", "-v", &volume, IMAGE, "write", "/data/new", "x"])?;
    checks.that("  ro is read-only", said.code == Some(1) && said.err.contains("Read-only"), said.all());
    std::fs::remove_dir_all(&large)?;
    Ok(())
}

async fn terminal(checks: &mut Checks, shell: &Shell<'_>) -> Result<()> {
    let mut pty = shell.at_terminal(&["run", "-it", "--rm", IMAGE, "talk"])?;
    let cooked = pty.before.clone();
    pty.expect("a terminal\r\n").await?;
    checks.that("run -it: a terminal, shown from its first line on", true, "");
    checks.that("  with every key for the program", pty.modes()? != cooked, pty.modes()?);
    pty.send("size\r")?;
    pty.expect("size 100 30\r\n").await?;
    pty.resize(120, 40)?;
    // The size travels on its own: asked until it is there.
    until("the new size", || async {
        let seen = pty.seen().contains("size 120 40");
        if !seen {
            pty.keys().write_all(b"size\r")?;
        }
        Ok(seen.then_some(()))
    })
    .await?;
    checks.that("  of our size, and of our new size", true, "");
    pty.send("exit 5\r")?;
    let code = pty.ended().await?;
    checks.that("  ends with its code", code == Some(5), format!("{code:?} {}", pty.seen()));
    checks.that("  and the terminal is as before", pty.modes()? == cooked, pty.modes()?);

    let mut pty = shell.at_terminal(&["run", "-it", "--name", "kept", IMAGE, "talk"])?;
    pty.expect("a terminal").await?;
    pty.send("\x10\x11")?;
    let code = pty.ended().await?;
    let holds = code == Some(0) && pty.seen().contains("berth attach kept");
    checks.that("Ctrl-P Ctrl-Q leaves it running", holds, format!("{code:?} {}", pty.seen()));
    checks.that("  and the terminal is as before", pty.modes()? == cooked, pty.modes()?);
    let said = shell.run(&["ps"])?;
    checks.that("  ps shows it", said.text().contains("kept") && said.text().contains("running"), said.all());
    let mut pty = shell.at_terminal(&["attach", "kept"])?;
    until("the attach", || async {
        let seen = pty.seen().contains("said again");
        if !seen {
            pty.keys().write_all(b"again\r")?;
        }
        Ok(seen.then_some(()))
    })
    .await?;
    pty.send("exit 3\r")?;
    let code = pty.ended().await?;
    checks.that("  attach comes back to it", code == Some(3), format!("{code:?} {}", pty.seen()));
    let said = shell.run(&["logs", "kept"])?;
    checks.that("  logs has all of it", said.text().contains("a terminal"), said.all());
    let said = shell.run(&["rm", "kept"])?;
    checks.that("  rm", said.code == Some(0), said.all());
    Ok(())
}

async fn signals(checks: &mut Checks, shell: &Shell<'_>, client: &mut Client) -> Result<()> {
    let mut pausing = shell.in_background(&["run", "--rm", "--name", "pausing", IMAGE, "pause"])?;
    running(client, "pausing").await?;
    pausing.signal(Signal::SIGTERM)?;
    let code = ended(&mut pausing.0).await?;
    checks.that("SIGTERM goes to the program, whose end is ours", code == Some(0), format!("{code:?}"));
    let mut deaf = shell.in_background(&["run", "--rm", "--name", "deaf", IMAGE, "sleep", "1000"])?;
    running(client, "deaf").await?;
    // A first process hears no signal that it does not ask for.
    until("the end of the deaf one", || {
        let signalled = deaf.signal(Signal::SIGINT);
        let over = deaf.0.try_wait().map(|status| status.map(|status| status.code()));
        async move {
            signalled?;
            Ok(over?)
        }
    })
    .await
    .map(|code| {
        checks.that("one who is asked three times in vain is killed", code == Some(137), format!("{code:?}"))
    })?;
    let killed = shell.in_background(&["run", "--rm", "--name", "left", IMAGE, "count", "1"])?;
    let id = running(client, "left").await?;
    drop(killed);
    let config = client.pod_of(&id).await?;
    checks.that(
        "--rm holds also when the client is killed: its pod goes with it",
        config.annotations.get("berth.remove-after").is_some_and(|after| after == "60"),
        format!("{config:?}"),
    );
    // Not waited for here: a minute.
    shell.run(&["rm", "-f", "left"])?;
    let mut unread = shell.in_background(&["run", "--rm", "--name", "unread", IMAGE, "count", "1"])?;
    running(client, "unread").await?;
    drop(unread.0.stdout.take());
    ended(&mut unread.0).await?;
    let said = shell.run(&["ps", "-a", "-q"])?;
    checks.that("one whose output nobody reads is ended", said.out.is_empty(), said.all());
    Ok(())
}

/// Waits until `run` has started it.
async fn running(client: &mut Client, name: &str) -> Result<String> {
    until(&format!("{name} to run"), || {
        let mut client = client.clone();
        async move { client.running(name).await }
    })
    .await
}

async fn service(checks: &mut Checks, shell: &Shell<'_>, client: &mut Client) -> Result<()> {
    // A port that is free now; nobody else takes it in this lane.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let publish = format!("127.0.0.1:{port}:80");
    let words = [
        "run", "-d", "--name", "web", "-p", &publish, "-m", "64m", "--cpus", "0.5", IMAGE, "http", "80",
        "word",
    ];
    let said = shell.run(&words)?;
    let id = said.text().trim().to_owned();
    checks.that("run -d: its id", said.code == Some(0) && id.len() == 64, said.all());
    let answer =
        until(
            "the service",
            || async move { Ok(get(port).await.ok().filter(|answer| answer.contains("word"))) },
        )
        .await;
    checks.note("  -p: answers on the host", answer.map(drop));
    let status = client.status(&id).await?;
    let limits = status.resources.and_then(|resources| resources.linux).unwrap_or_default();
    checks.that(
        "  -m and --cpus hold",
        limits.memory_limit_in_bytes == 64 << 20 && limits.cpu_quota == 50_000,
        format!("{limits:?}"),
    );
    let said = shell.run(&["run", "-d", "--name", "web", IMAGE])?;
    checks.that("  its name is taken: 125", said.code == Some(125) && said.err.contains("taken"), said.all());
    let said = shell.run(&["rm", "web"])?;
    checks.that(
        "  rm of what runs says what to do",
        said.code == Some(1) && said.err.contains("--force"),
        said.all(),
    );
    let said = shell.run(&["stop", "-t", "1", "web"])?;
    checks.that("  stop", said.code == Some(0), said.all());
    let said = shell.run(&["ps", "-a"])?;
    checks.that("  ps -a shows its end", said.text().contains("exited (137)"), said.all());
    checks.that("  its port is free again", TcpListener::bind(("127.0.0.1", port)).is_ok(), port);
    let said = shell.run(&["rm", &id[..8]])?;
    checks.that("  rm by the beginning of its id", said.code == Some(0), said.all());

    let said = shell.run(&["run", "-d", "--rm", "--name", "brief", IMAGE, "echo", "gone"])?;
    checks.that("run -d --rm", said.code == Some(0), said.all());
    let gone = until("it to be gone", || {
        let said = shell.run(&["ps", "-a", "-q"]);
        async move { Ok(said?.out.is_empty().then_some(())) }
    })
    .await;
    checks.note("  is gone with its end", gone);

    let said = shell.run(&["run", "-d", "--name", "counts", IMAGE, "count", "20"])?;
    checks.that("run -d of one that writes", said.code == Some(0), said.all());
    let mut following = shell.in_background(&["logs", "-f", "counts"])?;
    until("some lines", || {
        let said = shell.run(&["logs", "--tail", "2", "counts"]);
        async move { Ok((said?.text().lines().count() == 2).then_some(())) }
    })
    .await?;
    shell.run(&["stop", "-t", "0", "counts"])?;
    let code = ended(&mut following.0).await?;
    let mut text = String::new();
    if let Some(mut out) = following.0.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut text)?;
    }
    let all = shell.run(&["logs", "counts"])?.text();
    let holds = code == Some(0) && text == all && text.starts_with("line 0\nline 1\n");
    checks.that("  logs -f ends with it, and has it all", holds, format!("{code:?} {text} / {all}"));
    let said = shell.run(&["rm", "-f", "counts"])?;
    checks.that("  rm -f", said.code == Some(0), said.all());
    Ok(())
}

/// What a server at 127.0.0.1 answers.
async fn get(port: u16) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn exec(checks: &mut Checks, shell: &Shell<'_>, client: &mut Client) -> Result<()> {
    let said = shell.run(&["run", "-d", "--name", "host", IMAGE])?;
    let id = said.text().trim().to_owned();
    let said = shell.run(&["exec", "host", "/guest", "echo", "-n", "in"])?;
    checks.that("exec", said.code == Some(0) && said.text() == "-n in\n", said.all());
    let said = shell.run(&["exec", "host", "/guest", "exit", "9"])?;
    checks.that("  its exit code", said.code == Some(9), said.all());
    let said = shell.feed(&["exec", "-i", "host", "/guest", "stdin"], vec![b'x'; 100_000])?;
    checks.that("  -i: the end of the input arrives", said.text() == "100000 bytes\n", said.all());
    let mut pty = shell.at_terminal(&["exec", "-it", "host", "/guest", "talk"])?;
    let cooked = pty.before.clone();
    pty.expect("a terminal\r\n").await?;
    pty.send("size\r")?;
    pty.expect("size 100 30\r\n").await?;
    pty.send("exit 4\r")?;
    let code = pty.ended().await?;
    checks.that("  -it: a terminal", code == Some(4), format!("{code:?} {}", pty.seen()));
    checks.that("  and it is as before", pty.modes()? == cooked, pty.modes()?);
    for (what, killed) in [("its client is killed", true), ("its client is interrupted", false)] {
        let mut sleeping = shell.in_background(&["exec", "host", "/guest", "sleep", "777"])?;
        let in_it = |there: bool| {
            let (mut client, id) = (client.clone(), id.clone());
            async move {
                let said = client.out(&id, &["pids"]).await?;
                Ok((said.contains("sleep 777") == there).then_some(()))
            }
        };
        until("the exec", || in_it(true)).await?;
        sleeping.signal(if killed { Signal::SIGKILL } else { Signal::SIGINT })?;
        let code = ended(&mut sleeping.0).await?;
        let gone = until("its end", || in_it(false)).await;
        checks.note(&format!("  ends when {what}"), gone);
        if !killed {
            checks.that("  with 130", code == Some(130), format!("{code:?}"));
        }
    }
    let mut pty = shell.at_terminal(&["exec", "-it", "host", "/guest", "talk"])?;
    pty.expect("a terminal").await?;
    kill(Pid::from_raw(pty.pid()), Signal::SIGTERM)?;
    let code = pty.ended().await?;
    checks.that("  -it and SIGTERM: 143", code == Some(143), format!("{code:?} {}", pty.seen()));
    checks.that("  and the terminal is as before", pty.modes()? == cooked, pty.modes()?);
    let said = shell.run(&["rm", "-f", "host"])?;
    checks.that("  rm -f", said.code == Some(0), said.all());
    Ok(())
}

/// The daemon is killed under a person's hands.
async fn restart(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let mut pty = Shell(daemon).at_terminal(&["run", "-it", "--rm", "--name", "lives", IMAGE, "talk"])?;
    pty.expect("a terminal").await?;
    daemon.kill()?;
    let code = pty.ended().await?;
    let holds = code == Some(125) && pty.seen().contains("lives goes on");
    checks.that("a daemon killed meanwhile: told, 125", holds, format!("{code:?} {}", pty.seen()));
    checks.that("  and the terminal is as before", pty.modes()? == pty.before, pty.modes()?);
    daemon.start().await?;
    let shell = Shell(daemon);
    let mut pty = shell.at_terminal(&["attach", "lives"])?;
    until("the attach", || async {
        let seen = pty.seen().contains("said still");
        if !seen {
            pty.keys().write_all(b"still\r")?;
        }
        Ok(seen.then_some(()))
    })
    .await?;
    pty.send("exit 6\r")?;
    let code = pty.ended().await?;
    checks.that(
        "  the next one's attach finds it alive",
        code == Some(6),
        format!("{code:?} {}", pty.seen()),
    );
    let said = shell.run(&["rm", "lives"])?;
    checks.that("  rm", said.code == Some(0), said.all());
    Ok(())
}

fn mistakes(checks: &mut Checks, shell: &Shell<'_>) -> Result<()> {
    let said = shell.run(&["run", "-p", "80", IMAGE])?;
    checks.that("an option that makes no sense is named", said.err.contains("publish: \"80\""), said.all());
    let said = shell.run(&["run", "-it", "--rm", IMAGE])?;
    checks.that(
        "-it without a terminal",
        said.code == Some(125) && said.err.contains("no terminal"),
        said.all(),
    );
    let said = shell.run(&["logs", "nobody"])?;
    checks.that("a name nobody has", said.code == Some(1) && said.err.contains("nobody"), said.all());
    let said = shell.run(&["run", "--pull", "never", "berth.test/none:1"])?;
    checks.that(
        "an image that is not here",
        said.code == Some(125) && said.err.contains("none:1"),
        said.all(),
    );
    let said = shell.run(&["pull", "127.0.0.1:1/none:1"])?;
    checks.that(
        "a registry that is not there",
        said.code == Some(1) && said.err.contains("127.0.0.1:1"),
        said.all(),
    );
    let done = shell.command(&["ps", "--socket", "/no/such.sock"])?.stdin(Stdio::null()).output()?;
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    checks.that(
        "a daemon that is not there: 69, and what to do",
        done.status.code() == Some(69) && err.contains("berth serve"),
        err,
    );
    Ok(())
}
