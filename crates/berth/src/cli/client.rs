//! Verbs of a person on the node: over CRI, with the admin socket for what CRI has no word for.

use std::path::{Path, PathBuf};

use berth_client::{Daemon, Part, Place, State, Tls, Transfer};
use clap::ArgMatches;
use serde_json::Value;

use super::CliError;
use crate::admin::ImageVerb;
use crate::admin::client::ask;
use crate::admin::protocol::{Request, chain};
use crate::config::Config;

pub(super) fn run(verb: &'static str, config: &Config, matches: &ArgMatches) -> Result<u8, CliError> {
    let daemon = Box::new(Admin { socket: config.admin_socket() });
    let tls = Tls {
        server: config.streaming.tls.as_ref().map(|tls| tls.certificate.clone()),
        ca: config.client.ca.clone(),
        identity: config.client.identity.clone(),
    };
    let place = Place { socket: config.socket.clone(), logs: config.run_logs(), daemon, tls };
    berth_client::run(verb, matches, place).map_err(|source| CliError::Client { verb, source })
}

struct Admin {
    socket: PathBuf,
}

impl Daemon for Admin {
    fn transfers(&self, of: &str) -> Vec<Transfer> {
        transfers(&self.socket, of)
    }

    fn signal(&self, container: &str, signal: i32) -> Result<(), String> {
        let request = Request::Signal { container: container.to_owned(), signal };
        ask(&self.socket, &request, None).map(drop).map_err(|error| chain(&error))
    }
}

/// Transfers of an image. Progress that cannot be had is none.
pub(super) fn transfers(socket: &Path, of: &str) -> Vec<Transfer> {
    let request = Request::Image { ask: ImageVerb::Transfers { of: of.to_owned() } };
    let Ok(all) = ask(socket, &request, None) else { return Vec::new() };
    let number = |of: &Value| of.as_u64().unwrap_or(0);
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let part = |part: &Value| Part {
        digest: part["digest"].as_str().unwrap_or_default().to_owned(),
        bytes: number(&part["bytes"]),
        bytes_done: number(&part["bytes_done"]),
        state: State::from_word(part["state"].as_str().unwrap_or_default()),
    };
    let transfer = |one: &Value| Transfer {
        number: number(&one["number"]),
        push: one["direction"] == "push",
        ended: one["ended"] == true,
        parts: list(&one["parts"]).iter().map(part).collect(),
    };
    list(&all).iter().map(transfer).collect()
}
