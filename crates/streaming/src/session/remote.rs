//! Exec and attach (remotecommand): one process, up to five channels.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_ids::ErrorClass;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::inlet::Inlet;
use super::pump::pump;
use super::source::Said;
use super::{Around, Ended, OPENING, Outlet, PARTING, Source, status, watched};
use crate::negotiate::{Ending, Protocol};
use crate::spdy::ResetStatus;
use crate::{Backend, Control, Failure, Process, Streams, Target};

mod lines;
mod size;

use lines::{Line, Lines};
#[cfg(feature = "fuzz")]
pub(crate) use size::KEPT_MAX;
pub(crate) use size::Sizes;

/// Bytes of stdin that may come before the streams are open.
const EARLY_MAX: usize = 64 * 1024;

/// Runs one exec or attach to its end.
pub(crate) async fn remote(
    mut source: Box<Source>,
    outlet: Arc<Outlet>,
    around: Around,
    protocol: Protocol,
    target: Target,
    backend: Arc<dyn Backend>,
) {
    let (Target::Exec { streams, .. } | Target::Attach { streams, .. }) = target else { return };
    let mut session = Session {
        outlet: &outlet,
        around: &around,
        lines: Lines::default(),
        inlet: Inlet::default(),
        sizes: Mutex::default(),
    };
    let told = Box::pin(session.live(&mut source, protocol, streams, target, backend)).await;
    let last = session.lines.last;
    match &told {
        Ok(()) => {}
        Err(Ended::Gone | Ended::Read(_) | Ended::Write(_)) => return,
        Err(ended) => tracing::info!(error = ended as &dyn std::error::Error, "stream ended"),
    }
    let ended = told.err();
    if !matches!(protocol, Protocol::Spdy { .. }) || ended.is_some() {
        // A client that cannot be told is gone.
        let _ = outlet.leave(last, ended.as_ref()).await;
    }
    part(&mut source, &outlet).await;
    outlet.shutdown().await;
}

/// Lets the client close first, that nothing on its way to it is lost; what it still says is dropped.
pub(super) async fn part(source: &mut Source, outlet: &Outlet) {
    let closing = async {
        while source.fill().await.is_ok() {
            loop {
                match source.said() {
                    Ok(Some(Said::Leave)) | Err(_) => return,
                    Ok(Some(Said::Ping(payload))) => {
                        let _ = outlet.pong(&payload).await;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                }
            }
        }
    };
    let _ = tokio::time::timeout(PARTING, closing).await;
}

struct Session<'a> {
    outlet: &'a Outlet,
    around: &'a Around,
    lines: Lines,
    inlet: Inlet,
    sizes: Mutex<Sizes>,
}

impl Session<'_> {
    /// Up to and with the last word on the error stream.
    async fn live(
        &mut self,
        source: &mut Source,
        protocol: Protocol,
        streams: Streams,
        target: Target,
        backend: Arc<dyn Backend>,
    ) -> Result<(), Ended> {
        let form = match protocol {
            Protocol::Spdy { ending, resize } => {
                let opening = Box::pin(self.open(source, streams, resize));
                tokio::time::timeout(OPENING, opening).await.map_err(|_| Ended::Opening)??;
                source.skip_headers();
                ending
            }
            Protocol::Channels { ending, .. } => {
                self.lines = Lines::channels(streams);
                // An empty message tells that the server is there.
                self.outlet.text(self.lines.first_out(), b"", false).await?;
                ending
            }
            _ => return Ok(()),
        };
        // `kubectl run` takes a failed attach for a broken stream and shows the log once more: to the kubelet the end of an
        // attach is a success. Clients of v5 ask the runtime itself, and hear the container's exit code.
        let silent = matches!(target, Target::Attach { .. })
            && !matches!(protocol, Protocol::Channels { close: true, .. });
        let started = match target {
            Target::Exec { container, command, .. } => backend.exec(&container, command, streams).await,
            Target::Attach { container, .. } => backend.attach(&container, streams).await,
            Target::PortForward { .. } => return Ok(()),
        };
        let process = match started {
            Ok(process) => process,
            Err(failure) => return self.fail(form, &failure).await,
        };
        let leash = Leash { control: process.control.clone(), tied: true };
        let carried = match Ends::watch(process) {
            Ok(ends) => Box::pin(self.carry(source, ends, &*leash.control)).await,
            Err(failure) => {
                leash.abandon().await;
                return self.fail(form, &failure).await;
            }
        };
        match carried {
            Ok(result) => {
                leash.untie();
                let result = result.map(|code| if silent { 0 } else { code });
                self.last_word(form, result.as_ref().copied()).await
            }
            Err(ended) => {
                leash.abandon().await;
                if matches!(ended, Ended::Stopped | Ended::Idle(_)) {
                    let failure = Failure::new(ErrorClass::Unavailable, ended.to_string());
                    // Who does not read does not learn it.
                    let _ = tokio::time::timeout(PARTING, self.fail(form, &failure)).await;
                }
                Err(ended)
            }
        }
    }

    /// Waits until a client of SPDY has opened all it asked for. Sizes and input that come meanwhile are kept.
    async fn open(&mut self, source: &mut Source, streams: Streams, resize: bool) -> Result<(), Ended> {
        let wanted = Lines::wanted(streams, resize);
        let mut early = 0;
        while !self.lines.has(&wanted) {
            source.fill().await?;
            while let Some(said) = source.said()? {
                match said {
                    Said::Open { channel, headers, fin } => {
                        let line = headers.get("streamtype").and_then(Line::named);
                        let line = line.filter(|line| wanted.contains(line));
                        if line.is_some_and(|line| self.lines.open(line, channel)) {
                            self.outlet.reply(channel).await?;
                            if fin && line == Some(Line::Stdin) {
                                self.inlet.finish();
                            }
                        } else {
                            self.outlet.reset(channel, ResetStatus::Refused).await?;
                        }
                    }
                    said => {
                        early += match &said {
                            Said::Data { bytes, .. } => bytes.len(),
                            Said::Piped { pipe, .. } => pipe.held(),
                            _ => 0,
                        };
                        if early > EARLY_MAX {
                            return Err(Ended::Early);
                        }
                        self.hear(said).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a client says at any time.
    async fn hear(&self, said: Said<'_>) -> Result<(), Ended> {
        match said {
            Said::Open { channel, .. } => self.outlet.reset(channel, ResetStatus::Refused).await?,
            Said::Data { channel, bytes, fin } => match self.lines.line(channel) {
                Some(Line::Stdin) => {
                    if !bytes.is_empty() {
                        self.inlet.offer(&bytes);
                    }
                    if fin {
                        self.inlet.finish();
                    }
                }
                Some(Line::Resize) => self.sizes.lock().take(&bytes),
                // The rest flows the other way.
                _ => {}
            },
            Said::Piped { channel, pipe, fin } => {
                // On no other channel does a client have so much to say.
                if self.lines.line(channel) == Some(Line::Stdin) {
                    self.inlet.offer_piped(pipe);
                    if fin {
                        self.inlet.finish();
                    }
                }
            }
            Said::Reset { channel } if self.lines.line(channel) == Some(Line::Stdin) => self.inlet.finish(),
            Said::Reset { .. } | Said::Nothing => {}
            Said::Ping(payload) => self.outlet.pong(&payload).await?,
            Said::Leave => return Err(Ended::Gone),
        }
        Ok(())
    }

    /// Moves bytes until the process has ended and its last byte is sent, or the session has to end before.
    async fn carry(
        &self,
        source: &mut Source,
        ends: Ends,
        control: &dyn Control,
    ) -> Result<Result<i32, Failure>, Ended> {
        self.resize(control).await;
        match ends.stdin {
            Some(stdin) => self.inlet.open(Arc::new(stdin)),
            None => self.inlet.close(),
        }
        let (over, is_over) = watch::channel(false);
        // Written where they are used: a future that is moved has room for it twice.
        tokio::select! {
            result = async {
                let (_stdout, _stderr, code) = tokio::try_join!(
                    self.pour(Line::Stdout, ends.stdout, is_over.clone()),
                    self.pour(Line::Stderr, ends.stderr, is_over),
                    async {
                        let code = control.wait().await;
                        over.send_replace(true);
                        Ok(code)
                    }
                )?;
                Ok(code)
            } => result,
            ended = self.listen(source, control) => Err(ended),
            () = async {
                self.inlet.run().await;
                std::future::pending::<()>().await;
            } => Err(Ended::Gone),
            () = self.around.stopped() => Err(Ended::Stopped),
            () = self.around.idled() => Err(Ended::Idle(self.around.idle)),
        }
    }

    /// Sends one output to its end. The descriptor comes back: closed early it would be a signal to the process.
    async fn pour(
        &self,
        line: Line,
        from: Option<AsyncFd<OwnedFd>>,
        over: watch::Receiver<bool>,
    ) -> Result<Option<AsyncFd<OwnedFd>>, Ended> {
        let channel = self.lines.channel(line);
        if let (Some(from), Some(channel)) = (&from, channel) {
            pump(self.outlet, channel, from, over).await?;
        }
        if let Some(channel) = channel {
            self.outlet.end(channel).await?;
        }
        Ok(from)
    }

    /// Follows the client until it goes.
    async fn listen(&self, source: &mut Source, control: &dyn Control) -> Ended {
        loop {
            if let Err(ended) = source.fill().await {
                return ended;
            }
            loop {
                let heard = match source.said() {
                    Ok(Some(said)) => Box::pin(self.hear(said)).await,
                    Ok(None) => break,
                    Err(ended) => Err(ended),
                };
                if let Err(ended) = heard {
                    return ended;
                }
                // At once: input that follows is for a terminal of the new size.
                self.resize(control).await;
                if self.inlet.full() {
                    tokio::select! {
                        () = self.inlet.room() => {}
                        () = self.around.socket.closed() => return Ended::Gone,
                    }
                }
            }
        }
    }

    /// Sets the newest size, if one came.
    async fn resize(&self, control: &dyn Control) {
        let size = self.sizes.lock().newest();
        if let Some((columns, rows)) = size
            && let Err(failure) = control.resize(columns, rows).await
        {
            tracing::debug!(error = failure.message, columns, rows, "the terminal keeps its size");
        }
    }

    /// The end of what has not moved a byte, or was cut.
    async fn fail(&self, form: Ending, failure: &Failure) -> Result<(), Ended> {
        for line in [Line::Stdout, Line::Stderr] {
            if let Some(channel) = self.lines.channel(line) {
                self.outlet.end(channel).await?;
            }
        }
        self.last_word(form, Err(failure)).await
    }

    /// Ends the channels that are left, the error stream with what there is to say.
    async fn last_word(&self, form: Ending, result: Result<i32, &Failure>) -> Result<(), Ended> {
        if let Err(failure) = result {
            tracing::info!(class = ?failure.class, error = failure.message, "stream failed");
        }
        if let Some(channel) = self.lines.channel(Line::Error) {
            match status::ending(form, result) {
                text if text.is_empty() => self.outlet.end(channel).await?,
                text => self.outlet.text(channel, &text, true).await?,
            }
        }
        for line in [Line::Stdin, Line::Resize] {
            if let Some(channel) = self.lines.channel(line) {
                self.outlet.end(channel).await?;
            }
        }
        Ok(())
    }
}

/// A process's streams, ready to be waited for.
struct Ends {
    stdin: Option<AsyncFd<OwnedFd>>,
    stdout: Option<AsyncFd<OwnedFd>>,
    stderr: Option<AsyncFd<OwnedFd>>,
}

impl Ends {
    fn watch(process: Process) -> Result<Self, Failure> {
        Ok(Self {
            stdin: process.stdin.map(watched).transpose()?,
            stdout: process.stdout.map(watched).transpose()?,
            stderr: process.stderr.map(watched).transpose()?,
        })
    }
}

/// Sees to it that no process stays behind, also when the session is dropped half-way.
struct Leash {
    control: Arc<dyn Control>,
    tied: bool,
}

impl Leash {
    /// The process has ended by itself.
    fn untie(mut self) {
        self.tied = false;
    }

    async fn abandon(mut self) {
        self.tied = false;
        self.control.abandon().await;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.tied, tokio::runtime::Handle::try_current()) {
            let control = self.control.clone();
            runtime.spawn(async move { control.abandon().await });
        }
    }
}
