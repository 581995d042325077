//! `kind load docker-image` and `kind load image-archive`: the words that kind runs inside a node, by the names of containerd's
//! programs, over archives as docker saves them.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Said;
use crate::archive::{FULL, Parts, REF, index, layout, named, nested, tar};
use crate::checks::Checks;
use crate::client::Client;
use crate::daemon::Daemon;

const IMPORT: &str =
    "ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -";

fn run_line(daemon: &Daemon, line: &str, input: &[u8]) -> Result<Said> {
    let mut words = line.split(' ');
    let mut command = daemon.linked(words.next().unwrap_or_default())?;
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output()?;
    // One that is refused reads nothing.
    let _ = feeding.join();
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    Ok(Said { code: done.status.code(), out: done.stdout, err })
}

pub(super) async fn run(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let said = run_line(daemon, "containerd config dump", b"")?;
    let found = snapshotter(&said.text());
    checks.that(
        "containerd config dump: kind finds the snapshotter",
        said.code == Some(0) && found.as_deref() == Some("overlayfs"),
        said.all(),
    );

    let parts = Parts::here("loaded by kind")?;
    let elsewhere = Parts::elsewhere("left at home")?;
    let tags: Value = json!(["loaded:1"]);
    let classic = tar([&parts.saved(&tags), &parts.config].into_iter().chain(&parts.layers))?;
    // Docker with containerd's image store: the whole index, and of it what was pulled (kind's issue 3795, where ctr fails).
    let (inner, entry) = nested(&[elsewhere.entry.clone(), parts.entry.clone()]);
    let entry = named(&entry, &[(FULL, "docker.io/library/loaded:1"), (REF, "1")]);
    let store = tar(&[vec![layout(), index(&[entry]), inner, parts.saved(&tags)], parts.blobs()].concat())?;
    for (what, archive) in
        [("docker save", &classic), ("docker save of an image of several platforms", &store)]
    {
        for line in [IMPORT, "ctr --namespace=k8s.io images import -"] {
            let said = run_line(daemon, line, archive)?;
            checks.that(&format!("{what} | {line}"), said.code == Some(0), said.all());
            let found = client.image_id("loaded:1").await?;
            checks.that(
                "  the kubelet has it by its name",
                found.as_ref() == Some(&parts.id),
                format!("{found:?}"),
            );
            let said = run_line(
                daemon,
                &format!("ctr --namespace=k8s.io images tag --force {} again:2", parts.id),
                b"",
            )?;
            let found = client.image_id("docker.io/library/again:2").await?;
            checks.that(
                "  images tag --force: and by another",
                said.code == Some(0) && found.as_ref() == Some(&parts.id),
                said.all(),
            );
            client.remove_image(&parts.id).await?;
        }
    }
    let said = run_line(daemon, IMPORT, b"no archive")?;
    checks.that(
        "what is no archive: exit code 1, and why",
        said.code == Some(1) && said.err.contains("the archive"),
        said.all(),
    );

    for line in [
        "ctr --namespace=k8s.io images ls",
        "ctr images import -",
        "ctr --namespace=default images import -",
        "ctr --namespace=k8s.io images import --snapshotter=native -",
        "ctr --namespace=k8s.io run --rm a b",
        "ctr --help",
        "containerd",
        "containerd config default",
    ] {
        let said = run_line(daemon, line, &classic)?;
        let told = said.err.contains(line)
            && said.err.contains("Berth's door")
            && said.err.contains("berth image --help");
        checks.that(
            &format!("refused: {line}"),
            said.code == Some(64) && said.out.is_empty() && told,
            said.all(),
        );
    }
    let left = client.image_id("loaded:1").await?;
    checks.that("  none of which did anything", left.is_none(), format!("{left:?}"));
    std::fs::remove_dir_all(daemon.path("called"))?;
    Ok(())
}

/// As kind looks for it in a configuration of version 2.
fn snapshotter(text: &str) -> Option<String> {
    let lines = || text.lines().map(str::trim);
    if !lines().any(|line| line == "version = 2") {
        return None;
    }
    let table =
        lines().skip_while(|line| *line != "[plugins.\"io.containerd.grpc.v1.cri\".containerd]").skip(1);
    let value =
        table.take_while(|line| !line.starts_with('[')).find_map(|line| line.strip_prefix("snapshotter = "));
    value.map(|value| value.trim_matches('"').to_owned())
}
