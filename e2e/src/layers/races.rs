//! Pulls and removals of images that share layers, all at once: no pull finds a layer gone that it counted on.

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{layers, whole};
use crate::checks::Checks;
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;
use crate::image;
use crate::registry::Registry;

const TASKS: usize = 6;
const TURNS: usize = 12;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon, registry: &Registry) -> Result<()> {
    let mut names = Vec::new();
    for n in 0..3 {
        // The lower layer is the same, the guest program.
        let archive = daemon.path(&format!("race{n}.tar"));
        image::write(&archive, &format!("lane/race:{n}"), &format!("race {n}"))?;
        registry.push(&archive, &format!("lane/race:{n}"))?;
        names.push(format!("{}/lane/race:{n}", registry.host()));
    }
    let client = Client::connect(&daemon.socket()).await?;
    let before = layers(daemon)?;
    let config = pod("race", &daemon.path("logs"));
    let sandbox = client.clone().run_pod(&config).await?;
    let mut work = JoinSet::new();
    for task in 0..TASKS {
        let (mut client, names) = (client.clone(), names.clone());
        let (config, sandbox) = (config.clone(), sandbox.clone());
        work.spawn(async move {
            let mut ran = 0;
            for turn in 0..TURNS {
                let name = &names[(task + turn) % names.len()];
                client.pull(name).await.with_context(|| format!("pull {name}"))?;
                let spec = Spec { image: Some(name.clone()), ..args(&["sleep", "100000"]) };
                // Another task may have removed the image since: then the container is refused, and never half there.
                let made = client.create(&sandbox, &config, &format!("c{task}-{turn}"), spec).await;
                if let Ok(id) = made {
                    client.start(&id).await.with_context(|| format!("start {name}"))?;
                    let greeting = client.out(&id, &["cat", "/greeting"]).await?;
                    anyhow::ensure!(greeting.contains("race"), "{greeting}");
                    ran += 1;
                }
                client.remove_image(name).await?;
            }
            Ok::<_, anyhow::Error>(ran)
        });
    }
    let mut ran = 0;
    let mut failed = Vec::new();
    while let Some(done) = work.join_next().await {
        match done? {
            Ok(count) => ran += count,
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let what = format!("{TASKS} at once pull, run and remove images that share a layer ({ran} ran)");
    checks.that(&what, failed.is_empty() && ran > 0, failed.join("; "));
    let mut client = client;
    for name in &names {
        client.pull(name).await?;
    }
    checks.note("  what is there in the end is whole", whole(daemon));
    for name in &names {
        client.remove_image(name).await?;
    }
    client.remove_pod(&sandbox).await?;
    let now = layers(daemon)?;
    checks.that("  and goes with the last that uses it", now == before, now.join(" "));
    Ok(())
}
