//! `berth-e2e LANE`: the demo and the end-to-end lanes, against a daemon of their own in a private place. Run by
//! `cargo xtask`, which builds what they need and names it in the environment.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

mod archive;
mod audit;
mod bench;
mod certificates;
mod checks;
mod cli;
mod client;
mod clients;
mod cni;
mod conflist;
mod conformance;
mod crictl;
mod daemon;
mod demo;
mod disk;
mod escapes;
mod hostile;
mod image;
mod images;
mod kubelet;
mod layers;
mod limits;
mod modes;
mod mounts;
mod network;
mod page;
mod peer;
mod process;
mod pty;
mod pull;
mod registry;
mod requests;
mod restart;
mod skew;
mod stats;
mod streaming;
mod userns;
mod vm;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::checks::Checks;

#[tokio::main]
async fn main() -> ExitCode {
    let lane = std::env::args().nth(1).unwrap_or_default();
    // A lane that is dropped takes its instance down. A node of one's own listens for itself.
    let done = tokio::select! {
        biased;
        failed = interrupted(), if lane != "own-node" => failed,
        done = run(&lane) => done.map(Some),
    };
    match done {
        // Threads that block are not waited for.
        Ok(None) => std::process::exit(130),
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{lane}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// SIGINT or SIGTERM. That these are handled is also what gives a lane's programs the signals as a terminal's shell does:
/// what is ignored is inherited (execve(2)), and who starts a lane in the background has it ignore SIGINT.
async fn interrupted() -> Result<Option<bool>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    eprintln!("interrupted: what the lane made is removed");
    Ok(None)
}

/// Up in the network namespace that the lane is run in.
fn loopback() -> Result<()> {
    let socket = berth_netlink::Routes::open()?;
    let index = socket.index("lo")?.context("there is no lo")?;
    Ok(socket.set_up(index)?)
}

async fn run(lane: &str) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("pods need root: run it as root");
    }
    if ["conformance", "bench", "bench-network", "bench-pull", "network", "cni", "neighbours"].contains(&lane)
    {
        loopback().context("loopback does not come up")?;
    }
    if lane == "kubelet" || lane == "bench-node" {
        kubelet::prepare()?;
    }
    if lane == "own-node" {
        kubelet::serve(std::env::args().nth(2).as_deref()).await?;
        return Ok(true);
    }
    let before = audit::Snapshot::take()?;
    let mut checks = Checks::default();
    match lane {
        "demo" => demo::run(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "cli" => cli::lane(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "crictl" => crictl::run(&mut checks).await?,
        "restart" => restart::run(&mut checks).await?,
        "requests" => requests::lane(&mut checks).await?,
        "stats" => stats::lane(&mut checks).await?,
        "streaming" => streaming::lane(&mut checks).await?,
        "skew" => skew::run(&mut checks).await?,
        "images" => images::lane(&mut checks).await?,
        "cni" => cni::lane(&mut checks).await?,
        "network" => network::lane(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "neighbours" => network::neighbours::lane(&mut checks).await?,
        "mounts" => mounts::lane(&mut checks).await?,
        "escapes" => escapes::lane(&mut checks).await?,
        "hostile" => hostile::lane(&mut checks).await?,
        "userns" => userns::lane(&mut checks).await?,
        "kubelet" => kubelet::lane(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "node" => page::lane(&mut checks).await?,
        "limits" => limits::lane(&mut checks).await?,
        "process" => process::lane(&mut checks).await?,
        "layers" => layers::lane(&mut checks).await?,
        "modes" => modes::lane(&mut checks).await?,
        "vm" => {
            let cli = format!("cli {}", cli::NO_REGISTRY);
            let lanes = ["demo", "modes", "stats", "limits", "userns", "mounts", "process", cli.as_str()];
            vm::run(&mut checks, &lanes).await?
        }
        "conformance" => conformance::run(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "bench" => bench::run(&mut checks, std::env::args().nth(2).as_deref()).await?,
        "bench-network" => bench::network::run(&mut checks).await?,
        "bench-pull" => bench::pull::run(&mut checks).await?,
        "bench-node" => kubelet::bench(&mut checks).await?,
        other => bail!("no lane {other:?}; cargo xtask e2e --help lists them"),
    }
    // What the bench leaves in network and mounts goes with namespaces of its own.
    let own =
        |what: &str| !lane.starts_with("bench") || what.starts_with("process") || what.starts_with("cgroup");
    let left = audit::settled(&before, own).await?;
    checks
        .note("nothing is left on the machine", if left.is_empty() { Ok(()) } else { Err(left.join("; ")) });
    Ok(checks.end(lane))
}
