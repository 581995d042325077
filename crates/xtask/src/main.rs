//! `cargo xtask`: everything a person does with the repository, in one place.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

mod build;
mod fuzz;
mod host;
mod lanes;
mod node;
mod packages;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use lanes::{Kind, STREAMS};

/// What there is to do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Show real pods on this machine, then remove every trace. Needs root.
    Demo {
        /// Pull this image and run it as well, with the command it brings.
        #[arg(long, value_name = "REF")]
        image: Option<String>,
    },
    /// Unit and kernel tests, then the end-to-end lanes. Needs root.
    Test,
    /// Formatting and lints, then `test`.
    Ci,
    /// One end-to-end lane. Needs root.
    #[command(after_help = format!("Lanes:\n{}", lanes::list(&[Kind::Test, Kind::Part, Kind::Bench])))]
    E2e {
        #[arg(value_parser = lanes::names(), hide_possible_values = true)]
        lane: String,
        /// Part of a lane, where the list says so.
        focus: Option<String>,
    },
    /// A node of your own: a kubelet without a cluster, and Berth. Needs root.
    Node {
        #[command(subcommand)]
        task: node::Node,
    },
    /// Strangers' bytes to every parser, by libFuzzer with the corpus of crates/fuzz.
    Fuzz(fuzz::Fuzz),
    /// Berth beside Debian's containerd, runc and CNI plugins, in one run on this machine. Needs root.
    #[command(after_help = format!("Parts:\n{}", lanes::list(&[Kind::Bench])))]
    Bench {
        /// One part only; `streams` is of the first the figures of streams.
        #[arg(value_parser = lanes::benches(), hide_possible_values = true)]
        part: Option<String>,
    },
    /// Build the daemon and its shim side by side, in target/berth.
    Build,
}

fn main() -> ExitCode {
    let done = if fuzz::is_wrapper() { fuzz::rustc() } else { perform(Task::parse()) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Demo { image } => {
            host::check()?;
            run::lane(&build::all()?, "demo", image.as_deref())
        }
        Task::Test => test(),
        Task::Ci => {
            build::toolchain()?;
            run::cargo(&["fmt", "--check"])?;
            packages::need(&packages::TEST)?;
            run::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
            test()
        }
        Task::E2e { lane, focus } => {
            host::check()?;
            packages::need(&packages::TEST)?;
            run::lane(&build::all()?, &lane, focus.as_deref())
        }
        Task::Node { task } => node::perform(&task),
        Task::Fuzz(fuzz) => fuzz::perform(&fuzz),
        Task::Bench { part } => bench(part.as_deref()),
        Task::Build => {
            let built = build::all()?;
            println!("{}", built.directory.display());
            Ok(())
        }
    }
}

/// Every part is run, also after one that is over a budget: the figures are wanted then most of all.
fn bench(part: Option<&str>) -> Result<()> {
    host::check()?;
    packages::need(&packages::BENCH)?;
    let built = build::measuring()?;
    if part == Some(STREAMS) {
        return run::lane(&built, "bench", part);
    }
    let parts = lanes::of(Kind::Bench).filter(|lane| part.is_none_or(|part| part == lane.name));
    let done: Vec<Result<()>> = parts.map(|lane| run::lane(&built, lane.name, None)).collect();
    done.into_iter().collect()
}

fn test() -> Result<()> {
    host::check()?;
    packages::need(&packages::TEST)?;
    run::cargo(&["test", "--quiet", "--workspace"])?;
    fuzz::all()?;
    let built = build::all()?;
    for lane in lanes::of(Kind::Test) {
        run::lane(&built, lane.name, None)?;
    }
    Ok(())
}
