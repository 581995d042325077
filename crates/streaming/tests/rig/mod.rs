//! A server over real processes, and clients that speak the two protocols through the crate's own codecs.
#![allow(clippy::unwrap_used, dead_code, reason = "every test takes what it needs of it")]

use std::net::{Ipv4Addr, TcpListener as Listening};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use berth_ids::ErrorClass;
use berth_streaming::{Backend, Control, Failure, Process, Server, Settings, Streams, Target, Urls};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

pub(crate) mod spdy;
pub(crate) mod websocket;

/// A wait that ends is far shorter.
pub(crate) const LONG: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(crate) struct World {
    pub(crate) sizes: Mutex<Vec<(u16, u16)>>,
    pub(crate) abandoned: AtomicUsize,
    pub(crate) waited: AtomicUsize,
    /// Ports below which nobody listens are refused without a connection.
    pub(crate) connected: AtomicUsize,
}

struct Running {
    child: Mutex<Option<Child>>,
    pid: u32,
    world: Arc<World>,
}

#[async_trait]
impl Control for Running {
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), Failure> {
        self.world.sizes.lock().push((columns, rows));
        Ok(())
    }

    async fn wait(&self) -> Result<i32, Failure> {
        loop {
            let status = match &mut *self.child.lock() {
                Some(child) => child.try_wait().unwrap(),
                None => return Ok(137),
            };
            if let Some(status) = status {
                self.world.waited.fetch_add(1, Ordering::SeqCst);
                return Ok(status.code().unwrap_or(137));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn abandon(&self) {
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.world.abandoned.fetch_add(1, Ordering::SeqCst);
    }
}

fn nonblocking(fd: impl Into<OwnedFd>) -> OwnedFd {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let fd = fd.into();
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    fd
}

pub(crate) struct Processes(pub(crate) Arc<World>);

#[async_trait]
impl Backend for Processes {
    async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Process, Failure> {
        if container != "there" {
            return Err(Failure::new(ErrorClass::NotFound, format!("no container {container}")));
        }
        let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(pipe(streams.stdin))
            .stdout(pipe(streams.stdout))
            .stderr(pipe(streams.stderr))
            .spawn()
            .map_err(|error| Failure::new(ErrorClass::Internal, error.to_string()))?;
        Ok(Process {
            stdin: child.stdin.take().map(nonblocking),
            stdout: child.stdout.take().map(nonblocking),
            stderr: child.stderr.take().map(nonblocking),
            control: Arc::new(Running {
                pid: child.id(),
                child: Mutex::new(Some(child)),
                world: self.0.clone(),
            }),
        })
    }

    async fn attach(&self, container: &str, streams: Streams) -> Result<Process, Failure> {
        let talk = "read code; echo $code; exit $code";
        self.exec(container, vec!["sh".into(), "-c".into(), talk.into()], streams).await
    }

    async fn connect(&self, _: &str, port: u16) -> Result<OwnedFd, Failure> {
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let stream = connected.map_err(|error| {
            Failure::new(ErrorClass::Unavailable, format!("connect to port {port}: {error}"))
        })?;
        self.0.connected.fetch_add(1, Ordering::SeqCst);
        Ok(nonblocking(stream.into_std().unwrap()))
    }
}

pub(crate) struct Rig {
    pub(crate) world: Arc<World>,
    pub(crate) urls: Urls,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Settings {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            tls: None,
            idle: Duration::from_secs(3600),
        })
        .await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let world = Arc::new(World::default());
        let server = Server::bind(settings).await.unwrap();
        let urls = server.urls();
        let (stop, stopped) = oneshot::channel();
        let backend = Arc::new(Processes(world.clone()));
        let served = tokio::spawn(server.serve(backend, async {
            let _ = stopped.await;
        }));
        Self { world, urls, stop: Some(stop), served: Some(served) }
    }

    /// Ends the server, as the daemon's end does.
    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.served.take().unwrap().await.unwrap();
    }

    pub(crate) fn exec(&self, command: &[&str], streams: Streams) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.urls.url(Target::Exec { container: "there".into(), command, streams }).unwrap()
    }

    pub(crate) fn shell(&self, script: &str, streams: Streams) -> String {
        self.exec(&["sh", "-c", script], streams)
    }

    pub(crate) fn forward(&self, ports: &[u16]) -> String {
        self.urls.url(Target::PortForward { sandbox: "s".into(), ports: ports.to_vec() }).unwrap()
    }
}

pub(crate) fn streams(text: &str) -> Streams {
    let has = |letter| text.contains(letter);
    Streams { tty: has('t'), stdin: has('i'), stdout: has('o'), stderr: has('e') }
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Asks for an upgrade; the connection, and the head of the answer.
pub(crate) async fn ask(url: &str, headers: &str) -> (TcpStream, String, Vec<u8>) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = answer.split_off(end + 4);
            return (stream, String::from_utf8(answer).unwrap(), rest);
        }
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "no answer");
    }
}

/// A port with somebody behind it: what he says is up to `with`.
pub(crate) fn listen(with: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = Listening::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let with = Arc::new(with);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let with = with.clone();
            std::thread::spawn(move || with(stream.unwrap()));
        }
    });
    port
}

/// A port with nobody behind it.
pub(crate) fn nobody() -> u16 {
    Listening::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
