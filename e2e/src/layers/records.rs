//! A record or a layer's directory that is lost while the daemon is away: what containers run on stays, and one layer at most
//! is fetched again.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{said, whole};
use crate::checks::Checks;
use crate::client::{Client, Spec, args, pod};
use crate::daemon::Daemon;
use crate::image;
use crate::registry::Registry;

/// What is lost, and how it is mended.
const CASES: [(&str, &[&str], bool, bool); 5] = [
    ("the record of a layer", &["layers"], false, false),
    ("the record of the image", &["images"], false, false),
    ("the records of both", &["layers", "images"], false, false),
    ("the directory of a layer", &[], true, false),
    ("the same, and mended by verify --repair", &[], true, true),
];

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    let archive = daemon.path("lost.tar");
    image::write(&archive, "lane/lost:1", "what may be lost")?;
    registry.push(&archive, "lane/lost:1")?;
    let name = format!("{}/lane/lost:1", registry.host());
    let before = super::layers(daemon)?;
    for (what, tables, directory, repaired) in CASES {
        let mut client = Client::connect(&daemon.socket()).await?;
        let id = client.pull(&name).await?;
        let config = pod("lost", &daemon.path("logs"));
        let sandbox = client.run_pod(&config).await?;
        let spec = Spec { image: Some(name.clone()), ..args(&["sleep", "100000"]) };
        let container = client.run(&sandbox, &config, "c", spec).await?;
        let layer = greeting(daemon)?;
        let hex = layer.file_name().context("a layer's name")?.to_string_lossy().into_owned();
        daemon.kill()?;
        let store = rusqlite::Connection::open(daemon.path("root/berth.db"))?;
        for table in tables {
            let (key, row) = match *table {
                "layers" => ("diff_id", format!("sha256:{hex}")),
                _ => ("id", id.clone()),
            };
            let text = format!("UPDATE {table} SET record = '{{\"size' WHERE {key} = ?1");
            ensure!(store.execute(&text, [&row])? == 1, "no row {row} in {table}");
        }
        drop(store);
        if directory {
            std::fs::remove_dir_all(&layer)?;
        }
        let mut client = daemon.start().await?;
        // The program that is run lies in the other layer.
        let read = client.out(&container, &["echo", "still here"]).await;
        let read = read.unwrap_or_else(|error| format!("{error:#}"));
        checks.that(
            &format!("{what} is lost: the container has its files"),
            read.contains("still here"),
            &read,
        );
        if !directory {
            let read = client.out(&container, &["cat", "/greeting"]).await;
            let read = read.unwrap_or_else(|error| format!("{error:#}"));
            checks.that("  of that layer, too", read.contains("what may be lost"), &read);
        }
        let seen = client.image_id(&name).await?.is_some();
        let expected = !directory && !tables.contains(&"images");
        checks.that("  an image that is not whole is not listed, another is", seen == expected, seen);
        let asked = registry.requests()?.len();
        if repaired {
            let mended = said(&mut daemon.typed(&["image", "verify", "--repair", &name])?)?;
            checks.that("  it is repaired", mended.ok && mended.out.contains("repaired"), &mended.out);
        } else {
            client.pull(&name).await?;
        }
        let asked = registry.requests()?.split_off(asked);
        let fetched = asked.iter().filter(|line| line.contains("GET") && line.contains("/blobs/")).count();
        // The config is one; a layer whose record was whole is not fetched.
        checks.that("  one layer is fetched at most", fetched <= 2, asked.join("\n"));
        checks.that("  the image is there again", client.image_id(&name).await? == Some(id), &name);
        checks.note("  and whole", whole(daemon));
        client.remove_image(&name).await?;
        let read = client.out(&container, &["echo", "still here"]).await?;
        checks.that("  removed, it stays for its container", read.contains("still here"), &read);
        client.remove_pod(&sandbox).await?;
        let now = super::layers(daemon)?;
        checks.that("  and goes with it", now == before, now.join(" "));
    }
    Ok(())
}

/// The layer that has the file.
fn greeting(daemon: &Daemon) -> Result<PathBuf> {
    let all = std::fs::read_dir(daemon.path("root/images/layers"))?;
    let mut all = all.filter_map(Result::ok).map(|layer| layer.path());
    let having = |path: &PathBuf| {
        std::fs::read(path.join("fs/greeting")).is_ok_and(|found| found == b"what may be lost")
    };
    all.find(having).context("the greeting is in no layer")
}
