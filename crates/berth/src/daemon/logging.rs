//! tracing to stderr.
//!
//! Who must act decides the level: error, someone's request failed or the daemon ends; warn, odd but handled; info, a
//! pod, container or image changed its state, or the daemon did; debug, what was decided and why; trace, each step.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Installs the subscriber. The filter was checked with the configuration; a second call changes nothing.
pub(super) fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The journal and container logs have times of their own, but a file has not: the time stays.
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(true).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Err(error) = started {
        tracing::warn!(error = error.as_ref() as &dyn std::error::Error, "tracing was started before");
    }
}
