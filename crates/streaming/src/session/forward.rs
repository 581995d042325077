//! Port-forward: many connections, each a pair of channels, none of which can end the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::inlet::Inlet;
use super::pair::Pair;
use super::remote::part;
use super::source::Said;
use super::{Around, Ended, OPENING, Outlet, Source};
use crate::Backend;
use crate::spdy::{Headers, ResetStatus};

/// Connections of one session at once.
const PAIRS_MAX: usize = 512;
/// How long a connection that takes nothing may hold up the others of its session.
const STALL: Duration = Duration::from_secs(30);

/// Where connections lead to.
pub(crate) struct Destination {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) sandbox: String,
    /// One connection each, on fixed channels (WebSocket); else the client opens streams.
    pub(crate) fixed: Vec<u16>,
}

/// Runs one port-forward to its end.
pub(crate) async fn forward(mut source: Source, outlet: Outlet, around: Around, to: Destination) {
    let fixed = !to.fixed.is_empty();
    let outlet = Arc::new(outlet);
    let mut session = Session {
        outlet: &outlet,
        to,
        pairs: HashMap::new(),
        halves: HashMap::new(),
        running: JoinSet::new(),
        last: 0,
    };
    let ended = session.live(&mut source, &around).await;
    let last = session.last;
    // The connections of a client that is gone go with it.
    drop(session);
    let told = match &ended {
        Ok(()) => fixed,
        Err(Ended::Gone | Ended::Read(_) | Ended::Write(_)) => return,
        Err(ended) => {
            tracing::info!(error = ended as &dyn std::error::Error, "stream ended");
            true
        }
    };
    if told && outlet.leave(last, ended.err().as_ref()).await.is_ok() {
        part(&mut source, &outlet).await;
    }
    outlet.shutdown().await;
}

/// A pair of which one stream is missing.
struct Half {
    port: u16,
    data: Option<u32>,
    error: Option<u32>,
    inlet: Arc<Inlet>,
    until: Instant,
}

struct Session<'a> {
    outlet: &'a Arc<Outlet>,
    to: Destination,
    /// By the channel of the bytes.
    pairs: HashMap<u32, Pair>,
    /// By what the client calls them.
    halves: HashMap<String, Half>,
    running: JoinSet<Result<Pair, Ended>>,
    /// The highest stream that was opened.
    last: u32,
}

impl Session<'_> {
    async fn live(&mut self, source: &mut Source, around: &Around) -> Result<(), Ended> {
        for (number, port) in std::mem::take(&mut self.to.fixed).into_iter().enumerate() {
            let data = number as u32 * 2;
            // Each channel begins with its port, so that a client sees which is which.
            for channel in [data, data + 1] {
                self.outlet.text(channel, &port.to_le_bytes(), false).await?;
            }
            self.begin(Pair::new(data, data + 1, port, Arc::default()));
        }
        let fixed = !self.running.is_empty();
        loop {
            let overdue = self.halves.values().map(|half| half.until).min();
            tokio::select! {
                filled = source.fill() => {
                    filled?;
                    while let Some(said) = source.said()? {
                        if let Some(pair) = self.hear(said).await? {
                            self.room(&pair, around).await?;
                        }
                    }
                }
                Some(done) = self.running.join_next() => {
                    if let Ok(pair) = done {
                        self.pairs.remove(&pair?.data);
                    }
                    if fixed && self.running.is_empty() {
                        return Ok(());
                    }
                }
                () = at(overdue) => self.drop_overdue().await?,
                () = around.stopped() => return Err(Ended::Stopped),
                () = around.idled() => return Err(Ended::Idle(around.idle)),
            }
        }
    }

    /// What a client says. A pair whose bytes pile up is returned.
    async fn hear(&mut self, said: Said<'_>) -> Result<Option<Pair>, Ended> {
        match said {
            Said::Open { channel, headers, fin } => self.open(channel, &headers, fin).await?,
            Said::Data { channel, bytes, fin } => {
                return self.take(channel, fin, |inlet| {
                    if !bytes.is_empty() {
                        inlet.offer(&bytes);
                    }
                });
            }
            Said::Piped { channel, pipe, fin } => {
                return self.take(channel, fin, |inlet| inlet.offer_piped(pipe));
            }
            Said::Reset { channel } => {
                if let Some(pair) = self.pairs.get(&channel) {
                    pair.cut("");
                }
                self.halves.retain(|_, half| half.data != Some(channel));
            }
            Said::Ping(payload) => self.outlet.pong(&payload).await?,
            Said::Leave => return Err(Ended::Gone),
            Said::Nothing => {}
        }
        Ok(None)
    }

    /// Bytes of a connection, through `offer`. A pair whose bytes pile up is returned.
    fn take(&self, channel: u32, fin: bool, offer: impl FnOnce(&Inlet)) -> Result<Option<Pair>, Ended> {
        let early = self.halves.values().find(|half| half.data == Some(channel));
        let pair = self.pairs.get(&channel);
        let inlet = pair.map(|pair| &pair.inlet).or(early.map(|half| &half.inlet));
        let Some(inlet) = inlet else { return Ok(None) };
        offer(inlet);
        if fin {
            inlet.finish();
        }
        match pair {
            Some(pair) => Ok(inlet.full().then(|| pair.clone())),
            // There is nothing yet that could take them.
            None if inlet.full() => Err(Ended::Early),
            None => Ok(None),
        }
    }

    async fn open(&mut self, channel: u32, headers: &Headers, fin: bool) -> Result<(), Ended> {
        let port = headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let kind = headers.get("streamtype");
        let (Some(port), Some(kind @ ("data" | "error")), true) = (port, kind, channel > self.last) else {
            return self.outlet.reset(channel, ResetStatus::Protocol).await;
        };
        self.last = channel;
        let is_data = kind == "data";
        // Clients from before there were request ids open the error stream first, then the other.
        let request = match headers.get("requestid") {
            Some(id) => id.to_owned(),
            None if is_data => channel.saturating_sub(2).to_string(),
            None => channel.to_string(),
        };
        let known = self.halves.contains_key(&request);
        if !known && self.pairs.len() + self.halves.len() >= PAIRS_MAX {
            tracing::info!(port, "a connection is refused: {PAIRS_MAX} are forwarded already");
            return self.outlet.reset(channel, ResetStatus::Refused).await;
        }
        let until = Instant::now() + OPENING;
        let half = self.halves.entry(request.clone()).or_insert_with(|| Half {
            port,
            data: None,
            error: None,
            inlet: Arc::default(),
            until,
        });
        let place = if is_data { &mut half.data } else { &mut half.error };
        if place.is_some() || half.port != port {
            return self.outlet.reset(channel, ResetStatus::Protocol).await;
        }
        *place = Some(channel);
        if is_data && fin {
            half.inlet.finish();
        }
        self.outlet.reply(channel).await?;
        if let (Some(data), Some(error)) = (half.data, half.error)
            && let Some(half) = self.halves.remove(&request)
        {
            self.begin(Pair::new(data, error, port, half.inlet));
        }
        Ok(())
    }

    fn begin(&mut self, pair: Pair) {
        self.pairs.insert(pair.data, pair.clone());
        let (outlet, backend) = (self.outlet.clone(), self.to.backend.clone());
        self.running.spawn(pair.run(outlet, backend, self.to.sandbox.clone()));
    }

    /// Waits until the pair takes more. All of the session wait with it: SPDY cannot stop one stream. So a pair that takes
    /// nothing at all is cut where others would starve.
    async fn room(&self, pair: &Pair, around: &Around) -> Result<(), Ended> {
        let mut before = pair.inlet.waiting();
        loop {
            tokio::select! {
                () = pair.inlet.room() => return Ok(()),
                () = around.socket.closed() => return Err(Ended::Gone),
                () = around.stopped() => return Err(Ended::Stopped),
                () = tokio::time::sleep(STALL) => {
                    let waiting = pair.inlet.waiting();
                    if waiting == before && self.pairs.len() > 1 {
                        pair.cut("it took nothing for 30 s and held up other connections");
                    }
                    before = waiting;
                }
            }
        }
    }

    async fn drop_overdue(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let mut streams = Vec::new();
        self.halves.retain(|_, half| {
            let overdue = half.until <= now;
            if overdue {
                streams.extend([half.data, half.error].into_iter().flatten());
            }
            !overdue
        });
        for channel in streams {
            self.outlet.reset(channel, ResetStatus::Cancel).await?;
        }
        Ok(())
    }
}

/// Resolves then; never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
