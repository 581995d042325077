//! The program inside the demo and test images: several small tools under one name, static, so that it is a whole root
//! filesystem by itself. `guest TOOL ARGS`, or `TOOL ARGS`
//! where a link gives it the tool's name.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command-line tool")]

mod health;
mod net;
mod process;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // By another name it is the tool of that name.
    match words.first().and_then(|path| path.rsplit('/').next()) {
        Some(name) if name != "guest" => words[0] = name,
        _ => drop(words.drain(..words.len().min(1))),
    }
    match tools::run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}: {error}", words.join(" "));
            ExitCode::from(1)
        }
    }
}
