//! Pods' networks beside those that Debian's CNI plugins make, in one run on one host: what a pod's coming and going
//! costs, ports of the host with one pod and with many, and how much goes through.

mod bulk;
mod ports;
mod verbs;
mod ways;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_netlink::Routes;
use berth_sys::netns::new_netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::ways::{Way, Ways, asked};
use super::figures::{Report, Series};
use crate::checks::Checks;

/// Pods that come and go by each of the ways, by turns.
const ROUNDS: usize = 150;
/// For each step of a connection: one of which the other half never comes is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the kernel has to clear a namespace.
const CLEARED: Duration = Duration::from_secs(30);

/// A pod's network up and down by one of the ways.
#[derive(Default)]
struct Life {
    up: Series,
    down: Series,
}

pub(crate) async fn run(checks: &mut Checks) -> Result<()> {
    let home = tempfile::Builder::new().prefix("berth-net-").tempdir()?;
    let ways = Ways::open(home.path())?;
    let ((lives, many, through), ways) = tokio::task::spawn_blocking(move || {
        let lives = lives(&ways)?;
        let through = bulk::measure(&ways)?;
        let many = ports::measure()?;
        anyhow::Ok(((lives, many, through), ways))
    })
    .await??;
    let verbs = verbs::measure().await?;
    let mut report = Report::beside(checks, "programs");
    figures(&mut report, lives);
    verbs::report(&mut report, verbs);
    ports::report(&mut report, many);
    bulk::report(&mut report, through);
    ways.reset()
}

/// Each way's, in the order of [`Ways::all`].
fn lives(ways: &Ways) -> Result<[Life; 3]> {
    let mut lives = <[Life; 3]>::default();
    for round in 0..=ROUNDS {
        for (way, life) in ways.all().into_iter().zip(&mut lives) {
            let pod = asked(round, &[]);
            let (netns, up) = came(way, &pod)?;
            let since = Instant::now();
            way.detach(&pod, &netns);
            let down = since.elapsed();
            way.has_nothing_of(&pod)?;
            // The first of each makes bridges, tables and chains.
            if round > 0 {
                life.down.push(down);
                life.up.push(up);
            }
            drop(netns);
            cleared()?;
        }
    }
    Ok(lives)
}

/// A namespace that was connected, and how long that took.
fn came(way: &Way, pod: &ways::Asked) -> Result<(OwnedFd, Duration)> {
    let netns = new_netns()?;
    let since = Instant::now();
    way.attach(pod, netns.as_fd())?;
    Ok((netns, since.elapsed()))
}

fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// From the namespace of the calling thread.
fn connected(to: &SocketAddr) -> io::Result<TcpStream> {
    patient(TcpStream::connect_timeout(to, PATIENCE)?)
}

fn accepted(listener: &TcpListener) -> io::Result<TcpStream> {
    let mut ready = PollFd::new(listener.as_fd(), PollFlags::POLLIN);
    let bound = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    if poll(std::slice::from_mut(&mut ready), bound)? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has connected"));
    }
    patient(listener.accept()?.0)
}

/// The kernel clears namespaces in its own time, in which nobody else changes interfaces: that is not to be the next way's.
fn cleared() -> Result<()> {
    let end = Instant::now() + CLEARED;
    let of_pods = |name: &str| name.starts_with("veth") || name.starts_with("vb");
    while Routes::open()?.all_links()?.iter().any(|link| of_pods(&link.name)) {
        anyhow::ensure!(Instant::now() < end, "interfaces of pods that are gone stay for {CLEARED:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn figures(report: &mut Report<'_>, [mut embedded, mut conflist, mut programs]: [Life; 3]) {
    let tenth = (programs.up.quantile(0.5) / 10.0).min(2.0);
    report.times("up: of Berth's own", &mut embedded.up, &mut programs.up, Some(tenth));
    report.times("up: a conflist in-process", &mut conflist.up, &mut programs.up, Some(tenth));
    report.times("down: of Berth's own", &mut embedded.down, &mut programs.down, Some(0.5));
    report.times("down: a conflist in-process", &mut conflist.down, &mut programs.down, Some(0.5));
}
