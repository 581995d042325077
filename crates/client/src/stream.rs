//! One exec or attach over WebSocket: `v5.channel.k8s.io`.

use std::io;

use base64::Engine as _;
use berth_streaming::websocket::{
    CLOSE_SIGNAL, Decoder, Event, Opcode, Role, accept_key, close, code, frame,
};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::input::Input;
use crate::output::{Output, To};
use crate::{ClientError, Tls, tls};

/// Channels of the protocol, the first byte of each message.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Of the answer to our request, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Of the last word, in bytes.
const STATUS_MAX: usize = 64 * 1024;
const BUFFER: usize = 64 * 1024;
/// Pings that wait for their answer; a server sends one at a time.
const PINGS: usize = 4;

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The program ended.
    Exit(i32),
    /// The server's words.
    Failed(String),
    /// The connection ended without a last word.
    Closed(String),
    /// The person left.
    Detached,
    /// Nobody reads our output.
    Unread,
    /// By a signal to us.
    Left(i32),
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub(crate) struct Stream {
    reader: Reader,
    writer: Writer,
    /// What came with the head of the answer.
    rest: Vec<u8>,
}

fn broken(source: io::Error) -> ClientError {
    ClientError::Io { doing: "talk to the streaming server", source }
}

/// Whether TLS is spoken, host with port, and path.
fn split(url: &str) -> Result<(bool, &str, &str), ClientError> {
    let secure = url.strip_prefix("https://").map(|rest| (true, rest));
    let found = secure.or_else(|| url.strip_prefix("http://").map(|rest| (false, rest)));
    let (secure, rest) = found.ok_or_else(|| ClientError::Stream(format!("its URL is {url:?}")))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Ok((secure, host, path))
}

/// The name that a certificate has to bear.
fn name_of(host: &str) -> Result<ServerName<'static>, ClientError> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned()).map_err(|error| ClientError::Stream(error.to_string()))
}

async fn connect(host: &str, secure: bool, with: &Tls) -> Result<(Reader, Writer), ClientError> {
    let socket = TcpStream::connect(host).await.map_err(broken)?;
    socket.set_nodelay(true).map_err(broken)?;
    if !secure {
        let (reader, writer) = socket.into_split();
        return Ok((Box::new(reader), Box::new(writer)));
    }
    let stream = tls::connector(with)?.connect(name_of(host)?, socket).await.map_err(broken)?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::new(reader), Box::new(writer)))
}

fn random<const N: usize>() -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| broken(io::Error::other(error)))?;
    Ok(bytes)
}

impl Stream {
    pub(crate) async fn open(url: &str, tls: &Tls) -> Result<Self, ClientError> {
        let (secure, host, path) = split(url)?;
        let (mut reader, mut writer) = connect(host, secure, tls).await?;
        let key = base64::engine::general_purpose::STANDARD.encode(random::<16>()?);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        );
        writer.write_all(request.as_bytes()).await.map_err(broken)?;
        writer.flush().await.map_err(broken)?;
        let mut bytes = Vec::new();
        let length = loop {
            if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if bytes.len() > HEAD_MAX || reader.read_buf(&mut bytes).await.map_err(broken)? == 0 {
                return Err(ClientError::Stream("its answer is no HTTP".into()));
            }
        };
        let rest = bytes.split_off(length);
        let head = String::from_utf8_lossy(&bytes);
        if !head.starts_with("HTTP/1.1 101 ") {
            let status = head.lines().next().unwrap_or_default();
            return Err(ClientError::Stream(
                format!("{status} {}", String::from_utf8_lossy(&rest)).trim().into(),
            ));
        }
        if !head.contains(&accept_key(&key)) || !head.contains(PROTOCOL) {
            return Err(ClientError::Stream("it does not speak v5.channel.k8s.io".into()));
        }
        Ok(Self { reader, writer, rest })
    }

    /// Moves bytes until the stream ends, or the person leaves.
    pub(crate) async fn carry(
        self,
        mut input: mpsc::Receiver<Input>,
        output: &Output,
    ) -> Result<End, ClientError> {
        let Self { reader, mut writer, rest } = self;
        let (ping, mut pings) = mpsc::channel(PINGS);
        let end = {
            let reading = read(reader, rest, output, ping);
            let writing = write(&mut writer, &mut input, &mut pings);
            tokio::pin!(reading, writing);
            tokio::select! {
                end = &mut reading => end?,
                left = &mut writing => match left {
                    Ok(()) => End::Detached,
                    // What the server has to say about it may still come.
                    Err(_) => reading.await?,
                },
            }
        };
        if end == End::Detached {
            let farewell = close(code::NORMAL, "", Some(random()?));
            // A server that is gone needs none.
            let _ = writer.write_all(&farewell).await;
            let _ = writer.flush().await;
        }
        Ok(end)
    }
}

/// What the server says, up to its last word.
async fn read(
    mut reader: Reader,
    rest: Vec<u8>,
    output: &Output,
    ping: mpsc::Sender<Vec<u8>>,
) -> Result<End, ClientError> {
    let mut decoder = Decoder::new(Role::Client);
    let (mut length, mut buffer) = (rest.len(), rest);
    buffer.resize(BUFFER.max(length), 0);
    let (mut channel, mut last_word) = (None, Vec::new());
    loop {
        let mut at = 0;
        while at < length {
            let (taken, event) = decoder
                .decode(&mut buffer[at..length])
                .map_err(|error| ClientError::Stream(error.to_string()))?;
            at += taken;
            match event {
                Some(Event::Message { mut bytes, first, last }) => {
                    if first {
                        channel = None;
                    }
                    if channel.is_none()
                        && let Some((number, payload)) = bytes.split_first()
                    {
                        (channel, bytes) = (Some(*number), payload);
                    }
                    let to = match channel {
                        Some(STDOUT) => Some(To::Stdout),
                        Some(STDERR) => Some(To::Stderr),
                        _ => None,
                    };
                    if let Some(to) = to
                        && !bytes.is_empty()
                        && !output.write(to, bytes.to_vec()).await
                    {
                        return Ok(End::Unread);
                    }
                    if channel == Some(ERROR) {
                        last_word.extend_from_slice(&bytes[..bytes.len().min(STATUS_MAX - last_word.len())]);
                        if last && !last_word.is_empty() {
                            return Ok(understand(&last_word));
                        }
                    }
                }
                Some(Event::Ping(payload)) => drop(ping.try_send(payload)),
                Some(Event::Close { reason, .. }) => return Ok(End::Closed(reason)),
                Some(Event::Pong) | None => {}
            }
        }
        length = match reader.read(&mut buffer).await {
            Ok(0) => return Ok(End::Closed(String::new())),
            Ok(length) => length,
            Err(error) => return Ok(End::Closed(error.to_string())),
        };
    }
}

/// A `metav1.Status` (k8s.io/apimachinery); the exit code is a cause of it.
fn understand(last_word: &[u8]) -> End {
    let Ok(status) = serde_json::from_slice::<Value>(last_word) else {
        return End::Failed(String::from_utf8_lossy(last_word).into_owned());
    };
    if status["status"] == "Success" {
        return End::Exit(0);
    }
    let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code =
        causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => End::Exit(code),
        None => End::Failed(status["message"].as_str().unwrap_or("the stream failed").to_owned()),
    }
}

/// What the person says. `Ok` when they leave; never while there is nothing more to say.
async fn write(
    writer: &mut Writer,
    input: &mut mpsc::Receiver<Input>,
    pings: &mut mpsc::Receiver<Vec<u8>>,
) -> Result<(), ClientError> {
    let mut open = true;
    loop {
        let (opcode, payload) = tokio::select! {
            Some(payload) = pings.recv() => (Opcode::Pong, payload),
            said = input.recv(), if open => match said {
                Some(Input::Bytes(mut bytes)) => {
                    bytes.insert(0, STDIN);
                    (Opcode::Binary, bytes)
                }
                Some(Input::End) => (Opcode::Binary, vec![CLOSE_SIGNAL, STDIN]),
                Some(Input::Size(columns, rows)) => {
                    let size = serde_json::json!({ "Width": columns, "Height": rows }).to_string();
                    (Opcode::Binary, [&[RESIZE], size.as_bytes()].concat())
                }
                Some(Input::Detach) => return Ok(()),
                None => {
                    open = false;
                    continue;
                }
            },
            else => std::future::pending().await,
        };
        let bytes = frame(opcode, &payload, Some(random()?));
        writer.write_all(&bytes).await.map_err(broken)?;
        writer.flush().await.map_err(broken)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words() {
        let exit = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"m",
            "details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#;
        assert_eq!(understand(br#"{"metadata":{},"status":"Success"}"#), End::Exit(0));
        assert_eq!(understand(exit), End::Exit(137));
        assert_eq!(understand(br#"{"status":"Failure","message":"no"}"#), End::Failed("no".into()));
        assert_eq!(understand(b"plain"), End::Failed("plain".into()));
    }

    #[test]
    fn urls() {
        assert!(matches!(split("http://127.0.0.1:7/exec/x"), Ok((false, "127.0.0.1:7", "/exec/x"))));
        assert!(matches!(split("https://[::1]:7/exec/x"), Ok((true, "[::1]:7", "/exec/x"))));
        assert!(split("ftp://127.0.0.1:7/exec/x").is_err());
        assert_eq!(name_of("[::1]:7").unwrap(), ServerName::try_from("::1").unwrap());
    }
}
