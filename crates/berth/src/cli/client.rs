//! Verbs of a person on the node: over CRI, with the admin socket for what CRI has no word for.

use std::path::PathBuf;

use berth_client::{Daemon, Place, Pull, Tls};
use clap::ArgMatches;

use super::CliError;
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
    fn pulls(&self) -> Vec<Pull> {
        // Progress that cannot be had is none.
        let Ok(status) = ask(&self.socket, &Request::Status {}, None) else { return Vec::new() };
        let pulls = status["pulls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |of: &serde_json::Value| of.as_u64().unwrap_or(0);
        let pull = |pull: &serde_json::Value| Pull {
            reference: pull["reference"].as_str().unwrap_or_default().to_owned(),
            layers: number(&pull["layers"]),
            layers_done: number(&pull["layers_done"]),
            bytes: number(&pull["bytes"]),
            bytes_done: number(&pull["bytes_done"]),
        };
        pulls.iter().map(pull).collect()
    }

    fn signal(&self, container: &str, signal: i32) -> Result<(), String> {
        let request = Request::Signal { container: container.to_owned(), signal };
        ask(&self.socket, &request, None).map(drop).map_err(|error| chain(&error))
    }
}
