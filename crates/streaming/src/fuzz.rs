//! Doors for `crates/fuzz` to what no other crate may see. Nothing here waits for anybody: what a client sends is all there.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::ErrorClass;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::http;
use crate::negotiate::{Ending, Protocol, agree};
use crate::session::{Around, Destination, Outlet, Said, Sizes, Source, catch, forward, remote, worth};
use crate::spdy::{self, Headers};
use crate::transport::{Reader, Socket, Writer};
use crate::{Backend, Control, Failure, Process, Streams, Target};

pub const SIZE_KEPT_MAX: usize = crate::session::SIZE_KEPT_MAX;

/// Far more than any session takes that waits for nobody.
const HANGS: Duration = Duration::from_secs(20);

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local!(static RUNTIME: Runtime = runtime().expect("a runtime"));
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Bytes that come in pieces of `step`, then the end.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl Pieces {
    fn reader(bytes: &[u8], step: usize) -> Reader {
        Box::new(Self { bytes: bytes.to_vec(), at: 0, step })
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.len().min(self.step).min(buf.remaining());
        buf.put_slice(rest.get(..length).unwrap_or_default());
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Written {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The headers of an inflated block.
pub fn header_block(block: &[u8]) -> Result<Headers, spdy::Error> {
    Headers::parse(block)
}

/// A frame that opens stream 1 with this block, whatever it holds.
pub fn syn_stream(block: &[u8]) -> Vec<u8> {
    spdy::Encoder::default().open_raw(block)
}

/// What a client over WebSocket channels said.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Data { channel: u32, bytes: Vec<u8>, fin: bool },
    Other(String),
}

/// All that a client's bytes come to, and whether they end in an error of the client's.
pub fn channels(bytes: &[u8], step: usize, base64: bool, close: bool) -> (Vec<Told>, bool) {
    let mut source =
        Source::channels(Pieces::reader(bytes, step), &[], Arc::new(AtomicU64::new(0)), base64, close);
    let mut told = Vec::new();
    let broken = run(async {
        while source.fill().await.is_ok() {
            loop {
                match source.said() {
                    Ok(Some(Said::Data { channel, bytes, fin })) => {
                        told.push(Told::Data { channel, bytes: bytes.into_owned(), fin });
                    }
                    Ok(Some(Said::Nothing)) => {}
                    Ok(Some(other)) => told.push(Told::Other(format!("{other:?}"))),
                    Ok(None) => break,
                    Err(_) => return true,
                }
            }
        }
        false
    });
    (told, broken)
}

/// The same for a client of SPDY, whose frames of `least` bytes or more pass through a pipe. An error's text ends it.
pub fn caught(bytes: &[u8], step: usize, least: usize) -> (Vec<Told>, Option<String>) {
    use std::io::{Read as _, Write as _};
    let (mut client, mut server) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    server.set_nonblocking(true).expect("not to wait");
    let mut decoder = spdy::Decoder::new();
    let (mut told, mut head) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        client.write_all(piece).expect("the socket holds as much");
        loop {
            let mut rest = Vec::new();
            let mut looked = false;
            if worth(&decoder, least) {
                match catch(&mut decoder, &mut head, server.as_fd(), least) {
                    Ok(Some(caught)) => {
                        looked = true;
                        rest = caught.rest;
                        if let Some((spdy::StreamId(channel), mut pipe, fin)) = caught.piped {
                            let mut bytes = Vec::new();
                            pipe.copy(&mut bytes).expect("what is in the pipe");
                            told.push(Told::Data { channel, bytes, fin });
                        }
                    }
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            if !looked {
                let mut room = [0; 512];
                let Ok(length) = server.read(&mut room) else { break };
                rest.extend(room.iter().take(length));
            }
            let mut input = rest.as_slice();
            while !input.is_empty() {
                let (taken, event) = match decoder.decode(input) {
                    Ok(decoded) => decoded,
                    Err(error) => return (told, Some(error.to_string())),
                };
                input = input.get(taken..).unwrap_or_default();
                match event {
                    Some(spdy::Event::Data { stream, bytes, fin }) => {
                        told.push(Told::Data { channel: stream.0, bytes: bytes.to_vec(), fin });
                    }
                    Some(other) => told.push(Told::Other(format!("{other:?}"))),
                    None => {}
                }
            }
        }
    }
    (told, None)
}

/// A request's path, and all that the server would answer: as status and header values, for a port-forward and else.
pub fn request(bytes: &[u8], step: usize) -> Option<(String, Vec<String>)> {
    let mut reader = Pieces::reader(bytes, step);
    let (request, _) = run(http::head(&mut reader)).ok()?;
    let mut answers = Vec::new();
    for forward in [false, true] {
        match agree(&request, forward) {
            Ok(agreed) => answers.extend(agreed.headers.into_iter().map(|(_, value)| value)),
            Err(refused) => {
                answers.push(refused.status.to_owned());
                answers.extend(refused.headers.into_iter().map(|(_, value)| value));
            }
        }
    }
    Some((request.path, answers))
}

/// The newest size, and how many bytes wait for more.
pub fn sizes(bytes: &[u8], step: usize) -> (Option<(u16, u16)>, usize) {
    let mut sizes = Sizes::default();
    bytes.chunks(step).for_each(|piece| sizes.take(piece));
    (sizes.newest(), sizes.kept())
}

/// One session over the whole of a client's bytes. `kind` says what it is: its protocol, and how what is behind it behaves.
/// What the server wrote comes back, and whether that is SPDY.
pub fn session(kind: u8, bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let written = Written::default();
    let writer: Writer = Box::new(written.clone());
    let reader = Pieces::reader(bytes, step);
    let is_spdy = kind & 1 == 0;
    let base64 = kind & 2 != 0;
    let is_forward = kind & 4 != 0;
    let (tty, quick) = (kind & 8 != 0, kind & 16 != 0);
    run(async {
        let activity = Arc::new(AtomicU64::new(0));
        let (source, outlet) = match is_spdy {
            true => (Source::spdy(reader, &[], activity.clone()), Outlet::spdy(writer, activity.clone())),
            false => (
                Source::channels(reader, &[], activity.clone(), base64, kind & 32 != 0),
                Outlet::channels(writer, activity.clone(), base64),
            ),
        };
        let (_stopping, stop) = watch::channel(false);
        let around = Around { socket: socket().await, stop, activity, idle: HANGS };
        let backend = Arc::new(World { quick, ends: Mutex::default() });
        let over = async {
            if is_forward {
                let fixed = if is_spdy { Vec::new() } else { vec![80, 443] };
                let destination = Destination { backend, sandbox: String::new(), fixed };
                forward(source, outlet, around, destination).await;
            } else {
                let ending = if kind & 64 != 0 { Ending::Text } else { Ending::Status };
                let protocol = match is_spdy {
                    true => Protocol::Spdy { ending, resize: kind & 32 != 0 },
                    false => Protocol::Channels { base64, ending, close: kind & 32 != 0 },
                };
                let streams = Streams { tty, stdin: true, stdout: true, stderr: !tty };
                let target = Target::Exec { container: String::new(), command: Vec::new(), streams };
                remote(Box::new(source), Arc::new(outlet), around, protocol, target, backend).await;
            }
        };
        tokio::time::timeout(HANGS / 2, over).await.expect("a session whose client is gone ends");
    });
    let written = std::mem::take(&mut *written.0.lock());
    (written, is_spdy)
}

/// A connection that nobody closes, for sessions to look at.
async fn socket() -> Socket {
    thread_local!(static PAIR: Mutex<Option<(Socket, TcpStream)>> = const { Mutex::new(None) });
    if let Some(socket) = PAIR.with(|pair| pair.lock().as_ref().map(|(socket, _)| socket.clone())) {
        return socket;
    }
    let made = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        Ok::<_, io::Error>((Socket::new(listener.accept().await?.0), client))
    };
    let made = made.await.expect("a connection on loopback");
    let socket = made.0.clone();
    PAIR.with(|pair| *pair.lock() = Some(made));
    socket
}

/// Behind a session: sockets whose other ends are kept, so that nobody hangs up.
struct World {
    quick: bool,
    ends: Mutex<Vec<OwnedFd>>,
}

impl World {
    fn end(&self) -> Result<OwnedFd, Failure> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, flags);
        let (ours, theirs) = pair.map_err(|error| Failure::new(ErrorClass::Internal, error.to_string()))?;
        self.ends.lock().push(theirs);
        Ok(ours)
    }
}

#[async_trait]
impl Backend for World {
    async fn exec(&self, _: &str, _: Vec<String>, streams: Streams) -> Result<Process, Failure> {
        let end = |wanted: bool| wanted.then(|| self.end()).transpose();
        Ok(Process {
            stdin: end(streams.stdin)?,
            stdout: end(streams.stdout)?,
            stderr: end(streams.stderr)?,
            control: Arc::new(Handle { quick: self.quick }),
        })
    }

    async fn attach(&self, _: &str, streams: Streams) -> Result<Process, Failure> {
        self.exec("", Vec::new(), streams).await
    }

    async fn connect(&self, _: &str, port: u16) -> Result<OwnedFd, Failure> {
        match port % 2 {
            0 => self.end(),
            _ => Err(Failure::new(ErrorClass::Unavailable, "refused")),
        }
    }
}

struct Handle {
    quick: bool,
}

#[async_trait]
impl Control for Handle {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), Failure> {
        assert!(columns > 0 && rows > 0);
        Ok(())
    }

    async fn wait(&self) -> Result<i32, Failure> {
        match self.quick {
            true => Ok(0),
            false => std::future::pending().await,
        }
    }

    async fn abandon(&self) {}
}
