//! Many clients that go at any moment: nothing of them stays.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::{Ask, Lane, blocking, client_of};
use crate::bench::big::Numbers;
use crate::checks::{until, within};
use crate::daemon::Daemon;

const CLIENTS: usize = 1000;
/// Connections that the server has at once.
const CONNECTIONS_MAX: u64 = 4096;
/// With those that wait to be let in.
const SILENT: usize = CONNECTIONS_MAX as usize + 100;
/// So many come before the server has to let them in: who finds its queue full waits a second.
const AT_ONCE: usize = 100;
/// For one step of a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sets the seed, so that a run can be had again.
const SEED: &str = "BERTH_E2E_SEED";

/// What a daemon has while nobody is connected.
#[derive(Debug, PartialEq, Eq, PartialOrd)]
struct Held {
    descriptors: usize,
    tasks: u64,
    open: u64,
    waiting: u64,
}

impl Held {
    fn by(daemon: &Daemon) -> Result<Self> {
        let pid = daemon.pid().context("no daemon runs")?;
        let said = daemon.typed(&["status", "--json"])?.output()?;
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).context("berth status")?;
        let number =
            |part: &str, name: &str| status[part][name].as_u64().with_context(|| format!("{part}.{name}"));
        Ok(Self {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            tasks: number("instance", "tasks")?,
            open: number("streams", "open")?,
            waiting: number("streams", "waiting")?,
        })
    }
}

pub(super) async fn run(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    come_and_go(lane, daemon).await?;
    mute(lane, daemon).await
}

async fn come_and_go(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED} is a number"))?,
        Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as u64,
    };
    let mut numbers = Numbers::new(seed);
    let before = Held::by(daemon)?;
    let (mut waiting, mut unused) = (Vec::new(), 0);
    for _ in 0..CLIENTS {
        let spdy = numbers.between(0, 2) == 0;
        let (url, said) = match numbers.between(0, 4) {
            0 => (lane.url(Ask::Exec, &["/guest", "sleep", "6464"], "ito").await?, Client::exec(spdy, true)),
            1 => (lane.attached().await?, Client::exec(spdy, false)),
            2 => (lane.forward_url().await?, Client::forward(spdy)),
            _ => (lane.url(Ask::Exec, &["/guest", "sleep", "6464"], "io").await?, Client::exec(spdy, false)),
        };
        let request = said.request(&url)?;
        let frames = said.frames.len() as u64;
        let much = match numbers.between(0, 4) {
            0 => numbers.between(0, request.len() as u64) as usize,
            _ => request.len() + numbers.between(0, frames + 1) as usize,
        };
        // What never asked leaves its URL to the next minute.
        unused += u64::from(much < request.len());
        // Who has asked is answered.
        let heard = if much < request.len() { 0 } else { numbers.between(0, 300) as usize };
        let bytes = [request, said.frames].concat();
        let cut = Cut { much, heard, half: numbers.between(0, 2) == 0 };
        waiting.push(tokio::spawn(blocking(move || cut.run(&url, &bytes))));
    }
    let mut done = Ok(());
    for client in waiting {
        done = done.and(client.await?);
    }
    lane.checks.note(
        &format!("{CLIENTS} clients come and go at any moment ({SEED}={seed})"),
        done.map_err(|error| format!("{error:#}")),
    );
    let gone = lane.sleeps("6464", false).await;
    lane.checks.note("  none of their processes is left", gone.map_err(|error| format!("{error:#}")));
    let settled = until("the daemon to forget them", || {
        let now = Held::by(daemon);
        let before = &before;
        async move {
            let now = now?;
            let less = now.descriptors <= before.descriptors + 4 && now.tasks <= before.tasks;
            Ok((less && now.open == 0 && now.waiting <= before.waiting + unused).then_some(()))
        }
    })
    .await;
    let what =
        format!("  nor a descriptor, a task, a connection or a URL but the {unused} that nobody asked for");
    lane.checks
        .note(&what, settled.map_err(|error| format!("{error:#}: {:?} of {before:?}", Held::by(daemon))));
    Ok(())
}

/// More than the server lets in, none of whom says a word: it keeps to its bound, and serves again once they go.
async fn mute(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    let host = split(&lane.url(Ask::Exec, &["/guest", "true"], "o").await?)?.0.to_owned();
    let before = Held::by(daemon)?;
    let descriptors = Descriptors::raised()?;
    let clients = Arc::new(Mutex::new(Vec::new()));
    let full = within(60, "a server that is full", || {
        let (host, clients) = (host.clone(), clients.clone());
        async move {
            let now = Held::by(daemon)?;
            // The server counts itself as one: it has room for whom it waits for.
            let full = now.open + 1 >= CONNECTIONS_MAX;
            let there = blocking(move || {
                let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                let more = full || now.open >= clients.len() as u64;
                come(&mut clients, &host, more)?;
                Ok(clients.len())
            });
            Ok((there.await? == SILENT && full).then_some(now))
        }
    })
    .await;
    let what = format!("of {SILENT} silent clients {CONNECTIONS_MAX} are let in");
    let most = before.descriptors + CONNECTIONS_MAX as usize + 4;
    let kept = full.map_err(|error| format!("{error:#}: {:?} of {before:?}", Held::by(daemon)));
    lane.checks.note(
        &what,
        kept.and_then(|now| match now.descriptors <= most {
            true => Ok(()),
            false => Err(format!("{now:?} of {before:?}")),
        }),
    );
    drop((clients, descriptors));
    let url = lane.url(Ask::Exec, &["/guest", "true"], "o").await?;
    let served = blocking(move || client_of(&["exec"], &url)).await?;
    lane.checks.that("  and once they go the next one is served", served.code == 0, served.text());
    let settled = until("the daemon to forget them", || async {
        let now = Held::by(daemon)?;
        Ok((now.descriptors <= before.descriptors + 4 && now.open == 0).then_some(()))
    });
    lane.checks.note("  and none is kept", settled.await.map_err(|error| format!("{error:#}")));
    Ok(())
}

/// Those whom the server has ended go, it lets nobody be silent for ever; more come, if they may.
fn come(clients: &mut Vec<TcpStream>, host: &str, more: bool) -> Result<()> {
    let open = |client: &TcpStream| matches!(client.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    clients.retain(open);
    let missing = SILENT - clients.len();
    for _ in 0..missing.min(if more { AT_ONCE } else { 0 }) {
        let client = connect(host)?;
        client.set_nonblocking(true)?;
        clients.push(client);
    }
    Ok(())
}

/// As many descriptors as this process may have, until it is dropped.
struct Descriptors {
    former: (rlim_t, rlim_t),
}

impl Descriptors {
    fn raised() -> Result<Self> {
        let former = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, former.1, former.1)?;
        Ok(Self { former })
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // A lower limit than before can always be had.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.former.0, self.former.1);
    }
}

/// When a client goes: after so many of its bytes, with so many of the server's, all at once or half first.
struct Cut {
    much: usize,
    heard: usize,
    half: bool,
}

impl Cut {
    fn run(&self, url: &str, bytes: &[u8]) -> Result<()> {
        let (host, _) = split(url)?;
        let mut stream = connect(host)?;
        // A server that has heard enough may be gone before the rest is said.
        let _ = stream.write_all(bytes.get(..self.much).unwrap_or(bytes));
        if self.heard > 0 {
            let _ = stream.read(&mut vec![0; self.heard]);
        }
        if self.half {
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// What a client says after its request.
struct Client {
    /// Header lines that ask for its protocol.
    asks: &'static str,
    frames: Vec<u8>,
}

impl Client {
    fn exec(spdy: bool, tty: bool) -> Self {
        if spdy {
            let size: &[&str] = if tty { &["resize"] } else { &[] };
            let kinds = [&["error", "stdin", "stdout"], size].concat();
            let streams = kinds.iter().map(|kind| vec![("streamtype", *kind)]);
            return Self { asks: SPDY_V4, frames: opened(streams.collect(), 3) };
        }
        let size = b"\x04{\"Width\":90,\"Height\":30}";
        Self {
            asks: WEBSOCKET_V5,
            frames: [masked(2, b"\x00hello\n"), masked(2, size), masked(8, b"")].concat(),
        }
    }

    fn forward(spdy: bool) -> Self {
        if spdy {
            let stream = |kind| vec![("streamtype", kind), ("port", "6465"), ("requestid", "0")];
            return Self { asks: SPDY_FORWARD, frames: opened(vec![stream("error"), stream("data")], 3) };
        }
        Self { asks: WEBSOCKET_V4, frames: [masked(2, b"\x00hello\n"), masked(8, b"")].concat() }
    }

    fn request(&self, url: &str) -> Result<Vec<u8>> {
        let (host, path) = split(url)?;
        let asks = self.asks;
        let head = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{asks}\r\n");
        Ok(head.into_bytes())
    }
}

const SPDY_V4: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
const SPDY_FORWARD: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n";
const WEBSOCKET_V5: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
const WEBSOCKET_V4: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n";

/// A WebSocket frame, masked by zeros.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// SPDY streams with these headers, uncompressed within zlib, then input on stream `input` and its end.
fn opened(streams: Vec<Vec<(&str, &str)>>, input: u32) -> Vec<u8> {
    let word = |n: usize| (n as u32).to_be_bytes();
    let mut bytes = Vec::new();
    for (number, headers) in streams.into_iter().enumerate() {
        let mut block = word(headers.len()).to_vec();
        for part in headers.into_iter().flat_map(|(name, value)| [name, value]) {
            block.extend(word(part.len()));
            block.extend(part.as_bytes());
        }
        let length = block.len() as u16;
        // The zlib stream begins once, and names the dictionary.
        let begin: &[u8] = if number == 0 { &[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2] } else { &[] };
        let stored =
            [&[0], length.to_le_bytes().as_slice(), &(!length).to_le_bytes(), &block, &[0, 0, 0, 0xff, 0xff]]
                .concat();
        let payload = [word(number * 2 + 1).as_slice(), &[0; 6], begin, &stored].concat();
        bytes.extend([[0x80, 3, 0, 1], word(payload.len())].concat());
        bytes.extend(payload);
    }
    for (text, fin) in [("hello\n", 0), ("", 1 << 24)] {
        bytes.extend([input.to_be_bytes(), (text.len() as u32 | fin).to_be_bytes()].concat());
        bytes.extend(text.as_bytes());
    }
    bytes
}

impl Lane<'_> {
    async fn attached(&mut self) -> Result<String> {
        let main = self.main.clone();
        self.url(Ask::Attach, &[&main], "io").await
    }
}

/// No step of which is waited for longer than [`PATIENCE`].
pub(super) fn connect(host: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&host.parse().context("an address and a port")?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Host and path of a URL.
pub(super) fn split(url: &str) -> Result<(&str, &str)> {
    url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("a URL")
}

/// Asks for WebSocket.
pub(super) fn request(host: &str, path: &str) -> String {
    format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n\r\n"
    )
}
