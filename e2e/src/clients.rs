//! The skew lane's clients of other libraries: some put the socket's path into `:authority`, some connect and then say nothing.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const RST_STREAM: u8 = 3;

pub(crate) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let socket = daemon.socket();
    let path = socket.to_string_lossy().into_owned();
    let encoded = path.replace('/', "%2F");
    for (what, authority) in [
        ("localhost", Some("localhost")),
        ("the socket's path", Some(path.as_str())),
        ("the path, percent-encoded", Some(encoded.as_str())),
        ("empty", Some("")),
        ("absent", None),
    ] {
        let (socket, authority) = (socket.clone(), authority.map(str::to_owned));
        let asked = tokio::task::spawn_blocking(move || version(&socket, authority.as_deref())).await?;
        checks.note(
            &format!("a client whose :authority is {what}"),
            asked.map_err(|error| format!("{error:#}")),
        );
    }
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n")?;
        silent.push(stream);
    }
    let answered = tokio::time::timeout(Duration::from_secs(30), Client::connect(&socket)).await;
    checks.that(
        "200 clients in the middle of a word hold up nobody",
        matches!(answered, Ok(Ok(_))),
        "no answer",
    );
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Asks for the version twice on one connection, in HTTP/2 by hand: the libraries at hand do not send such an authority.
fn version(socket: &Path, authority: Option<&str>) -> Result<()> {
    let mut block = Vec::new();
    let mut fields =
        vec![(":method", "POST"), (":scheme", "http"), (":path", "/runtime.v1.RuntimeService/Version")];
    fields.extend(authority.map(|authority| (":authority", authority)));
    fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    for (name, value) in fields {
        // Literals that no table keeps (RFC 7541, section 6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).context("a long field")?);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&frame(SETTINGS, 0, 0, b""))?;
    for number in [1, 3] {
        stream.write_all(&frame(HEADERS, 0x4, number, &block))?;
        stream.write_all(&frame(DATA, 0x1, number, &[0; 5]))?;
        answer(&mut stream, number)?;
    }
    Ok(())
}

/// Reads frames up to the answer's data.
fn answer(stream: &mut UnixStream, number: u32) -> Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload =
            vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload)?;
        let whose = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] & 1 == 0 => stream.write_all(&frame(SETTINGS, 1, 0, b""))?,
            RST_STREAM if whose == number => bail!("the stream is reset: {payload:?}"),
            DATA if whose == number => {
                anyhow::ensure!(
                    payload.windows(5).any(|part| part == b"berth"),
                    "not a version: {payload:?}"
                );
                return Ok(());
            }
            _ => {}
        }
    }
}
