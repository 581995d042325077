//! The program inside the demo and test images: several small tools under one name, static, so that it is a whole root
//! filesystem by itself. `guest TOOL ARGS`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command-line tool")]

mod net;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match tools::run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}: {error}", words.join(" "));
            ExitCode::from(1)
        }
    }
}
