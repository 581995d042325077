//! Between the daemon and a registry: lets so many bytes of answers through, then cuts or stalls.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;

pub(super) struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    to: String,
    left: AtomicU64,
    stall: bool,
    /// The last byte that is let through has been.
    reached: AtomicBool,
    ended: AtomicBool,
}

impl Proxy {
    pub(super) fn start(to: &str, bytes: u64, stall: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            to: to.to_owned(),
            left: AtomicU64::new(bytes),
            stall,
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

    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn reached(&self) -> bool {
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
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut asked, &mut asks);
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
        if let_through < got {
            state.reached.store(true, Ordering::Relaxed);
            while state.stall && !state.ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            let _ = server.shutdown(Shutdown::Both);
            return client.shutdown(Shutdown::Both);
        }
    }
}
