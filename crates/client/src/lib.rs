//! What a person types on a node without a kubelet: `run`, `ps`, `logs`, `exec` and the like.
//!
//! A client like any other: it speaks CRI over the daemon's socket and WebSocket to its streaming URLs. The little that CRI
//! has no word for comes through [`Daemon`].

mod arguments;
mod command;
mod error;
mod find;
mod images;
mod input;
mod list;
mod logs;
mod node;
mod output;
mod parse;
mod pod;
mod pull;
mod remove;
mod run;
mod session;
mod signals;
mod stream;
mod terminal;
mod tls;

use std::path::PathBuf;

use clap::ArgMatches;

pub use command::{VERBS, commands};
pub use error::ClientError;
pub use tls::Tls;

use crate::node::Node;

/// What the daemon says and does besides CRI. Calls may block.
pub trait Daemon: Send + Sync + 'static {
    /// Transfers that go on.
    fn pulls(&self) -> Vec<Pull>;
    /// To a container's first process, by signal(7)'s number.
    fn signal(&self, container: &str, signal: i32) -> Result<(), String>;
}

/// A pull that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pull {
    /// In full: registry, repository, tag or digest.
    pub reference: String,
    pub layers: u64,
    pub layers_done: u64,
    /// Of what had to be transferred.
    pub bytes: u64,
    pub bytes_done: u64,
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

/// Carries out one of [`VERBS`]; the exit code.
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
            "images" => images::images(&mut node, matches.get_flag("quiet")).await,
            _ => pull::command(&mut node, &arguments::name(matches)).await,
        }
    });
    // A thread may hang in a read of standard input: it ends with the process.
    runtime.shutdown_background();
    done
}
