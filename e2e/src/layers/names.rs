//! Archives as the many programs write them: what an image of theirs is called, in whichever order its files come, and what of
//! several platforms is there.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Said, layers, whole};
use crate::archive::{FULL, File, Parts, REF, index, layout, named, nested, tar};
use crate::audit::{Footprint, given_back};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let before = Footprint::take(daemon)?;
    called(checks, daemon).await?;
    tagged(checks, daemon).await?;
    orders(checks, daemon).await?;
    platforms(checks, daemon).await?;
    missing(checks, daemon).await?;
    checks.note("of all those archives nothing is left", given_back(daemon, &before).await);
    Ok(())
}

/// `berth image import`, the archive by standard input or as a file.
fn import(daemon: &Daemon, archive: &[u8], by_pipe: bool, words: &[&str]) -> Result<Said> {
    use std::io::Write as _;
    let path = daemon.path("named.tar");
    let last = if by_pipe { "-".to_owned() } else { path.display().to_string() };
    let mut command = daemon.typed(&["image", "import"])?;
    command.args(words).arg(&last).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !by_pipe {
        std::fs::write(&path, archive)?;
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    let fed = if by_pipe { archive.to_vec() } else { Vec::new() };
    let feeding = std::thread::spawn(move || stdin.write_all(&fed));
    let done = child.wait_with_output()?;
    // It may have ended before it had read all.
    let _ = feeding.join();
    if !by_pipe {
        std::fs::remove_file(&path)?;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    Ok(Said { ok: done.status.success(), code: done.status.code(), out, err })
}

async fn remove(daemon: &Daemon, id: &str) -> Result<()> {
    Client::connect(&daemon.socket()).await?.remove_image(id).await
}

fn one(parts: &Parts, annotations: &[(&str, &str)]) -> Result<Vec<u8>> {
    let files = [vec![layout(), index(&[named(&parts.entry, annotations)])], parts.blobs()].concat();
    tar(&files)
}

async fn called(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let parts = Parts::here("named")?;
    let saved = |tags: Value| -> Result<Vec<u8>> {
        tar([&parts.saved(&tags), &parts.config].into_iter().chain(&parts.layers))
    };
    let tag: &[(&str, &str)] = &[(REF, "v1.2")];
    for (what, archive, words, name) in [
        (
            "containerd's name, and the tag beside it",
            one(&parts, &[(FULL, "r.io/one:1"), (REF, "1")])?,
            &[][..],
            "r.io/one:1",
        ),
        (
            "a full name where the specification has a tag",
            one(&parts, &[(REF, "r.io/two:2")])?,
            &[],
            "r.io/two:2",
        ),
        (
            "a bare name there, as skopeo writes what it was told",
            one(&parts, &[(REF, "busybox")])?,
            &[],
            "docker.io/library/busybox:latest",
        ),
        ("a name without a host", one(&parts, &[(REF, "team/app:3")])?, &[], "docker.io/team/app:3"),
        ("a tag alone", one(&parts, tag)?, &[], ""),
        ("latest alone", one(&parts, &[(REF, "latest")])?, &[], ""),
        ("nothing", one(&parts, &[])?, &[], ""),
        ("docker save of an id", saved(Value::Null)?, &[], ""),
        ("docker save of a name", saved(json!(["r.io/saved:4"]))?, &[], "r.io/saved:4"),
        (
            "a tag alone, --as without one",
            one(&parts, tag)?,
            &["--as", "r.io:5000/app"],
            "r.io:5000/app:v1.2",
        ),
        ("a tag alone, --as with another", one(&parts, tag)?, &["--as", "r.io/app:own"], "r.io/app:own"),
        ("nothing, --as", one(&parts, &[])?, &["--as", "app"], "docker.io/library/app:latest"),
        ("docker save of an id, --as", saved(Value::Null)?, &["--as", "r.io/app:5"], "r.io/app:5"),
        (
            "a name, in spite of --as",
            one(&parts, &[(FULL, "r.io/one:1")])?,
            &["--as", "r.io/app"],
            "r.io/one:1",
        ),
    ] {
        let said = import(daemon, &archive, false, words)?;
        let out = format!("{} {name}", parts.id);
        let is_told = said.err.contains(&format!("image tag {} NAME", parts.id)) == name.is_empty();
        let holds = said.ok && said.out == out.trim_end() && is_told;
        let called = if name.is_empty() { "has no name, and that is told" } else { name };
        checks.that(
            &format!("an archive with {what}: {called}"),
            holds,
            format!("{} {}", said.out, said.err),
        );
        let found = Client::connect(&daemon.socket())
            .await?
            .image_id(if name.is_empty() { &parts.id } else { name })
            .await?;
        checks.that("  by which it is found", found.as_ref() == Some(&parts.id), format!("{found:?}"));
        remove(daemon, &parts.id).await?;
    }
    for (what, words, problem) in [
        ("is none", &["--as", "UPPER/x"][..], "capital letters"),
        ("is a digest", &["--as", &format!("r.io/a@{}", parts.id)], "a digest is no name"),
    ] {
        let said = import(daemon, &one(&parts, &[])?, false, words)?;
        let holds = !said.ok && said.err.contains(problem);
        checks.that(&format!("  --as that {what} is refused"), holds, said.err);
    }
    Ok(())
}

/// Several without a name, and names given later.
async fn tagged(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let (first, second) = (Parts::here("first")?, Parts::here("second")?);
    let two = |tags: [&str; 2]| -> Result<Vec<u8>> {
        let entries = [named(&first.entry, &[(REF, tags[0])]), named(&second.entry, &[(REF, tags[1])])];
        tar(&[vec![layout(), index(&entries)], first.blobs(), second.blobs()].concat())
    };
    let said = import(daemon, &two(["1.0", "2.0"])?, true, &["--as", "r.io/app"])?;
    let holds = said.ok && said.out.contains("r.io/app:1.0") && said.out.contains("r.io/app:2.0");
    checks.that(
        "two images by their tags alone, --as: two names",
        holds,
        format!("{} {}", said.out, said.err),
    );
    for parts in [&first, &second] {
        remove(daemon, &parts.id).await?;
    }
    let said = import(daemon, &two(["1.0", "1.0"])?, true, &["--as", "r.io/app"])?;
    let holds = !said.ok && said.err.contains("several images of it would be called r.io/app:1.0");
    checks.that("  of which no two are the same", holds, said.err);
    let said = import(daemon, &two(["1.0", "2.0"])?, true, &[])?;
    checks.that("  without --as both are there by their ids", said.ok, said.err);
    let tag = |words: &[&str]| super::said(daemon.typed(&["image", "tag"])?.args(words));
    let said = tag(&[&first.id, "r.io/own"])?;
    let holds = said.ok && said.out.contains(&first.id) && said.out.contains("r.io/own:latest");
    checks.that("image tag gives a name", holds, format!("{} {}", said.out, said.err));
    let said = tag(&[&second.id[7..19], "r.io/own:latest"])?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let found = client.image_id("r.io/own:latest").await?;
    let holds = said.ok && found.as_ref() == Some(&second.id);
    checks.that("  which another has from then on", holds, format!("{found:?} {}", said.err));
    let said = tag(&["r.io/own", "r.io/more:1"])?;
    let holds = said.ok && said.out == format!("{} r.io/more:1 r.io/own:latest", second.id);
    checks.that("  and one by its name gets one more", holds, format!("{} {}", said.out, said.err));
    for (what, words, problem) in [
        ("nothing that is there", ["r.io/none:1", "r.io/a:1"], "no image r.io/none:1"),
        ("a name that is none", ["r.io/own", "a b"], "image reference"),
    ] {
        let said = tag(&words)?;
        checks.that(&format!("  refused: {what}"), !said.ok && said.err.contains(problem), said.err);
    }
    for parts in [&first, &second] {
        remove(daemon, &parts.id).await?;
    }
    Ok(())
}

/// Whichever file comes first, from a file and from a pipe that cannot be read twice.
async fn orders(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let parts = Parts::here("in some order")?;
    let list = || index(&[named(&parts.entry, &[(FULL, "r.io/order:1")])]);
    let (layers, documents) = (parts.layers.clone(), vec![parts.config.clone(), parts.manifest.clone()]);
    let reversed: Vec<File> = layers.iter().rev().cloned().collect();
    let saved = parts.saved(&json!(["r.io/order:1"]));
    for (what, files) in [
        ("index, documents, layers", [vec![layout(), list()], documents.clone(), layers.clone()].concat()),
        (
            "layers, documents, index last",
            [layers.clone(), documents.clone(), vec![list(), layout()]].concat(),
        ),
        (
            "documents, index, layers the other way",
            [documents.clone(), vec![list()], reversed.clone()].concat(),
        ),
        (
            "manifest.json before its layers",
            [vec![saved.clone(), parts.config.clone()], layers.clone()].concat(),
        ),
        ("manifest.json after its layers", [reversed, vec![parts.config.clone(), saved]].concat()),
    ] {
        let archive = tar(&files)?;
        for by_pipe in [false, true] {
            let said = import(daemon, &archive, by_pipe, &[])?;
            let holds = said.ok && said.out == format!("{} r.io/order:1", parts.id);
            let from = if by_pipe { "by a pipe" } else { "from a file" };
            checks.that(&format!("{what}, {from}"), holds, format!("{} {}", said.out, said.err));
            checks.note("  it is whole", whole(daemon));
            remove(daemon, &parts.id).await?;
        }
    }
    Ok(())
}

async fn platforms(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let (here, elsewhere) = (Parts::here("here")?, Parts::elsewhere("elsewhere")?);
    let entries = [elsewhere.entry.clone(), here.entry.clone()];
    let (inner, of_inner) = nested(&entries);
    let (outer, of_outer) = nested(std::slice::from_ref(&of_inner));
    let name = [(FULL, "r.io/platforms:1")];
    let all = [elsewhere.blobs(), here.blobs()].concat();
    let each: Vec<Value> = entries.iter().map(|entry| named(entry, &name)).collect();
    for (what, files) in [
        (
            "an index of two platforms, both there",
            [vec![index(&[named(&of_inner, &name)]), inner.clone()], all.clone()].concat(),
        ),
        (
            "an index of which only this machine's image is there, as docker save has it",
            [vec![index(&[named(&of_inner, &name)]), inner.clone()], here.blobs()].concat(),
        ),
        (
            "an index in an index",
            [vec![index(&[named(&of_outer, &name)]), outer, inner.clone()], here.blobs()].concat(),
        ),
        ("two platforms side by side", [vec![index(&each)], all].concat()),
    ] {
        let said = import(daemon, &tar(&files)?, true, &[])?;
        let holds = said.ok && said.out == format!("{} r.io/platforms:1", here.id);
        checks.that(what, holds, format!("{} {}", said.out, said.err));
        checks.note("  it is whole", whole(daemon));
        remove(daemon, &here.id).await?;
    }
    let nothing = [
        (
            "an index whose image for this machine is not there",
            [vec![index(&[named(&of_inner, &name)]), inner], elsewhere.blobs()].concat(),
            format!("{} is missing, the manifest of its image for this platform", here.manifest.0),
        ),
        (
            "only an image for another machine",
            [vec![index(&[named(&elsewhere.entry, &name)])], elsewhere.blobs()].concat(),
            "it has no image for this platform".to_owned(),
        ),
    ];
    for (what, files, problem) in nothing {
        refused(checks, daemon, what, &files, &problem).await?;
    }
    Ok(())
}

/// Each blob that an archive may lack is named, and nothing of the image is there.
async fn missing(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let parts = Parts::here("lacking")?;
    let blobs = parts.blobs();
    let lists = [
        vec![index(&[named(&parts.entry, &[(FULL, "r.io/lacking:1")])])],
        vec![parts.saved(&json!(["r.io/lacking:1"]))],
    ];
    for (kind, list) in ["an OCI archive", "docker save"].into_iter().zip(lists) {
        for (what, at) in [("manifest", 0), ("config", 1), ("lower layer", 2), ("upper layer", 3)] {
            // Docker's has no manifest of its own.
            if at == 0 && kind == "docker save" {
                continue;
            }
            let rest = blobs.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, file)| file.clone());
            let files: Vec<File> = list.iter().cloned().chain(rest).collect();
            let problem = format!("{} is missing", blobs[at].0);
            refused(checks, daemon, &format!("{kind} without its {what}"), &files, &problem).await?;
        }
    }
    Ok(())
}

async fn refused(
    checks: &mut Checks,
    daemon: &Daemon,
    what: &str,
    files: &[File],
    problem: &str,
) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let before = (layers(daemon)?, client.images().await?);
    for by_pipe in [false, true] {
        let said = import(daemon, &tar(files)?, by_pipe, &[])?;
        checks.that(
            &format!("{what}: named"),
            !said.ok && said.err.contains(problem),
            format!("{} {}", said.out, said.err),
        );
    }
    let now = (layers(daemon)?, client.images().await?);
    checks.that("  and nothing of it is there", now == before, format!("{now:?}"));
    Ok(())
}
