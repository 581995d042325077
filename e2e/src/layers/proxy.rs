//! Between the daemon and a registry: lets so many bytes of answers through, as slowly as it is told, then cuts or stalls.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

/// What it does beyond passing bytes on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ways {
    /// At the end nothing more comes; else the connection is cut.
    pub(crate) stall: bool,
    /// Bytes of answers in a second, of all connections together.
    pub(crate) rate: Option<u64>,
    /// Bytes of requests in a second, of each connection.
    pub(crate) asked_rate: Option<u64>,
    /// The registry hears nothing of ranges.
    pub(crate) whole: bool,
}

struct State {
    to: String,
    bytes: u64,
    left: AtomicU64,
    ways: Ways,
    /// The last byte that is let through has been.
    reached: AtomicBool,
    ended: AtomicBool,
}

impl Proxy {
    pub(crate) fn start(to: &str, bytes: u64, stall: bool) -> Result<Self> {
        Self::with(to, bytes, Ways { stall, ..Ways::default() })
    }

    pub(crate) fn with(to: &str, bytes: u64, ways: Ways) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            to: to.to_owned(),
            bytes,
            left: AtomicU64::new(bytes),
            ways,
            reached: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let state = shared.clone();
                std::thread::spawn(move || drop(connection(&client, &state)));
            }
        });
        Ok(Self { port, state })
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Bytes of answers that were let through.
    pub(crate) fn passed(&self) -> u64 {
        self.state.bytes - self.state.left.load(Ordering::Relaxed)
    }

    pub(crate) fn reached(&self) -> bool {
        self.state.reached.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connection(client: &TcpStream, state: &State) -> std::io::Result<()> {
    let server = TcpStream::connect(&state.to)?;
    let (mut asked, mut asks) = (client.try_clone()?, server.try_clone()?);
    let ways = state.ways;
    std::thread::spawn(move || {
        let _ = forward(&mut asked, &mut asks, ways);
        let _ = asks.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 16 << 10];
    let (mut from, mut to) = (&server, client);
    loop {
        let got = from.read(&mut buffer)? as u64;
        if got == 0 {
            return client.shutdown(Shutdown::Both);
        }
        let before = state.left.load(Ordering::Relaxed);
        let let_through = got.min(before);
        state.left.store(before - let_through, Ordering::Relaxed);
        to.write_all(&buffer[..let_through as usize])?;
        hold(let_through, state.ways.rate);
        if let_through < got {
            state.reached.store(true, Ordering::Relaxed);
            while state.ways.stall && !state.ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            let _ = server.shutdown(Shutdown::Both);
            return client.shutdown(Shutdown::Both);
        }
    }
}

/// As long as so many bytes take.
fn hold(bytes: u64, rate: Option<u64>) {
    if let Some(rate) = rate {
        std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
    }
}

/// Requests, whose heads come in one piece from our client.
fn forward(from: &mut TcpStream, to: &mut TcpStream, ways: Ways) -> std::io::Result<()> {
    const NAME: &[u8] = b"\r\nrange:";
    let mut buffer = vec![0; 16 << 10];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        let head = &mut buffer[..got];
        if let Some(at) = head.windows(NAME.len()).position(|window| window == NAME).filter(|_| ways.whole) {
            head[at + 2] = b'x';
        }
        to.write_all(head)?;
        hold(got as u64, ways.asked_rate);
    }
}
