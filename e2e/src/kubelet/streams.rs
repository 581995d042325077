//! /exec, /attach and /portForward of the kubelet, by WebSocket as newer clients of the API server ask for them
//! (Kubernetes' channel protocols v4 and v5).

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::node::Node;
use crate::checks::Checks;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// Where the end is told, as a Status object.
const STATUS: u8 = 3;
/// Of v5: what follows is the number of the channel that ends.
const CLOSE: u8 = 255;
/// None of the lane's streams is silent for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection of channels, through openssl(1): the kubelet speaks TLS alone.
struct Channels {
    to: ChildStdin,
    from: ChildStdout,
    _tls: Child,
}

/// All that came in a channel.
#[derive(Debug, Default)]
struct Heard {
    out: String,
    err: String,
    status: Value,
}

impl Channels {
    async fn open(node: &Node, path: &str, protocol: &str) -> Result<Self> {
        let port = node.port();
        let mut tls = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("openssl (package openssl)")?;
        let (to, from) = (tls.stdin.take().context("no stdin")?, tls.stdout.take().context("no stdout")?);
        let mut channels = Self { to, from, _tls: tls };
        let ask = format!(
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        channels.to.write_all(ask.as_bytes()).await?;
        channels.to.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(PATIENCE, channels.from.read_u8()).await??);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        ensure!(head.starts_with("HTTP/1.1 101 "), "{path}: {head}");
        Ok(channels)
    }

    /// A binary message in one frame. The mask, which a client must have, is zero and changes nothing (RFC 6455, 5.3).
    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let length =
            u8::try_from(data.len() + 1).ok().filter(|length| *length < 126).context("a long message")?;
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, channel];
        frame.extend(data);
        self.to.write_all(&frame).await?;
        Ok(self.to.flush().await?)
    }

    /// The next message with its channel; none after the end.
    async fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            let Ok(first) = tokio::time::timeout(PATIENCE, self.from.read_u8()).await? else {
                return Ok(None);
            };
            let length = match self.from.read_u8().await? {
                126 => u64::from(self.from.read_u16().await?),
                127 => self.from.read_u64().await?,
                short => u64::from(short),
            };
            let mut data = vec![0; usize::try_from(length)?];
            self.from.read_exact(&mut data).await?;
            match first & 0x0f {
                0x8 => return Ok(None),
                0x1 | 0x2 if !data.is_empty() => return Ok(Some((data.remove(0), data))),
                _ => {}
            }
        }
    }

    async fn heard(mut self) -> Result<Heard> {
        let mut heard = Heard::default();
        while let Some((channel, data)) = self.receive().await? {
            let text = String::from_utf8_lossy(&data);
            match channel {
                STDOUT => heard.out += &text,
                STDERR => heard.err += &text,
                STATUS => heard.status = serde_json::from_slice(&data).with_context(|| text.into_owned())?,
                _ => {}
            }
        }
        Ok(heard)
    }

    /// Waits until standard output has this.
    async fn until(&mut self, part: &str) -> Result<()> {
        let mut out = String::new();
        while !out.contains(part) {
            let (channel, data) = self.receive().await?.with_context(|| format!("ended after {out:?}"))?;
            if channel == STDOUT {
                out += &String::from_utf8_lossy(&data);
            }
        }
        Ok(())
    }
}

async fn exec(node: &Node, words: &[&str], options: &str) -> Result<Channels> {
    let words: String = words.iter().map(|word| format!("command={word}&")).collect();
    let path = format!("/exec/default/streamed-node/main?{words}{options}");
    Channels::open(node, &path, "v5.channel.k8s.io").await
}

pub(crate) fn put(node: &Node) -> Result<()> {
    node.put(
        "streamed",
        &serde_json::json!({ "containers": [
        { "name": "main", "args": ["http", "8080", "through"] },
        { "name": "listener", "args": ["stdin"], "stdin": true, "stdinOnce": true },
    ] }),
    )
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    feature!(checks, "/exec: both outputs apart, and the exit code", {
        node.until("streamed", "running", |pod| super::node::status_of(pod, "main")["ready"] == true).await?;
        let words = ["/guest", "do", "echo", "said", "then", "complain", "cried", "then", "exit", "7"];
        let heard = exec(node, &words, "output=1&error=1").await?.heard().await?;
        ensure!(heard.out == "said\n" && heard.err == "cried\n", "{heard:?}");
        same!(heard.status["reason"], "NonZeroExitCode");
        same!(heard.status["details"]["causes"][0]["message"], "7");
        let heard = exec(node, &["/guest", "true"], "output=1&error=1").await?.heard().await?;
        same!(heard.status["status"], "Success");
        Ok(())
    });
    feature!(checks, "  standard input, and its end", {
        let mut channels = exec(node, &["/guest", "stdin"], "input=1&output=1&error=1").await?;
        channels.send(STDIN, b"0123456789").await?;
        channels.send(CLOSE, &[STDIN]).await?;
        let heard = channels.heard().await?;
        ensure!(heard.out.contains("10 bytes"), "{heard:?}");
        Ok(())
    });
    feature!(checks, "  a terminal", {
        let heard = exec(node, &["/guest", "link", "/proc/self/fd/0"], "input=1&output=1&tty=1").await?;
        let heard = heard.heard().await?;
        ensure!(heard.out.contains("/dev/pts/"), "{heard:?}");
        Ok(())
    });
    feature!(checks, "/attach: to the standard input of a container that waits for it", {
        let path = "/attach/default/streamed-node/listener?input=1&output=1&error=1";
        let mut channels = Channels::open(node, path, "v5.channel.k8s.io").await?;
        channels.send(STDIN, b"attached").await?;
        channels.send(CLOSE, &[STDIN]).await?;
        channels.until("8 bytes").await
    });
    feature!(checks, "/portForward: into the pod's network", {
        let path = "/portForward/default/streamed-node?port=8080";
        let mut channels = Channels::open(node, path, "v4.channel.k8s.io").await?;
        channels.send(0, b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut said = String::new();
        while !said.contains("through") {
            let (channel, data) =
                channels.receive().await?.with_context(|| format!("ended after {said:?}"))?;
            // Each channel begins with its port.
            if channel == 0 {
                said += &String::from_utf8_lossy(&data);
            }
        }
        Ok(())
    });
}
