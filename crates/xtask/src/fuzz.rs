//! The targets of crates/fuzz under libFuzzer, with the stable compiler: sanitizers would need another, coverage does not.
//!
//! Only our own crates are watched. cargo takes xtask as their compiler's wrapper, which adds the flags; all other crates are
//! those of the other builds.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::build::root;
use crate::packages;
use crate::run::status;

/// Tells xtask that cargo calls it as a wrapper of rustc.
const WRAPPER: &str = "BERTH_FUZZ_RUSTC";

/// What makes a crate tell libFuzzer where it goes and what it compares.
const COVERAGE: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Copt-level=2",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// One directory of crates/fuzz/corpus; without it all, one after the other.
    target: Option<String>,
    /// Inputs that each target is given.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: u32,
    /// The same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Only this file, such as one that a run before left in target/fuzz.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// For each target in `cargo xtask test`: some seconds at most.
const ROUNDS: u32 = 10_000;

/// What `cargo xtask test` runs.
pub(crate) fn all() -> Result<()> {
    perform(&Fuzz { target: None, rounds: ROUNDS, seed: 1, input: None })
}

pub(crate) fn perform(fuzz: &Fuzz) -> Result<()> {
    packages::need(&packages::FUZZ)?;
    let corpus = root().join("crates/fuzz/corpus");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&corpus)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if let Some(wanted) = &fuzz.target {
        if !names.contains(wanted) {
            bail!("{wanted} is no target; there are {}", names.join(", "));
        }
        names.retain(|name| name == wanted);
    }
    build()?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for name in names {
        one(fuzz, name, &corpus.join(name))?;
    }
    Ok(())
}

/// This program's file. The build of the workspace's tests puts another of the same source in its place, and the kernel says
/// of the one that runs that it is deleted (proc(5), /proc/pid/exe).
fn myself() -> Result<PathBuf> {
    let path = std::env::current_exe()?;
    let name = path.to_string_lossy();
    let mended = name.strip_suffix(" (deleted)").map(PathBuf::from);
    Ok(mended.unwrap_or(path))
}

fn build() -> Result<()> {
    println!("cargo build -p berth-fuzz --features libfuzzer (watched)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    status(
        Command::new(cargo)
            .current_dir(root())
            .args(["build", "--quiet", "-p", "berth-fuzz", "--features", "libfuzzer"])
            .env("RUSTC_WORKSPACE_WRAPPER", myself()?)
            .env(WRAPPER, "1"),
    )
}

/// Runs one target. New inputs that reach new places are kept in target/fuzz for the next time, and so is what libFuzzer
/// says; a person sees its end when something is found.
fn one(fuzz: &Fuzz, name: &str, corpus: &Path) -> Result<()> {
    let work = root().join("target/fuzz").join(name);
    let found = work.join("found");
    std::fs::create_dir_all(&found)?;
    let log = work.join("log");
    let mut command = Command::new(root().join("target/debug/berth-fuzz"));
    command
        .env("BERTH_FUZZ", name)
        .args(["-max_len=4096", "-timeout=20", "-rss_limit_mb=1024"])
        .stderr(File::create(&log)?);
    match &fuzz.input {
        Some(input) => command.arg(input),
        None => command
            .args([format!("-runs={}", fuzz.rounds), format!("-seed={}", fuzz.seed)])
            .arg(format!("-artifact_prefix={}/", work.display()))
            .args([&found, corpus]),
    };
    let since = Instant::now();
    let done = command.status().with_context(|| format!("{command:?}"))?;
    if !done.success() {
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let from = text.find("panicked at").or_else(|| text.find("ERROR: ")).unwrap_or_default();
        eprintln!("{}", text.get(from..).unwrap_or_default());
        bail!(
            "{name} found something: cargo xtask fuzz {name} --input FILE shows it again; once mended, the file belongs into crates/fuzz/corpus/{name}"
        );
    }
    let rounds = if fuzz.input.is_some() { 1 } else { fuzz.rounds };
    println!("fuzz {name}: {rounds} rounds, seed {}, {:.1} s", fuzz.seed, since.elapsed().as_secs_f64());
    Ok(())
}

/// Whether this process is cargo's wrapper of rustc.
pub(crate) fn is_wrapper() -> bool {
    std::env::var_os(WRAPPER).is_some()
}

/// Becomes the compiler that the arguments begin with. What runs while something is built is not watched: it would lack
/// libFuzzer's half.
pub(crate) fn rustc() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("a compiler's name")?;
    let words: Vec<_> = words.collect();
    let after = |flag: &str, wanted: &dyn Fn(&str) -> bool| {
        let mut values = words.iter().zip(words.iter().skip(1)).filter(|(word, _)| *word == flag);
        values.any(|(_, value)| value.to_str().is_some_and(wanted))
    };
    let watched = after("--crate-name", &|name| name.starts_with("berth"))
        && !after("--crate-type", &|kind| kind == "proc-macro");
    let mut command = Command::new(program);
    command.args(&words);
    if watched {
        command.args(COVERAGE);
    }
    Err(command.exec()).context("run the compiler")
}
