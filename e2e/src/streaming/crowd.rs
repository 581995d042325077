//! Five hundred execs at once: each is answered, and one that rests costs little.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cuts::{connect, request, split};
use super::{Ask, Lane, blocking};
use crate::bench::figures::pss;
use crate::daemon::Daemon;

const SESSIONS: usize = 500;
/// Bytes that the daemon may take for one that rests.
const EACH_MAX: u64 = 20 << 10;
/// Interactive round trips that are timed.
const TURNS: usize = 200;

pub(super) async fn run(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid().context("no daemon runs")?.cast_signed();
    let before = pss(pid)?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let url = lane.url(Ask::Exec, &["/guest", "talk"], "io").await?;
        sessions.push(tokio::spawn(blocking(move || Session::begin(&url))));
    }
    let mut open = Vec::new();
    for session in sessions {
        open.push(session.await??);
    }
    let (open, answered) = blocking(move || {
        let mut open = open;
        let answered = open.iter_mut().try_for_each(|session| session.turn("hello"));
        Ok((open, answered))
    })
    .await?;
    let what = format!("{SESSIONS} execs at once, each answers");
    lane.checks.note(&what, answered.map_err(|error| format!("{error:#}")));
    let after = pss(pid)?;
    let what = format!("  with all of them the daemon has {} KiB, {} without", after >> 10, before >> 10);
    let more = after.saturating_sub(before);
    lane.checks.that(&what, more <= EACH_MAX * SESSIONS as u64, format!("{more} bytes more"));
    let (open, middle) = blocking(move || {
        let mut open = open;
        let first = open.first_mut().context("a session")?;
        let mut took = Vec::new();
        for _ in 0..TURNS {
            let begin = Instant::now();
            first.turn("tick")?;
            took.push(begin.elapsed());
        }
        took.sort();
        Ok((open, took[TURNS / 2]))
    })
    .await?;
    // A bound for what is broken; the figure is what this is for.
    lane.checks.that(
        &format!("  a line and its answer take {} µs", middle.as_micros()),
        middle < Duration::from_millis(50),
        middle.as_micros(),
    );
    drop(open);
    let gone = lane.none("talk").await;
    lane.checks.note("  they go with their clients", gone.map_err(|error| format!("{error:#}")));
    Ok(())
}

/// An exec of `talk` over WebSocket.
pub(crate) struct Session(TcpStream);

impl Session {
    /// Up to its first word.
    pub(crate) fn begin(url: &str) -> Result<Self> {
        let (host, path) = split(url)?;
        let mut stream = connect(host)?;
        stream.set_nodelay(true)?;
        stream.write_all(request(host, path).as_bytes())?;
        let mut session = Self(stream);
        session.until("no terminal\n")?;
        Ok(session)
    }

    fn until(&mut self, part: &str) -> Result<()> {
        let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
        while !all.windows(part.len()).any(|window| window == part.as_bytes()) {
            let length = self.0.read(&mut buffer)?;
            anyhow::ensure!(length > 0, "ended after {:?}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&buffer[..length]);
        }
        Ok(())
    }

    /// A line on channel 0, masked by zeros, and its answer.
    pub(crate) fn turn(&mut self, word: &str) -> Result<()> {
        let length = u8::try_from(word.len() + 2)?;
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, 0];
        frame.extend_from_slice(word.as_bytes());
        frame.push(b'\n');
        self.0.write_all(&frame)?;
        self.until(&format!("said {word}\n"))
    }
}
