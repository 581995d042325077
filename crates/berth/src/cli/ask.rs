//! Verbs that ask the running daemon.

use super::{CliError, print, screen};
use crate::admin::client::ask;
use crate::admin::protocol::Request;
use crate::config::Config;

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
