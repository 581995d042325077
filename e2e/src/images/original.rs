//! A layer that has to be fetched again, since its archive replaces its own files or it is damaged, where the first place that has
//! it does badly: the next is asked.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::image::{NAME, Served};
use super::pull;
use super::real::hosts;
use super::server::{Answer, How, Reply, Server};
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image::Layer;
use crate::layers::{said, whole};
use crate::registry::Registry;

type Harm = fn(Reply) -> Reply;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let client = Client::connect(&daemon.socket()).await?;
    let before = Footprint::take(daemon)?;
    mirrors(checks, daemon, &client).await?;
    registries(checks, daemon, &client).await?;
    checks.note("of all that nothing is left", given_back(daemon, &before).await);
    Ok(())
}

/// An image whose layer cannot be made again from what is unpacked.
fn replacing(content: &str) -> Result<Served> {
    let mut layer = Layer::default();
    layer.file("twice", b"at first", 0o644)?;
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    layer.file("noise", &noise, 0o644)?;
    layer.file("twice", content.as_bytes(), 0o644)?;
    Ok(Served::of(layer.into_tar()?))
}

fn flipped(mut good: Reply) -> Reply {
    if let Some(byte) = good.body.get_mut(600) {
        *byte ^= 1;
    }
    good
}

/// Its layer is answered so.
fn harmed(served: &Served, harm: Harm) -> Answer {
    let served = served.clone();
    Arc::new(move |request, _| {
        let good = served.answer(request);
        if request.path.contains(&served.layer) { harm(good) } else { good }
    })
}

fn asked(of: &Server, layer: &str) -> usize {
    of.seen().iter().filter(|request| request.path.contains(layer)).count()
}

async fn mirrors(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let half: Harm = |mut good| {
        good.body.truncate(good.body.len() / 2);
        good.how(How::Chunked)
    };
    let longer: Harm = |mut good| {
        good.body.extend(b"more");
        good.how(How::Chunked)
    };
    let other = Registry::start(false).await?;
    for (what, harm) in [
        ("gives other bytes", flipped as Harm),
        ("gives too few", half),
        ("gives too many", longer),
        ("gives a page in its place", |_| Reply::new(200, "<html>")),
        ("has it no more", |_| Reply::new(404, "")),
        ("cuts each time", |good| good.how(How::Cut(50_000))),
    ] {
        let served = replacing(what)?;
        let origin = Server::start(served.clone().answers()).await?;
        let mirror = Server::start(served.clone().answers()).await?;
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.host(), mirror.host());
        hosts(daemon, "original.test", &text)?;
        let name = format!("original.test/{NAME}:1");
        let id = pull(client, &name, None).await?;
        mirror.answers(harmed(&served, harm));
        let count = || (asked(&mirror, &served.layer), asked(&origin, &served.layer));
        let mut before = count();
        let mut both = |checks: &mut Checks| {
            let now = count();
            let holds = now.0 > before.0 && now.1 > before.1;
            checks.that("  the mirror was asked, and then the host", holds, format!("{before:?} {now:?}"));
            before = now;
        };

        let out = daemon.path("original.tar");
        let to = out.display().to_string();
        let done = said(&mut daemon.typed(&["image", "export", &name, "-o", &to])?)?;
        checks.that(&format!("export of a layer, where the mirror {what}"), done.ok, done.err);
        both(checks);
        let there = format!("{}/lane/original:1", other.host());
        let done = said(&mut daemon.typed(&["image", "push", &name, &there])?)?;
        checks.that("  push of it", done.ok, done.err);
        both(checks);
        let twice = unpacked(daemon, &served.layer).join("twice");
        std::fs::write(&twice, "damaged")?;
        let done = said(&mut daemon.typed(&["image", "verify", "--repair", &name])?)?;
        checks.that(
            "  its repair",
            done.ok && done.out.contains("repaired"),
            format!("{} {}", done.out, done.err),
        );
        both(checks);
        checks.note("  it is whole", whole(daemon));
        let mut client = client.clone();
        client.remove_image(&name).await?;
        client.remove_image(&there).await?;
        daemon.import_file(&out)?;
        let found = client.image_id(&name).await?;
        checks.that("  what was exported is the image", found.as_ref() == Some(&id), format!("{found:?}"));
        client.remove_image(&name).await?;
        std::fs::remove_file(&out)?;
    }
    Ok(())
}

/// One image of two registries: whichever of them does badly, the other one is asked.
async fn registries(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let served = replacing("of two registries")?;
    let one = Server::start(served.clone().answers()).await?;
    let two = Server::start(served.clone().answers()).await?;
    let names = [&one, &two].map(|server| format!("{}/{NAME}:1", server.host()));
    for name in &names {
        pull(client, name, None).await?;
    }
    let out = daemon.path("original.tar");
    let to = out.display().to_string();
    let export = || said(&mut daemon.typed(&["image", "export", &names[0], "-o", &to])?);
    let mut went_on = 0;
    for (bad, good) in [(&one, &two), (&two, &one)] {
        bad.answers(harmed(&served, flipped));
        good.answers(served.clone().answers());
        let before = asked(bad, &served.layer);
        let done = export()?;
        checks.that("export, where one of two registries gives other bytes", done.ok, done.err);
        went_on += usize::from(asked(bad, &served.layer) > before);
        std::fs::remove_file(&out).context("no archive was written")?;
    }
    checks.that("  the one that is asked first was one of them", went_on > 0, went_on);
    one.answers(harmed(&served, flipped));
    two.answers(harmed(&served, flipped));
    let done = export()?;
    let told =
        done.err.contains("where its image came from does not give it") && done.err.contains(&served.layer);
    checks.that("export, where both do: what and why", !done.ok && told, done.err);
    let left = out.exists() || Path::new(&format!("{to}.part")).exists();
    checks.that("  nothing is left under the file's name", !left, "it is");
    client.clone().remove_image(&names[0]).await
}

fn unpacked(daemon: &Daemon, layer: &str) -> std::path::PathBuf {
    daemon.path("root/images/layers").join(layer.trim_start_matches("sha256:")).join("fs")
}
