//! The HTTP server behind the URLs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berth_ids::{Classify, ErrorClass};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::http::{self, HeadError, Request};
use crate::negotiate::{Agreed, Protocol, Refused, agree};
use crate::session::{self, Around, Destination, Outlet, Source};
use crate::tls::Keeper;
use crate::token::Urls;
use crate::transport::{Connection, Reader, Socket, Writer};
use crate::{Backend, Target, Tls, TlsError};

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: u32 = 4096;
/// How long a client has for TLS and its request.
const GREETING: Duration = Duration::from_secs(10);
/// How long clients have to hear that the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often certificates are looked at.
const REFRESH: Duration = Duration::from_secs(10);
/// After a failed accept(2), which mostly means that there are no descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens, and what its URLs say; 0.0.0.0 and :: are told as the loopback address.
    pub address: IpAddr,
    /// 0: any free one.
    pub port: u16,
    pub tls: Option<Tls>,
    /// A stream on which nothing moves for so long is ended.
    pub idle: Duration,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listen on {address} for streams")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the certificates of the streaming server")]
    Tls(#[from] TlsError),
}

impl Classify for BindError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

/// A bound server, which answers once it is served.
pub struct Server {
    listener: TcpListener,
    urls: Urls,
    tls: Option<Arc<Keeper>>,
    idle: Duration,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// What goes on in a server, for whoever looks at it; clones look at the same one.
#[derive(Clone)]
pub struct Gauge {
    places: Arc<Semaphore>,
    urls: Urls,
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("open", &self.open()).finish_non_exhaustive()
    }
}

impl Gauge {
    /// Connections of clients.
    pub fn open(&self) -> usize {
        // One place is that of the client who is waited for.
        (CONNECTIONS_MAX as usize).saturating_sub(self.places.available_permits() + 1)
    }

    /// URLs that were given out and not yet used.
    pub fn waiting(&self) -> usize {
        self.urls.waiting()
    }
}

struct Shared {
    urls: Urls,
    backend: Arc<dyn Backend>,
    tls: Option<Arc<Keeper>>,
    idle: Duration,
    stop: watch::Receiver<bool>,
}

impl Server {
    pub async fn bind(settings: Settings) -> Result<Self, BindError> {
        let address = SocketAddr::new(settings.address, settings.port);
        let failed = |source| BindError::Listen { address, source };
        let tls = match settings.tls {
            None => None,
            Some(files) => {
                let opened = tokio::task::spawn_blocking(move || Keeper::open(files)).await;
                Some(Arc::new(opened.map_err(|lost| failed(io::Error::other(lost)))??))
            }
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let mut bound = listener.local_addr().map_err(failed)?;
        match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => bound.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => bound.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let urls = Urls::new(format!("{scheme}://{bound}"));
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        Ok(Self { listener, urls, tls, idle: settings.idle, places })
    }

    /// Shows what goes on.
    pub fn gauge(&self) -> Gauge {
        Gauge { places: self.places.clone(), urls: self.urls.clone() }
    }

    /// Hands out the URLs that this server answers.
    pub fn urls(&self) -> Urls {
        self.urls.clone()
    }

    /// Answers until `stop` resolves; then streams are told, and get a moment to end.
    pub async fn serve(self, backend: Arc<dyn Backend>, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let places = self.places;
        let shared =
            Arc::new(Shared { urls: self.urls, backend, tls: self.tls, idle: self.idle, stop: stopped });
        let accepting = accept(self.listener, shared.clone(), places.clone());
        tokio::select! {
            () = accepting => {}
            () = refresh(shared.tls.clone()) => {}
            () = stop => {}
        }
        stopping.send_replace(true);
        if tokio::time::timeout(FAREWELL, places.acquire_many(CONNECTIONS_MAX)).await.is_err() {
            tracing::info!("some streams are cut");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, places: Arc<Semaphore>) {
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    connection(stream, &shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accept a stream's client");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Looks at the certificates from time to time; without TLS it waits for ever.
async fn refresh(tls: Option<Arc<Keeper>>) {
    let Some(keeper) = tls else { return std::future::pending().await };
    loop {
        tokio::time::sleep(REFRESH).await;
        let keeper = keeper.clone();
        if tokio::task::spawn_blocking(move || keeper.refresh()).await.is_err() {
            tracing::error!("the certificates could not be looked at");
        }
    }
}

/// One client: its one request, then the stream. Each part is a box of its own: a stream that rests does not keep the room
/// that its beginning took.
async fn connection(stream: TcpStream, shared: &Shared) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "a connection keeps the kernel's settings");
    }
    let socket = Socket::new(stream);
    let (client, request) =
        match tokio::time::timeout(GREETING, Box::pin(greet(socket.clone(), shared))).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no request came");
                return;
            }
            Err(_) => {
                tracing::debug!("no request came within {GREETING:?}");
                return;
            }
        };
    let Some((client, target, protocol)) = Box::pin(answer(client, request, shared)).await else { return };
    tracing::debug!(?protocol, ?target, "a stream begins");
    let activity = Arc::new(AtomicU64::new(0));
    let around = Around { socket, stop: shared.stop.clone(), activity, idle: shared.idle };
    Box::pin(begin(client, around, protocol, target, shared.backend.clone())).await;
}

/// TLS where it is spoken, and the request.
async fn greet(socket: Socket, shared: &Shared) -> Result<(Client, Request), HeadError> {
    let connection = match &shared.tls {
        None => Connection::Plain(socket),
        Some(keeper) => {
            let accepted = TlsAcceptor::from(keeper.config()).accept(socket).await;
            Connection::Tls(Box::new(accepted.map_err(HeadError::Read)?))
        }
    };
    let plain = connection.plain();
    let (mut reader, writer) = connection.split();
    let (request, first) = http::head(&mut reader).await?;
    Ok((Client { reader, writer, first, plain }, request))
}

/// What the URL stands for and the protocol, once the client knows it too; nothing where it was refused.
async fn answer(mut client: Client, request: Request, shared: &Shared) -> Option<(Client, Target, Protocol)> {
    let Some(target) = shared.urls.redeem(&request.path) else {
        let text = "this URL leads nowhere: it is used, older than a minute or was never given out";
        let _ = http::refuse(&mut client.writer, "404 Not Found", &[], text).await;
        return None;
    };
    let forward = matches!(target, Target::PortForward { .. });
    let agreed = agree(&request, forward).and_then(|agreed| ports(agreed, &target));
    let Agreed { protocol, headers } = match agreed {
        Ok(agreed) => agreed,
        Err(refused) => {
            let headers: Vec<_> =
                refused.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let _ = http::refuse(&mut client.writer, refused.status, &headers, &refused.text).await;
            return None;
        }
    };
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    http::upgrade(&mut client.writer, &headers).await.ok()?;
    Some((client, target, protocol))
}

/// Small frames go out at once, and a client whose machine is gone is noticed within two minutes.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    Ok(())
}

/// Port-forward over channels needs the ports from the RPC.
fn ports(agreed: Agreed, target: &Target) -> Result<Agreed, Refused> {
    let without =
        matches!(target, Target::PortForward { ports, .. } if ports.is_empty() || ports.len() > 128);
    match agreed.protocol {
        Protocol::ChannelsForward { .. } if without => Err(Refused {
            status: "400 Bad Request",
            headers: Vec::new(),
            text: "port-forward over WebSocket channels needs 1 to 128 ports in the PortForward request"
                .into(),
        }),
        _ => Ok(agreed),
    }
}

/// A connection whose request was read.
struct Client {
    reader: Reader,
    writer: Writer,
    /// What came behind the request.
    first: Vec<u8>,
    /// What reader and writer are, without TLS.
    plain: Option<Socket>,
}

async fn begin(
    Client { reader, writer, first, plain }: Client,
    around: Around,
    protocol: Protocol,
    target: Target,
    backend: Arc<dyn Backend>,
) {
    let activity = around.activity.clone();
    let (source, outlet) = match protocol {
        Protocol::Spdy { .. } | Protocol::SpdyForward => {
            let source = Source::spdy(reader, &first, activity.clone()).over(plain.clone());
            (source, Outlet::spdy(writer, activity).over(plain))
        }
        Protocol::TunnelForward => {
            let (reader, writer) = session::tunnel(reader, writer, &first, activity.clone());
            (Source::spdy(reader, &[], activity.clone()), Outlet::spdy(writer, activity))
        }
        Protocol::Channels { base64, close, .. } => (
            Source::channels(reader, &first, activity.clone(), base64, close),
            Outlet::channels(writer, activity, base64).over(plain),
        ),
        Protocol::ChannelsForward { base64 } => (
            Source::channels(reader, &first, activity.clone(), base64, false),
            Outlet::channels(writer, activity, base64).over(plain),
        ),
    };
    match target {
        Target::PortForward { sandbox, ports } => {
            let fixed = match protocol {
                Protocol::ChannelsForward { .. } => ports,
                _ => Vec::new(),
            };
            Box::pin(session::forward(source, outlet, around, Destination { backend, sandbox, fixed })).await;
        }
        target => {
            let (source, outlet) = (Box::new(source), Arc::new(outlet));
            Box::pin(session::remote(source, outlet, around, protocol, target, backend)).await;
        }
    }
}
