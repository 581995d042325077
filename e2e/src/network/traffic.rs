//! Asking and answering, from whichever network namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_sys::netns::run_in;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Long enough for a lost packet's repetition.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `at` answers to somebody in `netns`: the body, of an HTTP answer.
pub(super) fn ask(netns: &OwnedFd, at: SocketAddr) -> io::Result<String> {
    run_in(netns.as_fd(), || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_owned()))
    })
}

/// That `at` answers with `word`.
pub(super) fn answers(netns: &OwnedFd, at: SocketAddr, word: &str) -> anyhow::Result<()> {
    match ask(netns, at) {
        Ok(found) if found == word => Ok(()),
        Ok(found) => anyhow::bail!("{at} answered {found:?}, not {word:?}"),
        Err(error) => anyhow::bail!("{at}: {error}"),
    }
}

/// Takes datagrams, and answers them or not, until it is dropped.
pub(super) struct Datagrams {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Datagrams {
    /// Answers on a port with a word.
    pub(super) fn serve(netns: &OwnedFd, port: u16, word: &'static str) -> io::Result<Self> {
        Self::answer(netns, ("::", port), move |_| Some(word.as_bytes().to_vec()))
    }

    /// At one address, so that this is what it answers from.
    pub(super) fn answer(
        netns: &OwnedFd,
        at: (&str, u16),
        to: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> io::Result<Self> {
        let socket = run_in(netns.as_fd(), || UdpSocket::bind(at))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                let mut packet = [0; 512];
                if let Ok((length, from)) = socket.recv_from(&mut packet)
                    && let Some(answer) = to(&packet[..length])
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client of datagrams with a port of its own.
pub(super) fn datagram_client(netns: &OwnedFd, to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = run_in(netns.as_fd(), || UdpSocket::bind(any))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    run_in(netns.as_fd(), || socket.connect(to))?;
    Ok(socket)
}

/// What comes back for one datagram.
pub(super) fn datagram(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Says to whoever connects which address it sees, until it is dropped.
pub(super) struct Mirror {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    netns: OwnedFd,
    port: u16,
}

impl Mirror {
    pub(super) fn serve(netns: &OwnedFd, port: u16) -> io::Result<Self> {
        let listener = run_in(netns.as_fd(), || TcpListener::bind(("::", port)))?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(PATIENCE));
                // Read before the end, else what was sent is answered by a reset.
                let _ = stream.read(&mut [0; 64]);
                let from = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
                let _ = stream.write_all(from.unwrap_or_default().as_bytes());
            }
        });
        Ok(Self { ended, thread: Some(thread), netns: netns.try_clone()?, port })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It waits for somebody to come.
        let at = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), self.port);
        let woken = run_in(self.netns.as_fd(), || TcpStream::connect_timeout(&at, PATIENCE));
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            let _ = thread.join();
        }
    }
}

/// That an address answers an echo request (RFC 792, RFC 4443).
pub(super) fn echo(netns: &OwnedFd, to: IpAddr) -> anyhow::Result<()> {
    let (family, protocol, asks, answers) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let socket =
        run_in(netns.as_fd(), || Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    let mut request = [asks, 0, 0, 0, 0x42, 0x42, 0, 1];
    if to.is_ipv4() {
        // Of IPv6 the kernel makes it.
        let sum: u32 = request.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        request[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    let at = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(socket.as_raw_fd(), &request, &at, MsgFlags::empty())?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let mut buffer = [0; 512];
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::errno::Errno::EAGAIN) => continue,
            received => received?,
        };
        // With IPv4's header.
        let behind = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let message = buffer.get(behind..length).unwrap_or_default();
        if message.first() == Some(&answers) && message.get(4..8) == Some(&request[4..8]) {
            return Ok(());
        }
    }
    anyhow::bail!("{to} does not answer an echo request")
}
