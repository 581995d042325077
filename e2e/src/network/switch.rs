//! A node changes from in-process plugins to programs and back, with pods running.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::PodSandboxConfig;
use nix::fcntl::{Flock, FlockArg};

use super::kind::{Kind, ipam, taken};
use super::machine::{Machine, OWN, ip};
use super::pods::Served;
use super::ports::tcp;
use super::restarts::{CLEARED, empty};
use super::traffic::answers;
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// Pods that are made after the change.
const NEXT: usize = 5;

pub(super) async fn all(checks: &mut Checks, machine: &Machine) -> Result<()> {
    let mut daemon = Kind::InProcess.daemon().await?;
    println!("  changed with pods running");
    let done = async {
        change(checks, machine, &mut daemon, Kind::InProcess, Kind::Programs).await?;
        change(checks, machine, &mut daemon, Kind::Programs, Kind::InProcess).await?;
        without(checks, machine, &daemon).await
    }
    .await;
    daemon.finish(done).await?;
    super::kind::clear(checks, |leaves| leaves.plugin != "bridge");
    let left = machine.left().await;
    checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
    Ok(())
}

async fn change(
    checks: &mut Checks,
    machine: &Machine,
    daemon: &mut Daemon,
    from: Kind,
    to: Kind,
) -> Result<()> {
    let (a, b) = (Served::new(daemon, "a", &[tcp(8080)]).await?, Served::new(daemon, "b", &[]).await?);
    daemon.kill()?;
    daemon.flags = to.flags(&daemon.path(""));
    daemon.start().await?;
    to.ready(daemon).await?;
    checks.note(&format!("{} after {}: pods that run are reached", to.word(), from.word()), {
        reached(machine, &a, &b)
    });
    refused(checks, daemon, "a").await?;
    let lasts = last(daemon)?;
    let next = locked(checks, daemon).await?;
    let after = lasts.iter().zip(&next.ips).all(|(last, ip)| follows(last, ip));
    checks.that(
        "  a new pod's addresses are those after the last ones",
        after,
        format!("{lasts:?} {:?}", next.ips),
    );
    let mut others = vec![next];
    for at in 1..NEXT {
        others.push(Served::new(daemon, &format!("next-{at}"), &[]).await?);
    }
    let mut all: Vec<_> = [&a, &b].into_iter().chain(&others).flat_map(|pod| &pod.ips).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    checks.that(
        "  no address is given twice",
        all.len() == count && count == 2 * (2 + NEXT),
        format!("{all:?}"),
    );
    checks.note("  old and new reach each other", {
        let mut found = Ok(());
        for v6 in [false, true] {
            found = found.and(answers(&others[0].netns, a.at(v6)?, "a"));
            found = found.and(answers(&b.netns, others[0].at(v6)?, "next-0"));
        }
        found
    });
    a.gone(daemon).await?;
    let again = Served::new(daemon, "again", &[tcp(8080)]).await?;
    let outside = std::net::SocketAddr::new(ip(OWN[0]), 8080);
    checks.note("  an old one goes, and its port is free", answers(&machine.outside, outside, "again"));
    for pod in others.into_iter().chain([again, b]) {
        pod.gone(daemon).await?;
    }
    checks.note("  all gone: no interface, rule or address is left", empty(daemon, CLEARED).await);
    Ok(())
}

/// A port of the host is one pod's, whoever connected that one.
async fn refused(checks: &mut Checks, daemon: &Daemon, holder: &str) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = PodSandboxConfig { port_mappings: vec![tcp(8080)], ..pod("taken", &daemon.path("logs")) };
    let (said, made) = match client.run_pod(&config).await {
        Ok(id) => ("it runs".to_owned(), Some(id)),
        Err(error) => (error.to_string(), None),
    };
    let named = said.contains("8080") && said.contains(&format!("leads to pod demo/{holder} already"));
    checks.that("  its port for a new pod is refused with the holder's name", named, &said);
    match made {
        Some(id) => client.remove_pod(&id).await,
        None => Ok(()),
    }
}

/// The configuration goes, and comes back: pods of Berth's own network beside those of plugins.
async fn without(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    let (file, aside) = (daemon.path("cni/10-lane.conflist"), daemon.path("aside.conflist"));
    let outside = std::net::SocketAddr::new(ip(OWN[0]), 8080);
    let by_plugins = Served::new(daemon, "by-plugins", &[tcp(8080)]).await?;
    std::fs::rename(&file, &aside)?;
    in_use(daemon, |shown| shown.get("network").is_none() && shown.get("problem").is_none()).await?;
    refused(checks, daemon, "by-plugins").await?;
    by_plugins.gone(daemon).await?;
    let own = Served::new(daemon, "own", &[tcp(8080)]).await?;
    checks.note(
        "without the configuration the port is Berth's own network's",
        answers(&machine.outside, outside, "own"),
    );
    std::fs::rename(&aside, &file)?;
    Kind::InProcess.ready(daemon).await?;
    refused(checks, daemon, "own").await?;
    own.gone(daemon).await?;
    let last = Served::new(daemon, "last", &[tcp(8080)]).await?;
    checks.note("  and the plugins' again", answers(&machine.outside, outside, "last"));
    last.gone(daemon).await?;
    checks.note("  all gone: no interface, rule or address is left", empty(daemon, CLEARED).await);
    Ok(())
}

fn reached(machine: &Machine, a: &Served, b: &Served) -> Result<()> {
    for v6 in [false, true] {
        answers(&machine.own, a.at(v6)?, "a")?;
        answers(&a.netns, b.at(v6)?, "b")?;
        let seen = super::traffic::ask(&b.netns, Machine::mirror(v6))?;
        holds!(seen == OWN[usize::from(v6)], "the outside sees {seen}");
        let port = std::net::SocketAddr::new(ip(OWN[usize::from(v6)]), 8080);
        answers(&machine.outside, port, "a")?;
    }
    answers(&machine.own, std::net::SocketAddr::new(ip("127.0.0.1"), 8080), "a")
}

/// The last addresses given, as host-local keeps them.
fn last(daemon: &Daemon) -> Result<Vec<String>> {
    let read = |at: usize| {
        let path = ipam(daemon).join(format!("last_reserved_ip.{at}"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    Ok(vec![read(0)?, read(1)?])
}

fn follows(last: &str, next: &std::net::IpAddr) -> bool {
    use std::net::IpAddr;
    match (last.parse(), next) {
        (Ok(IpAddr::V4(last)), IpAddr::V4(next)) => u32::from(last) + 1 == u32::from(*next),
        (Ok(IpAddr::V6(last)), IpAddr::V6(next)) => u128::from(last) + 1 == u128::from(*next),
        _ => false,
    }
}

/// A pod that is made while somebody else has the directory's lock waits for it.
async fn locked(checks: &mut Checks, daemon: &Daemon) -> Result<Served> {
    let path = ipam(daemon).join("lock");
    let file = std::fs::File::open(&path)?;
    let inode = file.metadata()?.ino();
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let before = taken(daemon);
    let waits = until("somebody to wait for the lock", || async {
        // A program waits in the kernel: its line is marked so (proc(5), /proc/locks). The daemon tries, with the file open.
        let locks = std::fs::read_to_string("/proc/locks")?;
        let waits = |line: &str| line.contains("-> FLOCK") && line.contains(&format!(":{inode} "));
        let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().context("no daemon")?))?;
        let opened = |one: std::fs::DirEntry| std::fs::read_link(one.path()).is_ok_and(|to| to == path);
        let tries = files.filter_map(Result::ok).any(opened);
        Ok((tries || locks.lines().any(waits)).then_some(()))
    });
    let done = async {
        let waits = waits.await;
        let during = taken(daemon);
        drop(lock);
        (waits, during)
    };
    let (made, (waits, during)) = tokio::join!(Served::new(daemon, "next-0", &[]), done);
    checks.note("  a new pod waits for the directory's lock", waits);
    checks.that("  and takes nothing meanwhile", before == during, during.join(" "));
    made
}
