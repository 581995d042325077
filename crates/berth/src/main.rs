//! `berth`: the daemon and its admin verbs. Wiring only; see crates/ARCHITECTURE.md.

mod adapters;
mod admin;
mod cli;
mod config;
mod daemon;
mod wiring;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os())
}
