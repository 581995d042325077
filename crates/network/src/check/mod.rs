//! Whether a pod's network works, hop by hop from the pod outwards: each step tries one thing for real and names what it
//! found. What lies behind a hop that fails is not tried.

mod dns;
mod ports;
mod probe;
mod steps;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::steps::check_pod;
use crate::Recorded;

/// No probe waits longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After this, what is left is not tried.
const WHOLE: Duration = Duration::from_secs(30);

/// The pod, and who else is there.
#[derive(Debug)]
pub struct Subject<'a> {
    pub recorded: &'a Recorded,
    pub netns: BorrowedFd<'a>,
    /// A path of it, for people.
    pub path: &'a str,
    /// In the pod's resolv.conf.
    pub nameservers: Vec<IpAddr>,
    /// Other pods of the same bridge, with their names.
    pub others: Vec<(String, Vec<IpAddr>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Failed,
    Skipped,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The hop.
    pub name: String,
    pub outcome: Outcome,
    /// What was found, or why it was skipped.
    pub found: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helps: Option<String>,
}

impl Step {
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Ok, found: found.into(), helps: None }
    }

    pub fn failed(name: impl Into<String>, found: impl Into<String>, helps: impl Into<String>) -> Self {
        let helps = Some(helps.into()).filter(|text| !text.is_empty());
        Self { name: name.into(), outcome: Outcome::Failed, found: found.into(), helps }
    }

    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Skipped, found: why.into(), helps: None }
    }
}

/// How long there is still time.
#[derive(Debug, Clone, Copy)]
struct Clock {
    end: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { end: Instant::now() + WHOLE }
    }

    /// For the next probe; `None` when all of it is used up.
    fn next(self) -> Option<Duration> {
        let left = self.end.saturating_duration_since(Instant::now()).min(PATIENCE);
        (left > Duration::from_millis(50)).then_some(left)
    }
}

fn version(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}
