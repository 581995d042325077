//! How much goes from a pod to the host, over each bridge.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_netlink::Routes;
use berth_sys::netns::{new_netns, run_in};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::ways::{Way, Ways, asked};
use super::{accepted, connected};
use crate::bench::figures::{Report, Series};

/// A multiple of the ways, of which each comes first as often as the others.
const ROUNDS: usize = 60;
/// Bytes of one round.
const MUCH: usize = 128 << 20;
const PIECE: usize = 128 << 10;
/// The pod's number: nobody else's.
const POD: usize = 1_000_000;
/// Of the peer's rate.
const LEAST: f64 = 0.95;

/// Over one bridge.
#[derive(Default)]
pub(super) struct Through {
    took: Series,
    /// Of this process, which is at both ends: the kernel's work for the packets is in it.
    worked: Series,
    /// Of the programs' rate, round by round: a machine that is slower for a while is so for all of a round.
    shares: Vec<f64>,
}

impl Through {
    /// The median.
    fn share(&mut self) -> f64 {
        self.shares.sort_unstable_by(f64::total_cmp);
        self.shares.get(self.shares.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A pod, and where it sends to.
struct Path {
    netns: OwnedFd,
    listener: TcpListener,
}

impl Path {
    fn new(way: &Way, number: usize) -> Result<Self> {
        let netns = new_netns()?;
        let ips = way.attach(&asked(number, &[]), netns.as_fd())?;
        let own = *ips.iter().find(|ip| ip.is_ipv4()).with_context(|| format!("pod {number} has {ips:?}"))?;
        // The host's address in the pod's network: where the pod's default route leads.
        let routes = Routes::open()?;
        let mut gateways = Vec::new();
        for link in routes.all_links()? {
            gateways.extend(routes.addresses(link.index)?.into_iter().map(|(ip, _)| ip));
        }
        let same = |ip: &&std::net::IpAddr| match (ip, own) {
            (std::net::IpAddr::V4(ip), std::net::IpAddr::V4(own)) => ip.octets()[..2] == own.octets()[..2],
            _ => false,
        };
        let gateway = gateways.iter().find(same).context("the bridge has no address")?;
        Ok(Self { netns, listener: TcpListener::bind((*gateway, 0))? })
    }

    /// How long it took, and how long this process worked for it.
    fn round(&self) -> Result<(Duration, Duration)> {
        let to = self.listener.local_addr()?;
        let receive = || {
            let mut stream = accepted(&self.listener)?;
            let mut buffer = vec![0; PIECE];
            let mut all = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return std::io::Result::Ok(all),
                    some => all += some,
                }
            }
        };
        let (before, since) = (worked()?, Instant::now());
        let all = std::thread::scope(|scope| {
            let receiver = scope.spawn(receive);
            run_in(self.netns.as_fd(), || {
                let mut stream = connected(&to)?;
                let buffer = vec![0; PIECE];
                (0..MUCH / PIECE).try_for_each(|_| stream.write_all(&buffer))
            })?;
            anyhow::Ok(receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??)
        })?;
        anyhow::ensure!(all == MUCH, "{all} bytes came instead of {MUCH}");
        Ok((since.elapsed(), worked()?.saturating_sub(before)))
    }
}

fn worked() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let both = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(both.num_microseconds().try_into()?))
}

/// In the order of [`Ways::all`].
pub(super) fn measure(ways: &Ways) -> Result<[Through; 3]> {
    let [embedded, conflist, programs] = ways.all();
    let paths = [Path::new(embedded, POD)?, Path::new(conflist, POD + 1)?, Path::new(programs, POD + 2)?];
    let mut all = <[Through; 3]>::default();
    for path in &paths {
        path.round()?;
    }
    for round in 0..ROUNDS {
        let mut took = [Duration::ZERO; 3];
        for place in 0..paths.len() {
            let way = (round + place) % paths.len();
            let worked;
            (took[way], worked) = paths[way].round()?;
            all[way].took.push(took[way]);
            all[way].worked.push(worked);
        }
        for (through, own) in all.iter_mut().zip(took) {
            through.shares.push(took[2].as_secs_f64() / own.as_secs_f64());
        }
    }
    for (n, (way, path)) in ways.all().into_iter().zip(&paths).enumerate() {
        let pod = asked(POD + n, &[]);
        way.detach(&pod, &path.netns);
        way.has_nothing_of(&pod)?;
    }
    Ok(all)
}

pub(super) fn report(report: &mut Report<'_>, [mut embedded, mut conflist, mut programs]: [Through; 3]) {
    let rate = |series: &mut Series| MUCH as f64 / 1e6 / (series.quantile(0.5) / 1000.0);
    let theirs = rate(&mut programs.took);
    for (name, through) in [("of Berth's own", &mut embedded), ("a conflist in-process", &mut conflist)] {
        report.line(&format!("pod to host: {name}"), rate(&mut through.took), theirs, "MB/s", None);
        report.at_least("  of the programs' in the same round", through.share(), f64::NAN, "", LEAST);
        let what = format!("  CPU for {} MiB", MUCH >> 20);
        report.times(&what, &mut through.worked, &mut programs.worked, None);
    }
}
