//! Mirrors in their order, and what one that does badly makes no difference to.

use std::sync::Arc;

use anyhow::Result;

use super::image::{NAME, Served};
use super::real::{comes, hosts, password, refused};
use super::server::{How, Reply, Server};
use super::{pull, spec};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    order(checks, daemon, client).await?;
    blobs(checks, daemon, client).await?;
    restarts(checks, client).await?;
    moves(checks, client).await
}

async fn order(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let served = Served::new("mirrors")?;
    let digest = served.tag.clone();
    let good = Server::start(served.clone().answers()).await?;
    let missing = Server::start(Arc::new(|_, _| Reply::new(404, ""))).await?;
    let false_one = Server::start(Arc::new(|_, _| Reply::new(200, "{}"))).await?;
    let busy = Server::start(Arc::new(|_, _| Reply::new(429, "").with("Retry-After", "3600"))).await?;
    let list =
        [&missing, &busy, &good].map(|server| format!("[host.\"http://{}\"]\n", server.host())).concat();
    hosts(daemon, "mirrored.test", &format!("server = \"http://127.0.0.1:1\"\n{list}"))?;
    let name = format!("mirrored.test/{NAME}:1");
    comes(
        checks,
        client,
        "the third mirror has it; the first has not, the second is busy",
        &name,
        password(),
    )
    .await?;
    let seen = good.seen();
    checks.that(
        "  each is told whose image is meant",
        seen.iter().all(|r| r.path.contains("ns=mirrored.test")),
        "it is not",
    );
    checks.that(
        "  and none sees the host's password",
        seen.iter().all(|r| r.header("authorization").is_empty()),
        "it does",
    );
    let list = [&false_one, &good].map(|server| format!("[host.\"http://{}\"]\n", server.host())).concat();
    hosts(daemon, "mirrored.test", &list)?;
    comes(
        checks,
        client,
        "by digest, where the first mirror has something else",
        &format!("mirrored.test/{NAME}@{digest}"),
        None,
    )
    .await?;
    let list = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        good.host(),
        false_one.host()
    );
    hosts(daemon, "mirrored.test", &list)?;
    let before = false_one.seen().len();
    comes(checks, client, "a mirror that may not look up tags", &name, None).await?;
    let asked: Vec<_> =
        false_one.seen().into_iter().skip(before).filter(|r| r.path.contains("/manifests/1")).collect();
    checks.that("  is not asked for one", asked.is_empty(), format!("{asked:?}"));
    // What the host itself says is the answer.
    let host =
        Server::start(Arc::new(|_, _| Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)))
            .await?;
    let list = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", host.host(), missing.host());
    hosts(daemon, "mirrored.test", &list)?;
    refused(
        checks,
        "the host's own words are the answer",
        pull(client, &name, None).await,
        &[host.host(), "denied no"],
    );
    let request = berth_cri_api::v1::ImageStatusRequest { image: spec(&name), verbose: false };
    let left = client.images.clone().image_status(request).await?.into_inner().image;
    checks.that("  and nothing is there", left.is_none(), "it is");
    Ok(())
}

/// A mirror that has the layer in another way than it should: the image comes from the host.
async fn blobs(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    fn flipped(mut good: Reply) -> Reply {
        if let Some(byte) = good.body.get_mut(600) {
            *byte ^= 1;
        }
        good
    }
    type Harm = fn(Reply) -> Reply;
    let longer: Harm = |mut good| {
        good.body.extend(b"more");
        good.how(How::Chunked)
    };
    let half: Harm = |mut good| {
        good.body.truncate(good.body.len() / 2);
        good.how(How::Chunked)
    };
    // How often the mirror is asked for the layer.
    for (what, harm, asked) in [
        ("a mirror with other bytes of the same length", flipped as Harm, 1),
        ("a mirror that cuts each time", |good| good.how(How::Cut(10)), 2),
        ("a mirror that cuts each time, with other bytes", |good| flipped(good).how(How::Cut(100_000)), 2),
        ("a mirror that stands still each time", |good| good.how(How::Stall(100_000)), 2),
        ("a mirror that ends too early", half, 1),
        ("a mirror that does not end", longer, 1),
        ("a mirror with a page in its place", |_| Reply::new(200, "<html>"), 1),
    ] {
        let served = Served::new(what)?;
        let layer = served.layer.clone();
        let origin = Server::start(served.clone().answers()).await?;
        let wanted = layer.clone();
        let mirror = Server::start(Arc::new(move |request, _| {
            let good = served.answer(request);
            if request.path.contains(&wanted) { harm(good) } else { good }
        }))
        .await?;
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.host(), mirror.host());
        hosts(daemon, "mirrored.test", &text)?;
        comes(checks, client, what, &format!("mirrored.test/{NAME}:1"), None).await?;
        let count = |of: &Server| of.seen().iter().filter(|request| request.path.contains(&layer)).count();
        checks.that("  it is given up soon", count(&mirror) == asked, count(&mirror));
        checks.that("  and the host asked for the layer", count(&origin) > 0, "it was not");
    }
    Ok(())
}

/// The registry starts anew while a layer is on its way.
async fn restarts(checks: &mut Checks, client: &Client) -> Result<()> {
    let what = "a registry that is away for half a second in the middle of a layer";
    let served = Served::new(what)?;
    let layer = served.layer.clone();
    let server = Server::start(Arc::new(move |request, count| {
        let good = served.answer(request);
        if request.path.contains(&layer) && count == 1 { good.how(How::Away(100_000)) } else { good }
    }))
    .await?;
    comes(checks, client, what, &format!("{}/{NAME}:1", server.host()), None).await
}

/// A tag is pushed anew and the registry collects what it stood for, between the manifest and the layer of a pull.
async fn moves(checks: &mut Checks, client: &Client) -> Result<()> {
    let (old, new) = (Served::new("a tag before it moves")?, Served::new("a tag after it moved")?);
    let id = new.config_digest();
    let server = Server::start(Arc::new(move |request, count| {
        let first = request.path.contains("/manifests/1") && count == 1;
        let config = request.path.contains(&old.config_digest());
        if first || config { old.answer(request) } else { new.answer(request) }
    }))
    .await?;
    let name = format!("{}/{NAME}:1", server.host());
    let words = ["does not exist", "blob unknown"];
    refused(
        checks,
        "a tag that moves during a pull, its old layer gone",
        pull(client, &name, None).await,
        &words,
    );
    let request = berth_cri_api::v1::ImageStatusRequest { image: spec(&name), verbose: false };
    let left = client.images.clone().image_status(request).await?.into_inner().image;
    checks.that("  nothing is there", left.is_none(), "it is");
    let outcome = pull(client, &name, None).await;
    checks.that(
        "  the next pull has the new one",
        outcome.as_ref().is_ok_and(|found| *found == id),
        format!("{outcome:?}"),
    );
    client.clone().remove_image(&name).await
}
