//! Ports of the host with one pod that has one, and with many: on a host each, by turns, so that both have the same
//! machine.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_netlink::{Change, PortSettings, Routes, Veth};
use berth_sys::netns::{new_netns, run_in};

use super::ways::{Way, Ways, asked, run_below};
use super::{accepted, connected};
use crate::bench::figures::{Report, Series};
use crate::disk::Mounted;

/// With the one that comes and goes.
const MANY: usize = 1000;
/// Pods that come and go beside the others.
const ROUNDS: usize = 300;
/// A bridge has no more than 1023 ports, and one is taken until its pod's namespace is gone.
const ENDED: usize = 20;
/// Connections through a port in a round.
const CONNECTIONS: usize = 10;
/// The first pod's port of the host; the others have those behind it.
const FIRST: u16 = 20_000;
/// What it costs with many is less than this many times what it costs with one, and so many milliseconds that cannot be
/// told from none: it is a hundredth of what a pod costs beside.
const AS_ONE: f64 = 1.2;
const NOTHING: f64 = 0.2;
const HOST: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";

/// A way, with what it keeps below a directory.
type Open = fn(&Path) -> Result<Way>;

/// A host with so many pods, each with a port.
struct Host {
    netns: OwnedFd,
    outside: OwnedFd,
    way: Way,
    listener: TcpListener,
    /// A pod's interfaces go with its namespace.
    _pods: Vec<OwnedFd>,
    ended: Vec<OwnedFd>,
    links: usize,
    next: usize,
    _run: Mounted,
    /// Removed last.
    _home: tempfile::TempDir,
}

/// Pods with a port, and pods without that came a moment before or after them.
#[derive(Default)]
struct Longer {
    with: Series,
    without: Series,
}

impl Longer {
    fn push(&mut self, with: Duration, without: Duration) {
        self.with.push(with);
        self.without.push(without);
    }

    /// What a port adds, in milliseconds, where nothing else comes between: in the quicker half of the pods, of which this is
    /// the middle. An interface that came up makes the kernel send to all others, either before the pod is through or after,
    /// and with a thousand others that is 5 ms more or not.
    fn by_a_port(&mut self) -> f64 {
        self.with.quantile(0.25) - self.without.quantile(0.25)
    }
}

#[derive(Default)]
pub(super) struct Costs {
    added: Longer,
    removed: Longer,
    connected: Series,
}

/// One pod and many, by one of the ways.
pub(super) struct Compared {
    name: &'static str,
    one: Costs,
    many: Costs,
}

impl Host {
    fn new(open: Open, pods: usize) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("berth-ports-").tempdir()?;
        let run = run_below(home.path())?;
        let (netns, outside) = (new_netns()?, new_netns()?);
        let (way, made, listener, links) = run_in(netns.as_fd(), || {
            let made = || {
                uplink(&outside)?;
                let way = open(home.path())?;
                let mut made = Vec::new();
                for number in 0..pods {
                    let pod = new_netns()?;
                    let port = FIRST + u16::try_from(number)?;
                    way.attach(&asked(number, &[port]), pod.as_fd())?;
                    made.push(pod);
                }
                let routes = Routes::open()?;
                let links = routes.all_links()?;
                // The kernel tells the groups of a pod that comes to all others, on everybody's processors and at any time in
                // the next seconds: 5 ms of work with a thousand others, whatever else the pod has.
                let ports = links.iter().filter(|link| link.kind == "veth" && link.master.is_some());
                let deaf = PortSettings { hears_groups: Some(false), ..PortSettings::default() };
                routes.apply(ports.map(|port| Change::port_up(&port.name, deaf)))?;
                let first = made.first().context("no pod")?;
                let listener = run_in(first.as_fd(), || TcpListener::bind(("0.0.0.0", 80)))?;
                anyhow::Ok((way, made, listener, links.len()))
            };
            made().map_err(|error| std::io::Error::other(format!("{error:#}")))
        })?;
        let ended = Vec::new();
        Ok(Self {
            netns,
            outside,
            way,
            listener,
            _pods: made,
            ended,
            links,
            next: pods,
            _run: run,
            _home: home,
        })
    }

    /// One more pod with a port, which goes again, and one without; each is the first in every other round, which finds less
    /// in the processor's caches.
    fn round(&mut self, costs: &mut Costs) -> Result<()> {
        let is_first = self.next % 4 < 2;
        let [one, other] = if is_first { [&[FIRST - 1][..], &[]] } else { [&[][..], &[FIRST - 1]] };
        let (one, other) = (self.pod(one)?, self.pod(other)?);
        let (with, without) = if is_first { (one, other) } else { (other, one) };
        costs.added.push(with.0, without.0);
        costs.removed.push(with.1, without.1);
        Ok(())
    }

    fn pod(&mut self, ports: &[u16]) -> Result<(Duration, Duration)> {
        let pod = new_netns()?;
        let asked = asked(self.next, ports);
        let way = &self.way;
        let (added, removed) = run_in(self.netns.as_fd(), || {
            let since = Instant::now();
            let attached = way.attach(&asked, pod.as_fd());
            let added = since.elapsed();
            attached.map_err(|error| std::io::Error::other(format!("{error:#}")))?;
            let since = Instant::now();
            way.detach(&asked, &pod);
            let removed = since.elapsed();
            way.has_nothing_of(&asked).map_err(std::io::Error::other)?;
            Ok((added, removed))
        })?;
        self.ended.push(pod);
        self.next += 1;
        if self.ended.len() >= ENDED {
            self.settle()?;
        }
        Ok((added, removed))
    }

    /// The kernel clears namespaces in its own time, which is not to be the next pod's.
    fn settle(&mut self) -> Result<()> {
        self.ended.clear();
        let end = Instant::now() + Duration::from_secs(30);
        run_in(self.netns.as_fd(), || {
            let routes = Routes::open()?;
            while routes.all_links()?.len() > self.links {
                if Instant::now() > end {
                    return Err(std::io::Error::other("interfaces of pods that are gone stay"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Connections from outside to the first pod, each with a byte there and back.
    fn connections(&self, costs: &mut Costs, count: usize) -> Result<()> {
        let to = SocketAddr::new(HOST.parse()?, FIRST);
        let serve = || {
            for _ in 0..count {
                let mut stream = accepted(&self.listener)?;
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
            }
            std::io::Result::Ok(())
        };
        let ask = || {
            run_in(self.outside.as_fd(), || {
                let mut series = Vec::new();
                for _ in 0..count {
                    let since = Instant::now();
                    let mut stream = connected(&to)?;
                    stream.write_all(b"?")?;
                    stream.read_exact(&mut [0])?;
                    series.push(since.elapsed());
                }
                Ok(series)
            })
        };
        std::thread::scope(|scope| {
            let server = scope.spawn(serve);
            let took = ask()?;
            server.join().map_err(|_| anyhow::anyhow!("the pod's server panicked"))??;
            took.into_iter().for_each(|took| costs.connected.push(took));
            Ok(())
        })
    }
}

/// In the namespace of the calling thread.
fn uplink(outside: &OwnedFd) -> Result<()> {
    let routes = Routes::open()?;
    let veth = Veth {
        name: "up0",
        up: true,
        master: None,
        mac: None,
        peer: "out0",
        peer_netns: outside.as_fd(),
        peer_mac: None,
        mtu: 0,
    };
    routes.add_veth(&veth)?;
    routes.set_up(1)?;
    let own: IpAddr = HOST.parse()?;
    routes.add_address(routes.index("up0")?.context("no up0")?, own, 24)?;
    Ok(run_in(outside.as_fd(), || {
        let routes = Routes::open()?;
        let index = routes.index("out0")?.ok_or(std::io::ErrorKind::NotFound)?;
        routes.add_address(index, OUTSIDE.parse().map_err(std::io::Error::other)?, 24)?;
        routes.set_up(index)
    })?)
}

/// Of Berth's own, and of a conflist in-process.
pub(super) fn measure() -> Result<[Compared; 2]> {
    Ok([compared("of Berth's own", Ways::embedded)?, compared("a conflist in-process", Ways::conflist)?])
}

fn compared(name: &'static str, open: Open) -> Result<Compared> {
    let (mut one, mut many) = (Host::new(open, 1)?, Host::new(open, MANY - 1)?);
    let mut costs = [Costs::default(), Costs::default()];
    for round in 0..=ROUNDS {
        for (host, costs) in [&mut one, &mut many].into_iter().zip(&mut costs) {
            // The first finds nothing in the processor's caches.
            let first = &mut Costs::default();
            let costs = if round == 0 { first } else { costs };
            host.round(costs)?;
            host.connections(costs, CONNECTIONS)?;
        }
    }
    let [one, many] = costs;
    Ok(Compared { name, one, many })
}

pub(super) fn report(report: &mut Report<'_>, found: [Compared; 2]) {
    println!("\n  {:<34} {:>12} {:>12}", "ports of the host", format!("{MANY} pods"), "1 pod");
    for Compared { name, mut one, mut many } in found {
        println!("  {name}");
        for (what, many, one) in [
            ("  what a port adds to a pod's coming", many.added.by_a_port(), one.added.by_a_port()),
            ("  and to its going", many.removed.by_a_port(), one.removed.by_a_port()),
        ] {
            report.line(what, many, one, "ms", Some(one.max(0.0) * AS_ONE + NOTHING));
        }
        let (many_to, one_to) = (many.connected.quantile(0.5), one.connected.quantile(0.5));
        report.line("  a connection through one", many_to, one_to, "ms", Some(one_to * AS_ONE));
        let (many, one) = (many.added.without.quantile(0.5), one.added.without.quantile(0.5));
        report.line("  a pod without ports comes", many, one, "ms", None);
    }
}
