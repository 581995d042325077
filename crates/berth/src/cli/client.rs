//! Verbs of a person on the node: over CRI, with the admin socket for what CRI has no word for.

use std::path::{Path, PathBuf};

use berth_client::{Daemon, Place, Tls};
use berth_model::Transfer;
use clap::ArgMatches;

use super::CliError;
use crate::admin::client::{ask, ask_about};
use crate::admin::protocol::{Request, chain};
use crate::admin::{ImageVerb, Password};
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
        transfers(&self.socket, Some(of))
    }

    fn pull(&self, image: &str, platform: &str, login: Option<(String, String)>) -> Result<String, String> {
        let login = login.map(|(username, password)| Password { username, password });
        let ask = ImageVerb::Pull { image: image.to_owned(), platform: platform.to_owned(), login };
        let answer = ask_about(&self.socket, ask, None).map_err(|error| chain(&error))?;
        Ok(answer["id"].as_str().unwrap_or_default().to_owned())
    }

    fn signal(&self, container: &str, signal: i32) -> Result<(), String> {
        let request = Request::Signal { container: container.to_owned(), signal };
        ask(&self.socket, &request, None).map(drop).map_err(|error| chain(&error))
    }
}

/// Transfers of an image or an archive, or all. Progress that cannot be had is none.
pub(super) fn transfers(socket: &Path, of: Option<&str>) -> Vec<Transfer> {
    let verb = ImageVerb::Transfers { of: of.map(str::to_owned) };
    let all = ask_about(socket, verb, None).ok();
    all.and_then(|all| serde_json::from_value(all).ok()).unwrap_or_default()
}
