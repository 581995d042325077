//! What a person types on a node without a kubelet: `run`, `ps`, `logs`, `exec` and the like.
//!
//! A client like any other: it speaks CRI over the daemon's socket and WebSocket to its streaming URLs. The little that CRI
//! has no word for comes through [`Daemon`].

mod arguments;
mod command;
mod error;
mod find;
mod image;
mod input;
mod list;
mod logs;
mod node;
mod output;
mod parse;
mod pod;
mod remove;
mod run;
mod session;
mod signals;
mod stream;
mod terminal;
mod tls;

use std::path::PathBuf;

use berth_model::Transfer;
use clap::ArgMatches;

pub use command::{VERBS, commands};
pub use error::ClientError;
pub use image::{Show, login, login_arguments};
pub use image::{VERBS as IMAGE_VERBS, commands as image_commands};
pub use output::{size as readable, table};
pub use tls::Tls;

use crate::node::Node;

/// What the daemon says and does besides CRI. Calls may block.
pub trait Daemon: Send + Sync + 'static {
    /// Transfers of an image that go on or have just ended, the oldest first.
    fn transfers(&self, of: &str) -> Vec<Transfer>;
    /// Pulls an image for a platform, with a user and a password where some are given; the image's id.
    fn pull(&self, image: &str, platform: &str, login: Option<(String, String)>) -> Result<String, String>;
    /// To a container's first process, by signal(7)'s number.
    fn signal(&self, container: &str, signal: i32) -> Result<(), String>;
}

/// Where the node's daemon is.
pub struct Place {
    /// CRI's socket.
    pub socket: PathBuf,
    /// Below it `run` keeps the logs of its containers.
    pub logs: PathBuf,
    pub daemon: Box<dyn Daemon>,
    /// For a streaming server that wants it.
    pub tls: Tls,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("socket", &self.socket)
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}

/// Carries out one of [`VERBS`], or one of [`IMAGE_VERBS`] after `image `; the exit code.
pub fn run(verb: &str, matches: &ArgMatches, place: Place) -> Result<u8, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::Io { doing: "start", source })?;
    let done = runtime.block_on(async {
        let mut node = Node::connect(place).await?;
        match verb {
            "run" => run::run(&mut node, arguments::run(matches)?).await,
            "exec" => session::exec(&mut node, arguments::exec(matches)).await,
            "attach" => session::attach(&mut node, &arguments::name(matches)).await,
            "logs" => logs::logs(&mut node, &arguments::logs(matches)).await,
            "ps" => list::ps(&mut node, matches.get_flag("all"), matches.get_flag("quiet")).await,
            "stop" => remove::stop(&mut node, &arguments::names(matches), arguments::grace(matches)).await,
            "rm" => remove::rm(&mut node, &arguments::names(matches), matches.get_flag("force")).await,
            "images" => image::run(&mut node, "list", matches).await,
            "pull" => image::run(&mut node, "pull", matches).await,
            of_image => image::run(&mut node, of_image.trim_start_matches("image "), matches).await,
        }
    });
    // A thread may hang in a read of standard input: it ends with the process.
    runtime.shutdown_background();
    done
}
