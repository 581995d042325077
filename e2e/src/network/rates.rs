//! Limits of a pod's traffic, by what comes through.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use berth_sys::netns::run_in;

use super::machine::{Machine, OWN, ip};
use super::pods::Served;
use crate::checks::Checks;
use crate::client::pod;
use crate::daemon::Daemon;

/// Bits a second, as the annotations say them.
const INGRESS: (f64, &str) = (20e6, "20M");
const EGRESS: (f64, &str) = (40e6, "40M");
/// Of a pod without limits: far more than any of them, on the slowest machine.
const FREE: f64 = 200e6;
/// Of what was asked; headers count with the packets and not with what comes through.
const GOOD: std::ops::RangeInclusive<f64> = 0.85..=1.15;
/// The burst, a tenth of a second's worth, is long through by then, and the window of TCP is open.
const WARM: Duration = Duration::from_millis(700);
const WINDOW: Duration = Duration::from_millis(2500);
/// A stream that stands still is an error.
const PATIENCE: Duration = Duration::from_secs(10);
const PIECE: usize = 64 << 10;

/// What comes through, in bits a second, once the stream has been going for a while.
fn speed(from: &OwnedFd, to: &OwnedFd, at: IpAddr, window: Duration) -> Result<f64> {
    let listener = run_in(to.as_fd(), || TcpListener::bind((at, 0)))?;
    let target: SocketAddr = listener.local_addr()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            run_in(from.as_fd(), || {
                let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let piece = vec![0; PIECE];
                // Until who receives has seen enough.
                while stream.write_all(&piece).is_ok() {}
                io::Result::Ok(())
            })
        });
        let received = receive(&listener, window);
        // Both fail where the stream does not come about; what the receiver found says more.
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        let received = received.with_context(|| format!("{target}"))?;
        sent.map(|()| received).with_context(|| format!("{target}"))
    })
}

fn receive(listener: &TcpListener, window: Duration) -> Result<f64> {
    listener.set_nonblocking(true)?;
    let patient = Instant::now() + PATIENCE;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < patient => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; PIECE];
    let mut read_for = |how_long: Duration| {
        let (since, mut all) = (Instant::now(), 0_u64);
        while since.elapsed() < how_long {
            match stream.read(&mut buffer)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                some => all += some as u64,
            }
        }
        Ok(all as f64 * 8.0 / since.elapsed().as_secs_f64())
    };
    read_for(WARM)?;
    Ok(read_for(window)?)
}

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    let limit =
        |way: &str, (_, text): (f64, &str)| (format!("kubernetes.io/{way}-bandwidth"), text.to_owned());
    let config = PodSandboxConfig {
        annotations: [limit("ingress", INGRESS), limit("egress", EGRESS)].into(),
        ..pod("held", &daemon.path("logs"))
    };
    let held = Served::of(daemon, "held", config).await?;
    let free = Served::new(daemon, "free", &[]).await?;
    for v6 in [false, true] {
        let own = ip(OWN[usize::from(v6)]);
        for (what, (wanted, text), from, to, at) in [
            ("receives", INGRESS, &machine.own, &held.netns, held.at(v6)?.ip()),
            ("sends", EGRESS, &held.netns, &machine.own, own),
        ] {
            let found = speed(from, to, at, WINDOW)?;
            checks.that(
                &format!("a pod {what} at the rate of its annotation, {text}, over {}", version(v6)),
                GOOD.contains(&(found / wanted)),
                format!("{:.1} Mbit/s", found / 1e6),
            );
        }
    }
    for (what, from, to, at) in [
        ("receives", &machine.own, &free.netns, free.at(false)?.ip()),
        ("sends", &free.netns, &machine.own, ip(OWN[0])),
    ] {
        let found = speed(from, to, at, WARM)?;
        checks.that(
            &format!("one without annotations {what} as fast as it goes"),
            found > FREE,
            format!("{:.1} Mbit/s", found / 1e6),
        );
    }
    held.gone(daemon).await?;
    free.gone(daemon).await
}

fn version(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}
