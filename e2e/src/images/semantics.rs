//! What CRI says of images: one id whatever the registry, every name, what is pinned, who pulled it; many pulls and removals
//! at once; and what they take on disk.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::json;
use tokio::task::JoinSet;

use super::image::{NAME, Served};
use super::server::Server;
use super::{pull, spec};
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::disk::used;

/// Pulls of one image at once.
const AT_ONCE: usize = 10;

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let client = Client::connect(&daemon.socket()).await?;
    let before = Footprint::take(daemon)?;
    identity(checks, &client).await?;
    together(checks, &client).await?;
    races(checks, &client).await?;
    handlers(checks, &client).await?;
    space(checks, daemon, &client).await?;
    checks.note("of all that nothing is left", given_back(daemon, &before).await);
    pinned(checks, daemon).await
}

async fn list(client: &Client, filter: Option<&str>) -> Result<Vec<Image>> {
    let filter = filter.map(|name| ImageFilter { image: spec(name) });
    let unary = client.images.clone().list_images(ListImagesRequest { filter: filter.clone() }).await?;
    let unary = unary.into_inner().images;
    let mut stream = client.images.clone().stream_images(StreamImagesRequest { filter }).await?.into_inner();
    let mut streamed = Vec::new();
    while let Some(part) = stream.message().await? {
        streamed.extend(part.images);
    }
    anyhow::ensure!(
        streamed == unary,
        "StreamImages has {} images, ListImages {}",
        streamed.len(),
        unary.len()
    );
    Ok(unary)
}

async fn remove(client: &Client, image: &str, handler: &str) -> Result<()> {
    let image = ImageSpec { image: image.into(), runtime_handler: handler.into(), ..Default::default() };
    client.images.clone().remove_image(RemoveImageRequest { image: Some(image) }).await?;
    Ok(())
}

/// One image of two registries, under whatever it is called.
async fn identity(checks: &mut Checks, client: &Client) -> Result<()> {
    let mut served = Served::new("semantics")?;
    served.manifest["annotations"] = json!({ "org.opencontainers.image.source": "lane" });
    served.settle();
    let (one, two) =
        (Server::start(served.clone().answers()).await?, Server::start(served.clone().answers()).await?);
    let (first, second) = (format!("{}/{NAME}:1", one.host()), format!("{}/{NAME}:1", two.host()));
    let digest = format!("{}/{NAME}@{}", one.host(), served.tag);
    let id = pull(client, &first, None).await?;
    let again = pull(client, &second, None).await?;
    checks.that("one image from two registries has one id", id == again, format!("{id} {again}"));
    checks.that("  which is its config's digest", id == served.config_digest(), &id);
    let layer = two.seen().iter().filter(|request| request.path.contains(&served.layer)).count();
    checks.that("  and its layer comes from one of them", layer == 0, layer);
    let listed = list(client, None).await?;
    let image = listed.iter().find(|image| image.id == id).context("it is not listed")?;
    let tags: BTreeSet<&String> = image.repo_tags.iter().collect();
    checks.that(
        "  it is listed once, with every name",
        tags == BTreeSet::from([&first, &second]),
        format!("{image:?}"),
    );
    checks.that(
        "  and every digest",
        image.repo_digests.len() == 2 && image.repo_digests.contains(&digest),
        format!("{image:?}"),
    );
    let annotations = image.spec.as_ref().map(|spec| spec.annotations.clone()).unwrap_or_default();
    checks.that("  with its manifest's annotations", annotations.len() == 1, format!("{annotations:?}"));
    for name in [first.as_str(), &digest, &id, id.trim_start_matches("sha256:"), &id[7..20]] {
        let found = list(client, Some(name)).await?;
        let good = found.len() == 1 && found[0].id == id;
        checks.that(
            &format!("  filter by {}", name.split('/').next_back().unwrap_or(name)),
            good,
            found.len(),
        );
    }
    let none = list(client, Some("lane.test/none:1")).await?;
    checks.that("  a filter that fits none: an empty list", none.is_empty(), none.len());
    remove(client, &first, "").await?;
    let left = list(client, Some(&second)).await?;
    checks.that("removed by one name it is gone under all (CRI)", left.is_empty(), format!("{left:?}"));
    Ok(())
}

/// The same image [`AT_ONCE`] times: transferred once, and each has it.
async fn together(checks: &mut Checks, client: &Client) -> Result<()> {
    let served = Served::new("together")?;
    let server = Server::start(served.clone().answers()).await?;
    let mut work = JoinSet::new();
    for n in 0..AT_ONCE {
        let name = match n % 2 {
            0 => format!("{}/{NAME}:1", server.host()),
            _ => format!("{}/{NAME}@{}", server.host(), served.tag),
        };
        let client = client.clone();
        work.spawn(async move { pull(&client, &name, None).await });
    }
    let mut ids = BTreeSet::new();
    while let Some(done) = work.join_next().await {
        ids.insert(done??);
    }
    let transfers = server.seen().iter().filter(|request| request.path.contains(&served.layer)).count();
    checks.that(
        &format!("{AT_ONCE} pulls of one image at once transfer its layer once"),
        transfers == 1 && ids.len() == 1,
        format!("{transfers} times, {ids:?}"),
    );
    remove(client, &format!("{}/{NAME}:1", server.host()), "").await
}

/// Pulls and removals by every name at once: each ends well, and what is there in the end can be used.
async fn races(checks: &mut Checks, client: &Client) -> Result<()> {
    let served = Served::new("races")?;
    let server = Server::start(served.clone().answers()).await?;
    let tag = format!("{}/{NAME}:1", server.host());
    let names = [tag.clone(), format!("{}/{NAME}@{}", server.host(), served.tag), served.config_digest()];
    let id = pull(client, &tag, None).await?;
    let mut work = JoinSet::new();
    for name in names.iter().cycle().take(3 * names.len()) {
        let (client, name) = (client.clone(), name.clone());
        work.spawn(async move { remove(&client, &name, "").await });
    }
    let mut failed = Vec::new();
    while let Some(done) = work.join_next().await {
        failed.extend(done?.err().map(|error| format!("{error:#}")));
    }
    checks.that(
        "removed by name, digest and id at once: each ends well",
        failed.is_empty(),
        failed.join("; "),
    );
    let left = list(client, Some(&id)).await?.len();
    checks.that("  and it is gone", left == 0, left);
    let mut failed = Vec::new();
    for round in 0..20 {
        let (pulling, removing) = (client.clone(), client.clone());
        let (name, other) = (tag.clone(), names[round % names.len()].clone());
        let (pulled, removed) = tokio::join!(async { pull(&pulling, &name, None).await }, async {
            remove(&removing, &other, "").await
        });
        failed.extend(pulled.err().map(|error| error.to_string()));
        failed.extend(removed.err().map(|error| format!("{error:#}")));
    }
    checks.that(
        "pulled and removed at once, again and again: each ends well",
        failed.is_empty(),
        failed.join("; "),
    );
    pull(client, &tag, None).await?;
    let found = list(client, Some(&tag)).await?;
    checks.that("  a pull has it in the end", found.len() == 1 && found[0].id == id, format!("{found:?}"));
    remove(client, &tag, "").await
}

/// Runtime handlers, to each of which it is an image of its own (KEP-4216).
async fn handlers(checks: &mut Checks, client: &Client) -> Result<()> {
    let server = Server::start(Served::new("handlers")?.answers()).await?;
    let name = format!("{}/{NAME}:1", server.host());
    let ask = |handler: &str| {
        let image = ImageSpec { image: name.clone(), runtime_handler: handler.into(), ..Default::default() };
        PullImageRequest { image: Some(image), ..Default::default() }
    };
    let mut images = client.images.clone();
    let refused =
        images.pull_image(ask("kata")).await.err().map(|status| status.to_string()).unwrap_or_default();
    let named = refused.contains("image.runtime_handler") && refused.contains("kata");
    checks.that("a pull for a runtime handler that is not there is refused", named, &refused);
    let listed = async || -> Result<Vec<String>> {
        let found = list(client, Some(&name)).await?;
        Ok(found.into_iter().filter_map(|image| Some(image.spec?.runtime_handler)).collect())
    };
    images.pull_image(ask("berth")).await?;
    checks.that(
        "pulled for a runtime handler it is listed for that one",
        listed().await? == ["berth"],
        format!("{:?}", listed().await?),
    );
    images.pull_image(ask("")).await?;
    checks.that(
        "  for another, too: for both",
        listed().await? == ["", "berth"],
        format!("{:?}", listed().await?),
    );
    remove(client, &name, "berth").await?;
    checks.that(
        "  removed for one it stays for the other",
        listed().await? == [""],
        format!("{:?}", listed().await?),
    );
    images.pull_image(ask("berth")).await?;
    remove(client, &name, "").await?;
    checks.that(
        "  removed for the default one it is gone",
        listed().await?.is_empty(),
        format!("{:?}", listed().await?),
    );
    Ok(())
}

/// ImageFsInfo beside what a walk of the directory finds, and how long either takes does not depend on the other.
async fn space(checks: &mut Checks, daemon: &Daemon, client: &Client) -> Result<()> {
    let ask = async || -> Result<(u64, u64, Duration)> {
        let since = Instant::now();
        let answer = client.images.clone().image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
        let found = answer.image_filesystems.into_iter().next().context("no file system")?;
        let used = found.used_bytes.context("no bytes")?.value;
        Ok((used, found.inodes_used.context("no inodes")?.value, since.elapsed()))
    };
    let (bytes, inodes, _) = ask().await?;
    let server = Server::start(Served::new("space")?.answers()).await?;
    let name = format!("{}/{NAME}:1", server.host());
    let walked = used(&daemon.path("root/images/layers"))?;
    pull(client, &name, None).await?;
    let (more_bytes, more_inodes, mut took) = ask().await?;
    let more = used(&daemon.path("root/images/layers"))?;
    let (told, found) = (more_bytes - bytes, more.0 - walked.0);
    checks.that(
        "ImageFsInfo grows by what an image takes",
        told.abs_diff(found) <= found / 10,
        format!("by {told} bytes; the directory by {found}"),
    );
    let (told, found) = (more_inodes - inodes, more.1 - walked.1);
    // Its directory and its two records are not of the layer.
    checks.that(
        "  and by its inodes",
        told.abs_diff(found) <= 3,
        format!("by {told}; the directory by {found}"),
    );
    // The shortest: the machine has other things to do.
    for _ in 0..4 {
        took = took.min(ask().await?.2);
    }
    checks.that("  in no time", took < Duration::from_millis(250), format!("{took:?}"));
    remove(client, &name, "").await?;
    let back = ask().await?;
    checks.that("  and shrinks by it", (back.0, back.1) == (bytes, inodes), format!("{back:?}"));
    Ok(())
}

/// `images.pinned`, by name and by pattern; the daemon is started anew with it.
async fn pinned(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let server = Server::start(Served::new("pinned")?.answers()).await?;
    let other = Server::start(Served::new("not pinned")?.answers()).await?;
    let (name, unpinned) = (format!("{}/{NAME}:1", server.host()), format!("{}/{NAME}:1", other.host()));
    daemon.kill()?;
    let flags = daemon.flags.len();
    for (what, pattern) in [("by name", name.clone()), ("by pattern", format!("{}/lane/*", server.host()))] {
        daemon.flags.extend(["--images-pinned".to_owned(), pattern]);
        let client = daemon.start().await?;
        pull(&client, &name, None).await?;
        pull(&client, &unpinned, None).await?;
        let of = async |name: &str| -> Result<(bool, bool)> {
            let listed = list(&client, Some(name)).await?.first().is_some_and(|image| image.pinned);
            let request = ImageStatusRequest { image: spec(name), verbose: false };
            let status = client.images.clone().image_status(request).await?.into_inner().image;
            Ok((listed, status.is_some_and(|image| image.pinned)))
        };
        let found = (of(&name).await?, of(&unpinned).await?);
        checks.that(
            &format!("pinned {what}: ListImages and ImageStatus say so, of no other"),
            found == ((true, true), (false, false)),
            format!("{found:?}"),
        );
        remove(&client, &name, "").await?;
        let left = list(&client, Some(&name)).await?.len();
        checks.that("  who asks for its removal has it removed", left == 0, left);
        remove(&client, &unpinned, "").await?;
        daemon.kill()?;
        daemon.flags.truncate(flags);
    }
    daemon.start().await?;
    Ok(())
}
