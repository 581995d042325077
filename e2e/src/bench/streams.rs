//! Streams of both sides: how soon, how quick, and at how much processor time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use super::figures::{Report, Series, pss, ticks};
use super::{ROUNDS, Side};
use crate::checks::until;
use crate::client::args;
use crate::streaming::{Session, client_of};

/// Interactive turns that are timed.
const TURNS: usize = 200;
/// Through each pipe, in MiB.
const MUCH: u32 = 256;
/// Where the pod echoes.
const ECHO: i32 = 7007;
/// Execs that rest, and how long before they are looked at: what opening them left behind is not theirs.
const RESTING: usize = 500;
const REST: Duration = Duration::from_secs(8);

/// One side's.
#[derive(Default)]
pub(super) struct Streams {
    first: Series,
    turn: Series,
    /// Processor milliseconds for each MiB.
    exec: f64,
    forward: f64,
    /// Bytes of the daemon's memory while all of them rest.
    resting: u64,
}

/// Everything that works for a side's streams.
pub(super) struct Workers<'a> {
    pub(super) daemon: i32,
    pub(super) shims: &'a dyn Fn() -> Result<Vec<i32>>,
}

impl Workers<'_> {
    fn ticks(&self) -> Result<Duration> {
        let shims = (self.shims)()?.into_iter().map(ticks).sum::<Result<Duration>>()?;
        Ok(ticks(self.daemon)? + shims)
    }
}

pub(super) async fn measure(side: &mut Side, workers: &Workers<'_>) -> Result<Streams> {
    let (pod, container) = side.up("streams").await?;
    let config = side.config("streams");
    let echo = side.client.run(&pod, &config, "echo", args(&["tcp", &ECHO.to_string()])).await?;
    let mut streams = Streams::default();
    for _ in 0..ROUNDS {
        let since = Instant::now();
        let url = exec(side, &container, "talk").await?;
        let session = blocking(move || Session::begin(&url)).await?;
        streams.first.push(since.elapsed());
        drop(session);
    }
    let url = exec(side, &container, "talk").await?;
    streams.turn = blocking(move || {
        let mut session = Session::begin(&url)?;
        let mut turns = Series::default();
        for _ in 0..TURNS {
            let since = Instant::now();
            session.turn("tick")?;
            turns.push(since.elapsed());
        }
        Ok(turns)
    })
    .await?;

    let url = exec(side, &container, "copy").await?;
    streams.exec = cost(workers, vec!["pipe".into()], url).await?;
    listening(side, &container).await?;
    let request = PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![ECHO] };
    let url = side.client.runtime.port_forward(request).await?.into_inner().url;
    streams.forward = cost(workers, vec!["forward".into(), "-port".into(), ECHO.to_string()], url).await?;

    let mut open = Vec::new();
    for _ in 0..RESTING {
        let url = exec(side, &container, "talk").await?;
        open.push(blocking(move || Session::begin(&url)).await?);
    }
    tokio::time::sleep(REST).await;
    streams.resting = pss(workers.daemon)?;
    drop(open);
    side.client.stop(&echo, Duration::ZERO).await?;
    side.client.remove_pod(&pod).await?;
    Ok(streams)
}

async fn exec(side: &mut Side, container: &str, tool: &str) -> Result<String> {
    let request = ExecRequest {
        container_id: container.into(),
        cmd: vec!["/guest".into(), tool.into()],
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    Ok(side.client.runtime.exec(request).await?.into_inner().url)
}

async fn listening(side: &mut Side, container: &str) -> Result<()> {
    let wanted = format!(":{ECHO:04X} ");
    until("the echo to listen", || {
        let (mut client, container, wanted) = (side.client.clone(), container.to_owned(), wanted.clone());
        async move {
            let table = client.out(&container, &["cat", "/proc/net/tcp"]).await?;
            Ok(table.contains(&wanted).then_some(()))
        }
    })
    .await
}

/// Processor milliseconds for each MiB of client-go's traffic over SPDY, to and fro.
async fn cost(workers: &Workers<'_>, mut words: Vec<String>, url: String) -> Result<f64> {
    words.extend(["-mib".to_owned(), MUCH.to_string()]);
    let before = workers.ticks()?;
    let answer = blocking(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        client_of(&words, &url)
    })
    .await?;
    anyhow::ensure!(answer.code == 0, "{}", answer.text());
    let used = workers.ticks()?.checked_sub(before).context("processor time went backwards")?;
    Ok(used.as_secs_f64() * 1000.0 / f64::from(MUCH))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

pub(super) fn report(report: &mut Report<'_>, ours: &mut Streams, theirs: &mut Streams) {
    let fifth = theirs.first.quantile(0.5) / 5.0;
    report.times("exec: first byte", &mut ours.first, &mut theirs.first, Some(fifth));
    report.times("exec: a line and its answer", &mut ours.turn, &mut theirs.turn, Some(0.5));
    report.line("exec: CPU for each MiB", ours.exec, theirs.exec, "ms", Some(theirs.exec / 3.0));
    report.line(
        "port-forward: CPU for each MiB",
        ours.forward,
        theirs.forward,
        "ms",
        Some(theirs.forward / 3.0),
    );
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let (ours, theirs) = (kib(ours.resting), kib(theirs.resting));
    report.line(&format!("{RESTING} execs at rest, the daemon"), ours, theirs, "KiB", Some(20.0 * 1024.0));
}
