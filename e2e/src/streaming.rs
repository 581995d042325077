//! Exec, attach and port-forward by the clients that Kubernetes uses (`e2e/streaming`), over SPDY and over WebSocket.

mod crowd;
mod cuts;
mod ends;
mod host;
mod talk;

pub(crate) use self::crowd::Session;
pub(crate) use self::talk::client_of;

use anyhow::Result;
use berth_cri_api::v1::*;
use tonic::Code;

use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;

use self::talk::{Answer, Talk};

/// Through one exec or port-forward, in MiB.
const MUCH: &str = "1024";
const ECHO: i32 = 7000;
const NOBODY: i32 = 7001;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = all(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn all(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let before = Footprint::take(daemon)?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("streams", &daemon.path("logs"));
    let pod = client.run_pod(&config).await?;
    let main = client.run(&pod, &config, "main", args(&["pause"])).await?;
    let mut lane = Lane { checks, client, pod, main, config };
    lane.refusals().await?;
    for over in [Over::Spdy, Over::WebSocket] {
        lane.exec(over).await?;
        lane.terminal(over).await?;
        lane.attach(over).await?;
        lane.forward(over).await?;
        lane.vanish(over).await?;
        lane.stop(over).await?;
    }
    host::run(&mut lane, daemon).await?;
    lane.once().await?;
    cuts::run(&mut lane, daemon).await?;
    crowd::run(&mut lane, daemon).await?;
    ends::run(&mut lane, daemon).await?;
    let Lane { checks, mut client, pod, .. } = lane;
    client.remove_pod(&pod).await?;
    checks.note("nothing is kept of all the streams", given_back(daemon, &before).await);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Spdy,
    WebSocket,
}

impl Over {
    fn name(self) -> &'static str {
        match self {
            Self::Spdy => "SPDY",
            Self::WebSocket => "WebSocket",
        }
    }

    /// The client's verb and flag.
    fn words<'a>(self, verb: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let flag = (self == Self::WebSocket).then_some("-ws");
        std::iter::once(verb).chain(flag).chain(more.iter().copied()).collect()
    }
}

#[derive(Clone, Copy)]
enum Ask {
    Exec,
    Attach,
}

struct Lane<'a> {
    checks: &'a mut Checks,
    client: Client,
    pod: String,
    main: String,
    config: PodSandboxConfig,
}

impl Lane<'_> {
    fn exec_request(&self, container: &str, words: &[&str], streams: &str) -> ExecRequest {
        let has = |letter| streams.contains(letter);
        ExecRequest {
            container_id: container.into(),
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            tty: has('t'),
            stdin: has('i'),
            stdout: has('o'),
            stderr: has('e'),
        }
    }

    /// Exec in the main container, or attach to the container named by the first word.
    async fn url(&mut self, ask: Ask, words: &[&str], streams: &str) -> Result<String> {
        let request = self.exec_request(&self.main, words, streams);
        let url = match ask {
            Ask::Exec => self.client.runtime.exec(request).await?.into_inner().url,
            Ask::Attach => {
                let ExecRequest { tty, stdin, stdout, stderr, .. } = request;
                let request = AttachRequest { container_id: words[0].into(), tty, stdin, stdout, stderr };
                self.client.runtime.attach(request).await?.into_inner().url
            }
        };
        Ok(url)
    }

    async fn forward_url(&mut self) -> Result<String> {
        let request = PortForwardRequest { pod_sandbox_id: self.pod.clone(), port: vec![ECHO] };
        Ok(self.client.runtime.port_forward(request).await?.into_inner().url)
    }

    async fn refusals(&mut self) -> Result<()> {
        let created = self.client.create(&self.pod, &self.config, "created", args(&["pause"])).await?;
        for (what, container, streams, words, code) in [
            ("no stream", self.main.as_str(), "", &["/guest"][..], Code::InvalidArgument),
            ("a terminal with stderr", &self.main, "toe", &["/guest"], Code::InvalidArgument),
            ("no command", &self.main, "o", &[], Code::InvalidArgument),
            ("nothing that is there", "abc123", "o", &["/guest"], Code::NotFound),
            ("a container that does not run", &created, "o", &["/guest"], Code::FailedPrecondition),
        ] {
            let request = self.exec_request(container, words, streams);
            let refused = self.client.runtime.exec(request).await.err();
            let said = refused.as_ref().map(ToString::to_string).unwrap_or_default();
            self.checks.that(
                &format!("exec is refused: {what}"),
                refused.is_some_and(|status| status.code() == code),
                said,
            );
        }
        let request = PortForwardRequest { pod_sandbox_id: self.pod.clone(), port: vec![70000] };
        let refused = self.client.runtime.port_forward(request).await.err().map(|status| status.code());
        self.checks.that("a port that is none is refused", refused == Some(Code::InvalidArgument), "");
        Ok(())
    }

    async fn exec(&mut self, over: Over) -> Result<()> {
        let name = over.name();
        let url = self.url(Ask::Exec, &["/guest", "talk"], "ioe").await?;
        let answer = blocking(move || {
            let mut talk = Talk::begin(&over.words("exec", &["-i", "-e"]), &url)?;
            talk.say("complain oops\nhello\nexit 7\n")?;
            talk.end()
        })
        .await?;
        let holds =
            answer.code == 7 && answer.out == "no terminal\nsaid hello\n" && answer.err.starts_with("oops\n");
        self.checks.that(&format!("{name}: outputs apart, and the exit code"), holds, answer.text());
        let url = self.url(Ask::Exec, &["/guest", "stdin"], "io").await?;
        let answer = blocking(move || {
            let mut talk = Talk::begin(&over.words("exec", &["-i"]), &url)?;
            talk.say("abcdef")?;
            talk.end()
        })
        .await?;
        let holds = answer.code == 0 && answer.out == "6 bytes\n";
        self.checks.that(&format!("{name}: the end of input arrives"), holds, answer.text());
        let url = self.url(Ask::Exec, &["/nonsense"], "o").await?;
        let answer = blocking(move || client_of(&over.words("exec", &[]), &url)).await?;
        let holds = answer.code != 0 && answer.err.contains("nonsense");
        self.checks.that(&format!("{name}: a command that is not there is told"), holds, answer.text());
        let url = self.url(Ask::Exec, &["/guest", "copy"], "io").await?;
        let answer = blocking(move || client_of(&over.words("pipe", &["-mib", MUCH, "-slow"]), &url)).await?;
        let what = format!("{name}: {MUCH} MiB in and out again, read with pauses ({})", answer.out.trim());
        self.checks.that(&what, answer.code == 0, answer.text());
        Ok(())
    }

    async fn terminal(&mut self, over: Over) -> Result<()> {
        let url = self.url(Ask::Exec, &["/guest", "talk"], "tio").await?;
        let answer = blocking(move || {
            let mut talk = Talk::begin(&over.words("exec", &["-i", "-t"]), &url)?;
            talk.say("@size 101 41\n")?;
            talk.hear("a terminal")?;
            talk.sized("size 101 41")?;
            talk.say("@size 120 50\n")?;
            talk.sized("size 120 50")?;
            talk.say("exit 5\n")?;
            talk.end()
        })
        .await;
        let found = answer.as_ref().map_or_else(|error| format!("{error:#}"), Answer::text);
        let holds = answer.is_ok_and(|answer| answer.code == 5);
        self.checks.that(&format!("{}: a terminal and its sizes", over.name()), holds, found);
        Ok(())
    }

    async fn attach(&mut self, over: Over) -> Result<()> {
        let name = format!("talks-over-{}", over.name().to_lowercase());
        let spec = Spec { stdin: true, ..args(&["talk"]) };
        let container = self.client.run(&self.pod, &self.config, &name, spec).await?;
        let urls = [
            self.url(Ask::Attach, &[&container], "io").await?,
            self.url(Ask::Attach, &[&container], "o").await?,
            self.url(Ask::Attach, &[&container], "io").await?,
        ];
        let heard = blocking(move || {
            let [one, two, three] = urls;
            let mut first = Talk::begin(&over.words("exec", &["-i"]), &one)?;
            first.say("first\n")?;
            first.hear("said first")?;
            let mut second = Talk::begin(&over.words("exec", &[]), &two)?;
            // The other is there once it hears what is said.
            while !heard_within(&mut first, &mut second)? {}
            drop(first);
            let mut third = Talk::begin(&over.words("exec", &["-i"]), &three)?;
            third.say("after a detach\n")?;
            third.hear("said after a detach")?;
            second.hear("said after a detach")?;
            third.say("exit 3\n")?;
            let (third, second) = (third.end()?, second.end()?);
            // To the kubelet an attach has no exit code of its own; who speaks v5 is told the container's.
            let code = if over == Over::WebSocket { 3 } else { 0 };
            anyhow::ensure!((third.code, second.code) == (code, code), "{} {}", third.text(), second.text());
            Ok(())
        })
        .await;
        let what = format!("{}: attached twice, detached, and the container's end", over.name());
        self.checks.note(&what, heard.map_err(|error| format!("{error:#}")));
        let ended = self.client.ended(&container).await?;
        self.checks.that("  whose code is its own", ended.exit_code == 3, ended.exit_code);
        Ok(())
    }

    async fn forward(&mut self, over: Over) -> Result<()> {
        let name = over.name();
        let echo = format!("echoes-over-{}", name.to_lowercase());
        let echo = self.client.run(&self.pod, &self.config, &echo, args(&["tcp", &ECHO.to_string()])).await?;
        let port = ECHO.to_string();
        self.listening(&port).await?;
        let url = self.forward_url().await?;
        let answer = {
            let port = port.clone();
            blocking(move || {
                client_of(&over.words("forward", &["-port", &port, "-mib", MUCH, "-slow"]), &url)
            })
            .await?
        };
        let what = format!("{name}: {MUCH} MiB through a port, read with pauses ({})", answer.out.trim());
        self.checks.that(&what, answer.code == 0, answer.text());
        let url = self.forward_url().await?;
        let closed = NOBODY.to_string();
        let answer =
            blocking(move || client_of(&over.words("refused", &["-port", &port, "-closed", &closed]), &url))
                .await?;
        let what = format!("{name}: a refused connection is an error of its own");
        self.checks.that(&what, answer.code == 0, answer.text());
        self.client.stop(&echo, std::time::Duration::ZERO).await
    }

    /// Waits until somebody in the pod listens on the port.
    async fn listening(&mut self, port: &str) -> Result<()> {
        let wanted = format!(":{:04X} ", port.parse::<u16>()?);
        until("a port to be listened on", || {
            let (mut client, main, wanted) = (self.client.clone(), self.main.clone(), wanted.clone());
            async move {
                let table = client.out(&main, &["cat", "/proc/net/tcp"]).await?;
                let listens = |line: &&str| line.contains(&wanted) && line.contains(" 0A ");
                Ok(table.lines().find(listens).map(|_| ()))
            }
        })
        .await
    }

    async fn vanish(&mut self, over: Over) -> Result<()> {
        for (streams, flags) in [("io", &["-i"][..]), ("tio", &["-i", "-t"])] {
            let seconds = if over == Over::Spdy { "4242" } else { "4343" };
            let url = self.url(Ask::Exec, &["/guest", "sleep", seconds], streams).await?;
            let flags: Vec<String> = over.words("exec", flags).iter().map(|w| (*w).to_owned()).collect();
            let talk =
                blocking(move || Talk::begin(&flags.iter().map(String::as_str).collect::<Vec<_>>(), &url));
            let talk = talk.await?;
            self.sleeps(seconds, true).await?;
            drop(talk);
            let gone = self.sleeps(seconds, false).await;
            let kind = if streams.contains('t') { " at a terminal" } else { "" };
            let what = format!("{}: the process{kind} of a client that is gone is ended", over.name());
            self.checks.note(&what, gone.map_err(|error| format!("{error:#}")));
        }
        Ok(())
    }

    /// Waits until the main container has such a sleeper, or has none.
    async fn sleeps(&mut self, seconds: &str, wanted: bool) -> Result<()> {
        until("a sleeper to come or go", || {
            let (mut client, main, seconds) = (self.client.clone(), self.main.clone(), seconds.to_owned());
            async move {
                let there = client.out(&main, &["pids"]).await?.contains(&format!("sleep {seconds}"));
                Ok((there == wanted).then_some(()))
            }
        })
        .await
    }

    /// Waits until no process of the main container runs this tool.
    async fn none(&mut self, tool: &str) -> Result<()> {
        until("processes to go", || {
            let (mut client, main, words) =
                (self.client.clone(), self.main.clone(), format!("/guest {tool}"));
            async move { Ok((!client.out(&main, &["pids"]).await?.contains(&words)).then_some(())) }
        })
        .await
    }

    /// An exec does not keep its container from stopping, and hears of it.
    async fn stop(&mut self, over: Over) -> Result<()> {
        let name = format!("stops-over-{}", over.name().to_lowercase());
        let container = self.client.run(&self.pod, &self.config, &name, args(&["pause"])).await?;
        let request = self.exec_request(&container, &["/guest", "talk"], "io");
        let url = self.client.runtime.exec(request).await?.into_inner().url;
        let mut talk = blocking(move || {
            let mut talk = Talk::begin(&over.words("exec", &["-i"]), &url)?;
            talk.say("x\n")?;
            talk.hear("said x")?;
            Ok(talk)
        })
        .await?;
        self.client.stop(&container, std::time::Duration::from_secs(5)).await?;
        let code = blocking(move || Ok(talk.child.wait()?.code())).await?;
        let what = format!("{}: an exec ends with its container", over.name());
        self.checks.that(&what, code == Some(137), format!("{code:?}"));
        Ok(())
    }

    async fn once(&mut self) -> Result<()> {
        let url = self.url(Ask::Exec, &["/guest", "true"], "o").await?;
        let (first, second) =
            blocking(move || Ok((client_of(&["exec"], &url)?, client_of(&["exec"], &url)?))).await?;
        let holds = first.code == 0 && second.code == 125;
        self.checks.that("a URL works once", holds, format!("{} {}", first.text(), second.text()));
        Ok(())
    }
}

/// Says a word through one and listens whether it came out at the other; each turn has a word of its own.
fn heard_within(speaker: &mut Talk, listener: &mut Talk) -> Result<bool> {
    speaker.say("together\n")?;
    speaker.hear("said together")?;
    // Whoever is attached by then hears it; who is not yet is spoken to again.
    let mut ready = nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(listener.output.get_ref()),
        nix::poll::PollFlags::POLLIN,
    );
    let buffered = !listener.output.buffer().is_empty();
    if !buffered && nix::poll::poll(std::slice::from_mut(&mut ready), 50u8)? == 0 {
        return Ok(false);
    }
    listener.hear("said together")?;
    Ok(true)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
