//! Layers on disk: archives in and out, damage found and mended, and every fault on the way of a pull. The lane has a mount
//! namespace of its own (`cargo xtask` makes it) for the disks that it fills and breaks.

mod archives;
mod damage;
mod disks;
mod faults;
mod names;
mod original;
pub(crate) mod proxy;
mod races;
mod records;
mod resume;
mod secured;
mod sweep;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::proxy::Proxy;
use crate::checks::{Checks, until};
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image::{self, Layer};
use crate::registry::Registry;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let registry = Registry::start(false).await?;
    let mut daemon = Daemon::new().await?;
    let done = run(checks, &mut daemon, &registry).await;
    daemon.finish(done).await?;
    disks::run(checks, &registry).await
}

async fn run(checks: &mut Checks, daemon: &mut Daemon, registry: &Registry) -> Result<()> {
    archives::run(checks, daemon).await?;
    names::run(checks, daemon).await?;
    original::run(checks, daemon).await?;
    damage::run(checks, daemon, registry).await?;
    secured::run(checks, daemon).await?;
    records::run(checks, daemon, registry).await?;
    faults::run(checks, daemon, registry).await?;
    sweep::run(checks, daemon, registry).await?;
    resume::run(checks, daemon, registry).await?;
    races::run(checks, daemon, registry).await
}

/// A pull through a proxy that stops it, and the daemon killed there; whether the pull failed.
async fn killed(daemon: &mut Daemon, client: Client, proxy: Proxy, image: &str) -> Result<bool> {
    let (mut asking, name) = (client, format!("{}/{image}", proxy.host()));
    let pull = tokio::spawn(async move { asking.pull(&name).await });
    until("the pull to be where it is killed", || {
        let reached = proxy.reached();
        async move { Ok(reached.then_some(())) }
    })
    .await?;
    daemon.kill()?;
    drop(proxy);
    Ok(pull.await?.is_err())
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn said(command: &mut Command) -> Result<Said> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Said {
        ok: done.status.success(),
        code: done.status.code(),
        out: text(&done.stdout),
        err: text(&done.stderr),
    })
}

/// An image of two layers: a small one, and one of `size` bytes that nothing compresses, in files of 1 MiB and `more` small
/// ones. Of the same words it is the same image.
pub(crate) fn write_big(at: &Path, name: &str, size: usize, more: usize) -> Result<()> {
    let mut number = 1_u64;
    let mut noise = |length: usize| {
        let mut data = Vec::with_capacity(length + 8);
        while data.len() < length {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            data.extend_from_slice(&(number ^ (number >> 29)).to_le_bytes());
        }
        data.truncate(length);
        data
    };
    let mut small = Layer::default();
    small.file("small", b"small", 0o644)?;
    let mut big = Layer::default();
    big.directory("d/", 0o755)?;
    for n in 0..size >> 20 {
        big.file(&format!("d/large{n}"), &noise(1 << 20), 0o644)?;
    }
    for n in 0..more {
        big.file(&format!("d/file{n}"), &noise(700), 0o640)?;
    }
    image::write_layers(at, name, vec![small, big], &serde_json::json!({ "Cmd": ["/none"] }))
}

/// Names below `layers` of a daemon.
pub(crate) fn layers(daemon: &Daemon) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(daemon.path("root/images/layers"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Every layer of each of a daemon's images is named as being as it was unpacked; of no image nothing is.
pub(crate) fn whole(daemon: &Daemon) -> Result<(), String> {
    verified(daemon).map_err(|error| format!("{error:#}"))
}

fn verified(daemon: &Daemon) -> Result<()> {
    let listed = said(&mut daemon.typed(&["image", "list", "-q"])?)?;
    let ids: Vec<&str> = listed.out.lines().collect();
    ensure!(listed.ok && !ids.is_empty(), "there is no image: {} {}", listed.out, listed.err);
    let inspected = said(daemon.typed(&["image", "inspect", "--json"])?.args(&ids))?;
    let inspected: Vec<Value> = serde_json::from_str(&inspected.out).context(inspected.err)?;
    ensure!(inspected.len() == ids.len(), "{} of {} images", inspected.len(), ids.len());
    let verified = said(&mut daemon.typed(&["image", "verify", "--json"])?)?;
    ensure!(verified.ok, "{} {}", verified.out, verified.err);
    let verified: Vec<Value> = serde_json::from_str(&verified.out).context(verified.err)?;
    let whole: BTreeSet<&str> = verified
        .iter()
        .filter(|layer| layer["state"] == "whole")
        .filter_map(|layer| layer["layer"].as_str())
        .collect();
    for image in &inspected {
        let layers = image["layers"].as_array().filter(|layers| !layers.is_empty());
        for layer in layers.with_context(|| format!("{} has no layers", image["id"]))? {
            let id = layer["diff_id"].as_str().unwrap_or_default();
            ensure!(whole.contains(id), "layer {id} of {} is not whole: {verified:?}", image["id"]);
        }
    }
    Ok(())
}
