//! The daemon ends while streams run: asked to, and killed.

use anyhow::Result;
use berth_cri_api::v1::*;

use super::talk::{Answer, Talk};
use super::{Ask, Lane, Over, blocking};
use crate::client::args;
use crate::daemon::Daemon;

/// What clients hear of a daemon that has the time to say it.
const REASON: &str = "the daemon ends";

pub(super) async fn run(lane: &mut Lane<'_>, daemon: &mut Daemon) -> Result<()> {
    let counts = lane.client.run(&lane.pod, &lane.config, "counts", args(&["count", "20"])).await?;
    for asked in [true, false] {
        let mut talks = Vec::new();
        for over in [Over::Spdy, Over::WebSocket] {
            for (ask, words) in [(Ask::Exec, &["/guest", "count", "5353"][..]), (Ask::Attach, &[&counts])] {
                let url = lane.url(ask, words, "o").await?;
                let talk = blocking(move || {
                    let mut talk = Talk::begin(&over.words("exec", &[]), &url)?;
                    talk.hear("line ")?;
                    Ok(talk)
                });
                talks.push(talk.await?);
            }
        }
        let how = if asked {
            daemon.terminate().await?;
            "SIGTERM"
        } else {
            daemon.kill()?;
            "kill -9"
        };
        let ends = blocking(move || talks.into_iter().map(Talk::end).collect::<Result<Vec<_>>>()).await?;
        let texts: Vec<String> = ends.iter().map(Answer::text).collect();
        let holds = ends.iter().all(|answer| match asked {
            true => answer.code == 125 && answer.err.contains(REASON),
            false => answer.code == 125 || answer.code == 0,
        });
        let told = if asked { ", which is told" } else { "" };
        lane.checks.that(&format!("{how} of the daemon ends the streams{told}"), holds, texts.join("; "));
        lane.client = daemon.start().await?;
        let gone = lane.none("count").await;
        lane.checks.note("  and the processes of execs", gone.map_err(|error| format!("{error:#}")));
        let state = lane.client.status(&counts).await?.state;
        let runs = state == i32::from(ContainerState::ContainerRunning);
        lane.checks.that("  the container runs on", runs, state);
    }
    Ok(())
}
