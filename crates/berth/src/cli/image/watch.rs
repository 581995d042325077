//! A question that takes its time, with what it moves shown meanwhile.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use berth_client::Show;
use berth_model::Direction;
use serde_json::Value;

use super::super::client::transfers;
use super::CliError;
use crate::admin::ImageVerb;
use crate::admin::client::ask_about;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Whose progress is shown: the newest that began after the question.
pub(super) struct Watched<'a> {
    pub(super) socket: &'a Path,
    pub(super) direction: Direction,
    /// A reference, or what the archive is called; without, any.
    pub(super) of: Option<&'a str>,
}

impl Watched<'_> {
    pub(super) fn ask(
        &self,
        verb: ImageVerb,
        archive: Option<BorrowedFd<'_>>,
        mut show: Show,
    ) -> Result<Value, CliError> {
        if !show.is_shown() {
            return Ok(ask_about(self.socket, verb, archive)?);
        }
        let before: Vec<u64> = transfers(self.socket, self.of).iter().map(|one| one.number).collect();
        std::thread::scope(|scope| {
            let (tell, told) = channel();
            scope.spawn(move || {
                // Whoever waits is there until it comes.
                let _ = tell.send(ask_about(self.socket, verb, archive));
            });
            loop {
                let over = match told.recv_timeout(LOOK) {
                    Ok(answer) => Some(answer),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(CliError::Lost),
                };
                let all = transfers(self.socket, self.of);
                let own = |one: &&_| is_own(one, self.direction, &before);
                if let Some(own) = all.iter().rfind(own) {
                    show.update(own);
                }
                if let Some(answer) = over {
                    show.clear();
                    return Ok(answer?);
                }
            }
        })
    }
}

fn is_own(one: &berth_model::Transfer, direction: Direction, before: &[u64]) -> bool {
    one.direction == direction && !before.contains(&one.number)
}
