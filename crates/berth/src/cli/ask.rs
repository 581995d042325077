//! Verbs that ask the running daemon.

use std::fs::File;
use std::os::fd::AsFd as _;

use clap::ArgMatches;

use super::{CliError, print, screen};
use crate::admin::ImportedImage;
use crate::admin::client::{AskError, ask};
use crate::admin::protocol::Request;
use crate::config::Config;

/// The daemon reads the archive through our descriptor: it need not see the file's path, and stdin works the same.
pub(super) fn import(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let path = matches.get_one::<String>("FILE").map_or("-", String::as_str);
    let socket = config.admin_socket();
    let reply = if path == "-" {
        ask(&socket, &Request::ImageImport {}, Some(std::io::stdin().as_fd()))?
    } else {
        let file = File::open(path).map_err(|source| CliError::Open { path: path.to_owned(), source })?;
        ask(&socket, &Request::ImageImport {}, Some(file.as_fd()))?
    };
    let images: Vec<ImportedImage> =
        serde_json::from_value(reply).map_err(|source| AskError::Decode { source })?;
    for image in images {
        print(&format!("{} {}\n", image.id, image.names.join(" ")))?;
    }
    Ok(())
}

pub(super) fn status(config: &Config, json: bool) -> Result<(), CliError> {
    let status = ask(&config.admin_socket(), &Request::Status {}, None)?;
    if json { print(&format!("{status:#}\n")) } else { print(&screen::draw(&status)) }
}

pub(super) fn reset(config: &Config, yes: bool) -> Result<(), CliError> {
    if !yes {
        return Err(CliError::Unconfirmed { name: config.name.clone() });
    }
    // The daemon knows where its images are; what was said here may name its state alone.
    let status = ask(&config.admin_socket(), &Request::Status {}, None)?;
    ask(&config.admin_socket(), &Request::Reset {}, None)?;
    print(&format!(
        "pods, network and control groups of {} are gone, its daemon is ending; images are in {}\n",
        status["instance"]["name"], status["images"]["at"]
    ))
}
