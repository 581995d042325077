use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::signals::Signals;
use super::socket::{self, SocketFile};
use super::{DaemonError, limits, lock, logging, paths};
use crate::admin::{self, AdminBackend, Failure, ImageVerb, NetworkCheck, NetworkReport, PodNetwork};
use crate::config::Config;

/// At once in system calls that may wait: pulls, disks, the kernel's locks. More wait in line.
const BLOCKING_THREADS: usize = 128;

/// Of the allocator: with its default, 40 pods made at once left 8 MiB unused but kept. A second one would keep a megabyte
/// and is not missed: threads have caches of their own before it.
const HEAP_ARENAS: u8 = 1;

/// The runtime put together: what [`crate::wiring`] gives.
pub(crate) struct Wired {
    /// Answers the CRI verbs.
    pub(crate) backend: Arc<dyn berth_server::Backend>,
    pub(crate) admin: Arc<dyn AdminBackend>,
    /// Serves exec, attach and port-forward over what comes next.
    pub(crate) streaming: berth_streaming::Server,
    pub(crate) streams: Arc<dyn berth_streaming::Backend>,
}

/// Runs the daemon to its end. `warnings` are told once the log is there.
///
/// Single-threaded up to the async runtime: umask(2) and the locks are the whole process's.
pub(crate) fn serve(config: &Config, warnings: &[String]) -> Result<(), DaemonError> {
    // Nothing the daemon makes is for others; what a container must read is opened up by who makes it.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    paths::make_directory(&config.state)?;
    paths::make_directory(&config.root)?;
    let _locks = lock::take(&config.name, &[&config.state, &config.root])?;
    logging::start(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match limits::raise_descriptors() {
        Ok(descriptors) => tracing::debug!(descriptors, "descriptors the daemon may have open"),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the descriptor limit stays"),
    }
    if !berth_sys::process::limit_heap_arenas(HEAP_ARENAS) {
        tracing::debug!("the allocator has no arenas to limit");
    }
    // A thread that blocks keeps its stack and its share of the heap: many are made in a burst, few are kept.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berth")
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(2))
        .build();
    let runtime = runtime.map_err(|source| DaemonError::Runtime { source })?;
    let ended = runtime.block_on(run(config));
    // Blocking work that hangs (a dead registry, a stuck disk) must not keep the process; the journal settles it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn run(config: &Config) -> Result<(), DaemonError> {
    let mut signals = Signals::take().map_err(|source| DaemonError::Signals { source })?;
    tracing::info!(
        name = config.name,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        state = %config.state.display(),
        root = %config.root.display(),
        "starting"
    );
    let wired = crate::wiring::build(config).await.map_err(|source| DaemonError::Build { source })?;

    let (stop, stopped) = watch::channel(false);
    let admin_path = config.admin_socket();
    let listener = admin::server::listen(&admin_path);
    let listener = listener.map_err(|source| DaemonError::Listen { path: admin_path.clone(), source })?;
    let _admin_file = SocketFile::of(admin_path.clone());
    let gauge = wired.streaming.gauge();
    let instance = Arc::new(Instance { config: config.clone(), inner: wired.admin, gauge });
    let mut admin = tokio::spawn(admin::server::serve(listener, instance, stop.clone()));
    tracing::info!(socket = %admin_path.display(), "admin requests are answered");

    tracing::info!(url = wired.streaming.urls().base(), "streams are served");
    let mut streaming = tokio::spawn(wired.streaming.serve(wired.streams, ended(stopped.clone())));

    let (listener, _cri_file) = socket::bind(&config.socket)
        .map_err(|source| DaemonError::Listen { path: config.socket.clone(), source })?;
    let mut cri = tokio::spawn(answer_cri(listener, wired.backend, stopped.clone()));
    tracing::info!(socket = %config.socket.display(), "CRI requests are answered");
    notify(NotifyState::Ready);
    let heap = tokio::spawn(super::heap::give_back());

    let mut reset = stopped;
    let cause = tokio::select! {
        // A reset ends the servers too: the cause is looked at first.
        biased;
        signal = signals.ending() => signal,
        _ = reset.wait_for(|stop| *stop) => "reset",
        ended = &mut cri => return cri_ended(ended),
        ended = &mut streaming => return Err(DaemonError::Streaming {
            source: match ended {
                Ok(()) => std::io::Error::other("the listener ended"),
                Err(lost) => std::io::Error::other(lost),
            },
        }),
        ended = &mut admin => return Err(DaemonError::Admin {
            source: match ended {
                Ok(Ok(())) => std::io::Error::other("the listener ended"),
                Ok(Err(source)) => source,
                Err(lost) => std::io::Error::other(lost),
            },
        }),
    };
    tracing::info!(cause, bound = ?config.shutdown.drain, "ending; the pods go on");
    notify(NotifyState::Stopping);
    stop.send_replace(true);
    // It bounds itself: two seconds in which clients are told.
    if let Err(lost) = (&mut streaming).await {
        tracing::warn!(error = &lost as &dyn std::error::Error, "streams were cut");
    }
    match tokio::time::timeout(config.shutdown.drain, &mut cri).await {
        Ok(ended) => cri_ended(ended)?,
        Err(_) => {
            cri.abort();
            tracing::warn!("requests are left unanswered; what they began is settled at the next start");
        }
    }
    admin.abort();
    heap.abort();
    tracing::info!("ended");
    Ok(())
}

async fn answer_cri(
    listener: UnixListener,
    backend: Arc<dyn berth_server::Backend>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    berth_server::serve(listener, backend, ended(stopped)).await.map_err(Into::into)
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the daemon.
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn cri_ended(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), DaemonError> {
    let ended = ended.unwrap_or_else(|lost| Err(lost.into()));
    ended.map_err(|source| DaemonError::Serve { source })
}

/// Tells the service manager, when there is one (sd_notify(3)).
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the service manager could not be told");
    }
}

/// Adds what the daemon knows of itself to the runtime's status.
struct Instance {
    config: Config,
    inner: Arc<dyn AdminBackend>,
    gauge: berth_streaming::Gauge,
}

#[async_trait::async_trait]
impl AdminBackend for Instance {
    async fn image(&self, verb: ImageVerb, archive: Option<std::fs::File>) -> Result<Value, Failure> {
        self.inner.image(verb, archive).await
    }

    async fn reset(&self) -> Result<(), Failure> {
        self.inner.reset().await
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Failure> {
        self.inner.signal(container, signal).await
    }

    async fn inspect_network(&self) -> Result<NetworkReport, Failure> {
        self.inner.inspect_network().await
    }

    async fn inspect_pod(&self, pod: &str) -> Result<PodNetwork, Failure> {
        self.inner.inspect_pod(pod).await
    }

    async fn check_network(&self, pod: &str) -> Result<NetworkCheck, Failure> {
        self.inner.check_network(pod).await
    }

    async fn reset_network(&self) -> Result<(), Failure> {
        self.inner.reset_network().await
    }

    async fn status(&self) -> Value {
        let mut status = self.inner.status().await;
        let instance = json!({
            "name": self.config.name,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "socket": self.config.socket,
            "state": self.config.state,
            "root": self.config.root,
            "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        });
        let streams = json!({ "open": self.gauge.open(), "waiting": self.gauge.waiting() });
        match &mut status {
            Value::Object(parts) => {
                parts.insert("instance".into(), instance);
                parts.insert("streams".into(), streams);
                status
            }
            _ => json!({ "instance": instance, "streams": streams, "runtime": status }),
        }
    }
}
