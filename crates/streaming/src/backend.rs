//! What the sessions want from the runtime.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use berth_ids::{Classify, ErrorClass};

/// Which streams a client asked for. At least one of the three; no `stderr` with a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What a stream is about: taken from the RPC, kept behind the token of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Exec {
        container: String,
        command: Vec<String>,
        streams: Streams,
    },
    Attach {
        container: String,
        streams: Streams,
    },
    PortForward {
        sandbox: String,
        /// For clients that forward over WebSocket channels, a pair each; others name the port with each stream.
        ports: Vec<u16>,
    },
}

/// The ends of a running process.
///
/// Pipes, sockets or masters of terminals, all non-blocking, each a descriptor of its own, present where the client asked
/// for the stream. With a terminal `stdin` and `stdout` are two descriptors of the same master and `stderr` is `None`.
/// The end of file (EIO of a terminal counts as one) follows the last byte, unless processes that live on keep the stream
/// open: once [`Control::wait`] has answered, a stream with nothing to read has ended too. All that the process wrote can
/// be read by then.
pub struct Process {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub control: Arc<dyn Control>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}

/// The handle of a [`Process`]. Every session ends with exactly one of: `wait` has answered, or `abandon`.
#[async_trait]
pub trait Control: Send + Sync {
    /// Size of the terminal in characters.
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), Failure>;

    /// The end: of an exec its first process's, of an attach the container's. The exit code, 128 + n for signal n.
    /// May be dropped while it waits, and asked again.
    async fn wait(&self) -> Result<i32, Failure>;

    /// The client is gone. An exec hangs up its terminal and ends its processes; an attach only lets go of the container.
    async fn abandon(&self);
}

/// What is behind the URLs.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    async fn exec(&self, container: &str, command: Vec<String>, streams: Streams)
    -> Result<Process, Failure>;

    /// `streams.tty` is what the client says; the container's own terminal decides.
    async fn attach(&self, container: &str, streams: Streams) -> Result<Process, Failure>;

    /// A connected, non-blocking TCP socket: 127.0.0.1, else ::1, within the sandbox's network.
    async fn connect(&self, sandbox: &str, port: u16) -> Result<OwnedFd, Failure>;
}

/// A failed call: what kind, and the text for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub class: ErrorClass,
    pub message: String,
}

impl Failure {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl Classify for Failure {
    fn class(&self) -> ErrorClass {
        self.class
    }
}
