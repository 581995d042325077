//! tracing to stderr.
//!
//! Who must act decides the level: error, someone's request failed or the daemon ends; warn, odd but handled; info, a
//! pod, container or image changed its state, or the daemon did; debug, what was decided and why. A release has nothing below.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{Log, LogFormat};

/// Installs the subscriber. The filter was checked with the configuration; a second call changes nothing.
pub(super) fn start(log: &Log) {
    let filter =
        directives(&log.level).parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // The journal and container logs have times of their own, but a file has not: the time stays.
    let started: Result<(), TryInitError> = match log.format {
        LogFormat::Text => {
            let layer = layer.with_ansi(io::stderr().is_terminal()).with_target(true);
            tracing_subscriber::registry().with(layer).with(filter).try_init()
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            tracing_subscriber::registry().with(layer).with(filter).try_init()
        }
    };
    if let Err(error) = started {
        tracing::warn!(error = &error as &dyn std::error::Error, "tracing was started before");
    }
}

/// A plain level is meant for what Berth does, not for every frame of HTTP/2; whoever wants those names the target.
fn directives(level: &str) -> String {
    match level {
        "info" | "debug" | "trace" => format!("warn,berth={level}"),
        directives => directives.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::directives;

    #[test]
    fn a_plain_level_is_of_berth() {
        assert_eq!(directives("debug"), "warn,berth=debug");
        for whole in ["error", "warn", "h2=trace", "berth_pods=debug,info"] {
            assert_eq!(directives(whole), whole);
        }
    }
}
