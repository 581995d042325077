//! A small HTTP server whose answers may be wrong in any way: what it sends is written to the socket as it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// With its query.
    pub(super) path: String,
    headers: HashMap<String, String>,
    pub(super) body: String,
    /// The same as it came.
    pub(super) content: Vec<u8>,
}

impl Request {
    /// By its name in lower case; empty when it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first byte that is asked for.
    pub(super) fn from(&self) -> usize {
        let range = self.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        range.and_then(|start| start.parse().ok()).unwrap_or(0)
    }
}

/// How the body goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    /// With its length.
    Whole,
    /// In chunks, without a length.
    Chunked,
    /// The length of the whole, so many bytes, and the connection is cut.
    Cut(usize),
    /// The same, and nothing more until the client goes.
    Stall(usize),
    /// Chunks that never end.
    Endless,
    /// In so many pieces, with a pause between them.
    Slow(usize),
    /// Another length than the body has, which is made to be so long.
    Length(usize),
    /// These bytes and no HTTP.
    Noise,
    /// Nothing: the connection ends.
    Nothing,
    /// As a cut, and the port is closed for [`AWAY`].
    Away(usize),
    /// What comes and goes from here on is another address's, as a proxy has it.
    Tunnel(String),
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) how: How,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), how: How::Whole }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }
}

/// How long a port is closed.
const AWAY: Duration = Duration::from_millis(500);

/// Answers a request; the number counts those for the same path from 1.
pub(super) type Answer = Arc<dyn Fn(&Request, usize) -> Reply + Send + Sync>;

/// On a loopback port until it is dropped.
pub(super) struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    answer: Arc<Mutex<Answer>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let answer = Arc::new(Mutex::new(answer));
        let (known, answers) = (seen.clone(), answer.clone());
        let (leave, mut leaving) = mpsc::channel::<oneshot::Sender<()>>(1);
        let own = address.clone();
        let task = tokio::spawn(async move {
            let mut listener = listener;
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        Err(_) => break,
                    },
                    Some(left) = leaving.recv() => {
                        drop(listener);
                        // Whoever asked for it goes on when the port is closed.
                        let _ = left.send(());
                        tokio::time::sleep(AWAY).await;
                        listener = match TcpListener::bind(&own).await {
                            Ok(listener) => listener,
                            Err(_) => break,
                        };
                        continue;
                    }
                };
                let (known, answers, leave) = (known.clone(), answers.clone(), leave.clone());
                // A client that goes ends its connection; that is no failure here.
                tokio::spawn(async move {
                    let _ = serve(stream, &known, &answers, &leave).await;
                });
            }
        });
        Ok(Self { address, seen, answer, task })
    }

    pub(super) fn host(&self) -> &str {
        &self.address
    }

    /// From now on.
    pub(super) fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answers: &Mutex<Answer>,
    leave: &mpsc::Sender<oneshot::Sender<()>>,
) -> std::io::Result<()> {
    let Some(request) = read(&mut stream).await? else { return Ok(()) };
    let count = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(request.clone());
        seen.iter().filter(|one| one.path == request.path && one.method == request.method).count()
    };
    let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let reply = answer(&request, count);
    if let How::Tunnel(to) = &reply.how {
        let mut far = TcpStream::connect(to).await?;
        stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await?;
        return tokio::io::copy_bidirectional(&mut stream, &mut far).await.map(drop);
    }
    let away = matches!(reply.how, How::Away(_));
    write(&mut stream, &request, reply).await?;
    if away {
        let (left, gone) = oneshot::channel();
        if leave.send(left).await.is_ok() {
            let _ = gone.await;
        }
    }
    stream.shutdown().await
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > 64 * 1024 || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < end + 4 + length && stream.read_buf(&mut bytes).await? > 0 {}
    let content = bytes.split_off(end + 4);
    let body = String::from_utf8_lossy(&content).into_owned();
    Ok(Some(Request { method, path, headers, body, content }))
}

async fn write(stream: &mut TcpStream, request: &Request, reply: Reply) -> std::io::Result<()> {
    let Reply { status, headers, body, how } = reply;
    match how {
        How::Nothing => return Ok(()),
        How::Noise => return stream.write_all(&body).await,
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    let chunked = matches!(how, How::Chunked | How::Endless);
    head += &match how {
        _ if chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        How::Length(length) => format!("Content-Length: {length}\r\n"),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match how {
        How::Cut(bytes) | How::Away(bytes) => stream.write_all(&body[..bytes.min(body.len())]).await,
        How::Stall(bytes) => {
            stream.write_all(&body[..bytes.min(body.len())]).await?;
            stream.flush().await?;
            let mut end = [0];
            let _ = stream.read(&mut end).await;
            Ok(())
        }
        How::Endless => loop {
            let chunk = vec![b' '; 65536];
            stream.write_all(b"10000\r\n").await?;
            stream.write_all(&chunk).await?;
            stream.write_all(b"\r\n").await?;
        },
        How::Slow(pieces) => {
            for piece in body.chunks(body.len().div_ceil(pieces.max(1)).max(1)) {
                stream.write_all(piece).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            Ok(())
        }
        How::Chunked => {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await?;
            stream.write_all(&body).await?;
            stream.write_all(b"\r\n0\r\n\r\n").await
        }
        How::Length(length) => {
            let mut body = body;
            body.resize(length, b' ');
            stream.write_all(&body).await
        }
        _ => stream.write_all(&body).await,
    }
}
