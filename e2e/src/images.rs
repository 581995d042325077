//! Images from registries: a table of what a registry may do wrong, each with the words that come of it, nothing left, and
//! a good pull afterwards; then Debian's registry with TLS, passwords and tokens; then what CRI says of images.

mod cases;
mod explain;
mod files;
mod image;
mod kinds;
mod mirrors;
mod original;
mod platforms;
mod proxy;
mod push;
mod real;
mod semantics;
mod server;
mod strangers;
mod tokens;
mod uploads;

use std::sync::Arc;

use anyhow::Result;
use berth_cri_api::v1::*;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;

use self::cases::{Case, End};
use self::image::NAME;
use self::server::{Answer, Server};

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::empty_with(&["--registry-stall-timeout", "1s"]).await?;
    // Its files are in the directory that it made.
    daemon.kill()?;
    std::fs::create_dir_all(daemon.path("bin"))?;
    let auth = daemon.path("auth.json").display().to_string();
    daemon.flags.extend(["--registry-auth-files".to_owned(), auth]);
    let path = std::env::var("PATH").unwrap_or_default();
    daemon.environment.push(("PATH".into(), format!("{}:{path}", daemon.path("bin").display())));
    daemon.start().await?;
    let done = run(checks, &mut daemon).await;
    daemon.finish(done).await
}

async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    misbehaving(checks, daemon).await?;
    semantics::run(checks, daemon).await?;
    platforms::run(checks, daemon).await?;
    push::run(checks, daemon).await?;
    original::run(checks, daemon).await?;
    explain::run(checks, daemon).await?;
    real::run(checks, daemon).await
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

async fn pull(client: &Client, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let request = PullImageRequest { image: spec(image), auth, ..Default::default() };
    Ok(client.images.clone().pull_image(request).await?.into_inner().image_ref)
}

/// All at once, each from a registry of its own: most of them wait.
async fn misbehaving(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let client = Client::connect(&daemon.socket()).await?;
    let before = Footprint::take(daemon)?;
    let cases: Vec<Arc<Case>> = cases::all()?.into_iter().map(Arc::new).collect();
    anyhow::ensure!(cases.len() >= 40, "the table has {} cases", cases.len());
    let mut work = JoinSet::new();
    for (at, case) in cases.iter().cloned().enumerate() {
        let client = client.clone();
        work.spawn(async move {
            let answer: Answer = {
                let case = case.clone();
                Arc::new(move |request, count| (case.twist)(request, count, case.served.answer(request)))
            };
            let server = Server::start(answer).await?;
            let name = match case.pinned {
                true => format!("{}/{NAME}@{}", server.host(), case.served.tag),
                false => format!("{}/{NAME}:1", server.host()),
            };
            let outcome = pull(&client, &name, None).await;
            Ok::<_, anyhow::Error>((at, server, name, outcome))
        });
    }
    let mut done = Vec::new();
    while let Some(one) = work.join_next().await {
        done.push(one??);
    }
    done.sort_by_key(|(at, ..)| *at);
    let mut servers = Vec::new();
    for (at, server, name, outcome) in done {
        let case = &cases[at];
        checks.note(case.what, judge(&client, case, &name, outcome).await);
        servers.push((case.clone(), server, name));
    }
    checks.note("after all of them nothing more is kept", given_back(daemon, &before).await);
    let mut healed = Vec::new();
    for (case, server, name) in servers {
        // What is wrong by its content is made good by another.
        let good = image::Served::new(case.what)?;
        let name = name.split_once('@').map_or(name.clone(), |(name, _)| format!("{name}:1"));
        server.answers(good.answers());
        if let Err(error) = pull(&client, &name, None).await {
            healed.push(format!("{}: {}", case.what, error.message()));
        }
        client.clone().remove_image(&name).await?;
    }
    checks.that("the next good pull of each heals", healed.is_empty(), healed.join("; "));
    checks.note("and is removed again", given_back(daemon, &before).await);
    Ok(())
}

async fn judge(
    client: &Client,
    case: &Case,
    name: &str,
    outcome: Result<String, Status>,
) -> Result<(), String> {
    let request = ImageStatusRequest { image: spec(name), verbose: false };
    let status = client.images.clone().image_status(request).await.map_err(|status| status.to_string())?;
    let visible = status.into_inner().image.is_some();
    match (&case.end, outcome) {
        (End::Comes, Ok(_)) => {
            client.clone().remove_image(name).await.map_err(|error| format!("{error:#}"))?;
            if visible { Ok(()) } else { Err("it came and is not there".into()) }
        }
        (End::Comes, Err(status)) => Err(format!("{:?} {:?}", status.code(), status.message())),
        (End::Refused(_), Ok(id)) => Err(format!("it came as {id}")),
        (End::Refused(parts), Err(status)) => {
            let message = status.message();
            let missing = parts.iter().find(|part| !message.contains(**part));
            match missing {
                _ if status.code() != Code::Unknown => Err(format!("{:?} {message:?}", status.code())),
                _ if visible => Err("it is refused and there all the same".into()),
                _ if message.lines().count() > 1 || message.len() > 2000 => {
                    Err(format!("not a line: {message:?}"))
                }
                Some(part) => Err(format!("{message:?} has no {part:?}")),
                None => Ok(()),
            }
        }
    }
}
