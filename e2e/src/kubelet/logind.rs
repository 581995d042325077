//! As much of a system bus with logind on it as a kubelet's node shutdown needs (D-Bus specification 0.43; logind's
//! Inhibit and PrepareForShutdown): this host has neither.

use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

const METHOD_RETURN: u8 = 2;
const SIGNAL: u8 = 4;
/// Codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_SERIAL: u8 = 5;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

/// What a kubelet that listens holds.
pub(crate) struct Listener {
    stream: UnixStream,
    /// The other end of what it was given by Inhibit: at its end when the kubelet lets go.
    inhibitor: io::PipeReader,
}

pub(crate) struct Logind {
    found: Receiver<Listener>,
}

impl Logind {
    /// Answers at `socket` from now on.
    pub(crate) fn start(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let (tell, found) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    // A client that goes away ends its thread.
                    let _ = serve(stream, |listener| tell.send(listener).is_ok());
                });
            }
        });
        Ok(Self { found })
    }

    /// The kubelet that inhibits shutdowns.
    pub(crate) fn listener(&self) -> Result<Listener> {
        self.found.recv_timeout(Duration::from_secs(30)).context("no kubelet inhibits a shutdown")
    }
}

impl Listener {
    pub(crate) fn prepare_for_shutdown(&mut self) -> Result<()> {
        let fields = [
            Field::Text(PATH, b'o', "/org/freedesktop/login1"),
            Field::Text(INTERFACE, b's', "org.freedesktop.login1.Manager"),
            Field::Text(MEMBER, b's', "PrepareForShutdown"),
            Field::Text(SIGNATURE, b'g', "b"),
        ];
        Ok(self.stream.write_all(&message(SIGNAL, &fields, &1_u32.to_le_bytes()))?)
    }

    /// Waits until the kubelet lets the shutdown go on.
    pub(crate) fn released(mut self) -> Result<()> {
        let mut nothing = Vec::new();
        self.inhibitor.read_to_end(&mut nothing)?;
        ensure!(nothing.is_empty(), "something was written to an inhibitor");
        Ok(())
    }
}

fn serve(stream: UnixStream, found: impl Fn(Listener) -> bool) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    reader.read_exact(&mut [0])?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let answer = match line.trim_end() {
            "BEGIN" => break,
            "NEGOTIATE_UNIX_FD" => "AGREE_UNIX_FD",
            line if line.starts_with("AUTH EXTERNAL") => "OK 0123456789abcdef0123456789abcdef",
            "" => return Ok(()),
            _ => "REJECTED EXTERNAL",
        };
        write!(writer, "{answer}\r\n")?;
    }
    loop {
        let call = Call::read(&mut reader)?;
        let reply = |signature: &str, body: &[u8]| {
            message(
                METHOD_RETURN,
                &[Field::Number(REPLY_SERIAL, call.serial), Field::Text(SIGNATURE, b'g', signature)],
                body,
            )
        };
        match call.member.as_str() {
            "Hello" => {
                let mut body = Vec::new();
                text(&mut body, ":1.1");
                writer.write_all(&reply("s", &body))?;
            }
            // InhibitDelayMaxUSec: a variant of a uint64, an hour.
            "Get" => {
                let mut body = vec![1, b't', 0, 0, 0, 0, 0, 0];
                body.extend(3_600_000_000_u64.to_le_bytes());
                writer.write_all(&reply("v", &body))?;
            }
            "Inhibit" => {
                let (inhibitor, held) = io::pipe()?;
                let fields = [
                    Field::Number(REPLY_SERIAL, call.serial),
                    Field::Text(SIGNATURE, b'g', "h"),
                    Field::Number(UNIX_FDS, 1),
                ];
                send(&stream, &message(METHOD_RETURN, &fields, &0_u32.to_le_bytes()), held.into())?;
                if !found(Listener { stream: stream.try_clone()?, inhibitor }) {
                    return Ok(());
                }
            }
            _ => {
                writer.write_all(&message(METHOD_RETURN, &[Field::Number(REPLY_SERIAL, call.serial)], &[]))?
            }
        }
    }
}

fn send(stream: &UnixStream, bytes: &[u8], fd: OwnedFd) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("half a message")) }
}

struct Call {
    serial: u32,
    member: String,
}

impl Call {
    /// Of a message the serial and the member's name matter here.
    fn read(from: &mut impl io::Read) -> io::Result<Self> {
        let mut head = [0; 16];
        from.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, serial, fields) = (number(4), number(8), number(12));
        let mut rest = vec![0; fields.next_multiple_of(8) as usize + body as usize];
        from.read_exact(&mut rest)?;
        let fields = &rest[..fields as usize];
        let mut at = 0;
        let mut member = String::new();
        while at + 4 < fields.len() {
            // Code and the variant's signature, which is of one letter in every field.
            let (code, kind) = (fields[at], fields[at + 2]);
            at += 4;
            let (start, length) = match kind {
                b's' | b'o' => (
                    at + 4,
                    u32::from_le_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]) as usize,
                ),
                b'g' => (at + 1, usize::from(fields[at])),
                _ => (at + 3, 0),
            };
            if code == MEMBER {
                member = String::from_utf8_lossy(&fields[start..start + length]).into_owned();
            }
            at = (start + length + 1).next_multiple_of(8);
        }
        Ok(Self { serial, member })
    }
}

enum Field<'a> {
    Number(u8, u32),
    /// Code, type, value.
    Text(u8, u8, &'a str),
}

fn pad(to: &mut Vec<u8>, boundary: usize) {
    to.resize(to.len().next_multiple_of(boundary), 0);
}

fn text(to: &mut Vec<u8>, value: &str) {
    pad(to, 4);
    to.extend((value.len() as u32).to_le_bytes());
    to.extend(value.as_bytes());
    to.push(0);
}

fn message(kind: u8, fields: &[Field<'_>], body: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    for field in fields {
        pad(&mut list, 8);
        match field {
            Field::Number(code, value) => {
                list.extend([*code, 1, b'u', 0]);
                list.extend(value.to_le_bytes());
            }
            Field::Text(code, kind, value) => {
                list.extend([*code, 1, *kind, 0]);
                if *kind == b'g' {
                    list.push(value.len() as u8);
                    list.extend(value.as_bytes());
                    list.push(0);
                } else {
                    text(&mut list, value);
                }
            }
        }
    }
    let mut bytes = vec![b'l', kind, 0, 1];
    bytes.extend((body.len() as u32).to_le_bytes());
    // Serials are for who wants answers.
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((list.len() as u32).to_le_bytes());
    bytes.extend(list);
    pad(&mut bytes, 8);
    bytes.extend(body);
    bytes
}
