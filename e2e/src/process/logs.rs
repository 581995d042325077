//! Container logs: tags, long lines, rotation under load, a full disk, names that lead elsewhere.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use berth_sys::mount as sys;

use super::{Lab, Log, Unmounted, owned};
use crate::checks::{Checks, until};
use crate::client::Client;

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    tags(checks, lab).await?;
    rotation(checks, lab).await?;
    full(checks, lab).await?;
    names(checks, lab).await
}

async fn log_of(lab: &mut Lab, id: &str) -> Result<Log> {
    let status = lab.client.ended(id).await?;
    Log::read(Path::new(&status.log_path))
}

async fn tags(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for (what, args, expected) in [
        ("a whole line", &["echo", "whole"][..], "stdout F 5"),
        ("of the other stream", &["complain", "whole"], "stderr F 5"),
        ("text without a line end", &["part", "cut"], "stdout P 3"),
        ("a line of 16 KiB", &["lines", "1", "16384"], "stdout F 16384"),
        ("  and one byte", &["lines", "1", "16385"], "stdout P 16384, stdout F 1"),
        ("a line of 40000 bytes", &["lines", "1", "40000"], "stdout P 16384, stdout P 16384, stdout F 7232"),
        ("an empty line", &["echo", ""], "stdout F 0"),
    ] {
        let id = lab.start(&|c| c.args = owned(args)).await?;
        let log = log_of(lab, &id).await?;
        let found: Vec<_> =
            log.0.iter().map(|[_, stream, tag, text]| format!("{stream} {tag} {}", text.len())).collect();
        let found = found.join(", ");
        checks.that(&format!("log: {what}"), found == expected, &found);
        // RFC 3339 with nanoseconds.
        let times = log.0.iter().all(|[time, ..]| time.len() >= 30 && time.as_bytes()[10] == b'T');
        checks.that("  with its time", times, &log.0[0][0]);
    }
    Ok(())
}

/// As the kubelet does it, again and again while the container writes as fast as it can.
async fn rotation(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    const LINES: usize = 400_000;
    let count = LINES.to_string();
    let id = lab.start(&|c| c.args = owned(&["lines", &count, "100", "1000"])).await?;
    let path = PathBuf::from(lab.client.status(&id).await?.log_path);
    let mut old: Vec<PathBuf> = Vec::new();
    let last = format!("{:0>100}", LINES - 1);
    let patience = Instant::now() + Duration::from_secs(120);
    // The last line may be in what was just renamed.
    let through = |old: &[PathBuf]| {
        let newest = [old.last(), Some(&path)].into_iter().flatten();
        newest.map(|file| std::fs::read_to_string(file).unwrap_or_default()).any(|text| text.contains(&last))
    };
    while !through(&old) {
        anyhow::ensure!(Instant::now() < patience, "the last line does not come");
        if std::fs::metadata(&path)?.len() > 1 << 20 {
            let name = path.with_extension(format!("log.{}", old.len()));
            std::fs::rename(&path, &name)?;
            let request = ReopenContainerLogRequest { container_id: id.clone() };
            lab.client.runtime.reopen_container_log(request).await?;
            old.push(name);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut next = 0;
    let mut wrong = None;
    for file in old.iter().chain([&path]) {
        for [.., tag, text] in Log::read(file)?.0 {
            if tag != "F" || text.parse() != Ok(next) {
                wrong.get_or_insert((next, text));
            }
            next += 1;
        }
    }
    checks.that(
        "log: rotated under load: no line lost, none twice, none out of order",
        wrong.is_none() && next == LINES && old.len() > 3,
        format!("{} files, {next} lines, {wrong:?}", old.len() + 1),
    );
    lab.kill(&id).await?;
    let said =
        lab.client.runtime.reopen_container_log(ReopenContainerLogRequest { container_id: id }).await.err();
    let refused = said.as_ref().is_some_and(|s| s.message().contains("not running"));
    checks.that(
        "  of what has ended: refused, and no new file",
        refused && path.exists(),
        format!("{said:?}"),
    );
    Ok(())
}

async fn dropped(client: &mut Client, id: &str) -> Result<u64> {
    client.info(id).await?["logDroppedBytes"].as_u64().context("no logDroppedBytes")
}

async fn full(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let small = lab.logs.join("small");
    std::fs::create_dir_all(&small)?;
    let context = sys::Context::open(c"tmpfs")?;
    context.set_string(c"size", c"1048576")?;
    let tmpfs = context.mount(sys::Attributes::default())?;
    sys::attach(tmpfs.as_fd(), std::fs::File::open(&small)?.as_fd())?;
    let _small = Unmounted(small.clone());

    let id = lab
        .start(&|c| {
            c.args = owned(&["lines", "100000", "100"]);
            c.log_path = "small/ends.log".into();
        })
        .await?;
    let ended = lab.client.ended(&id).await?;
    checks.that("log: a full disk does not stop the container", ended.exit_code == 0, ended.exit_code);
    let lost = dropped(&mut lab.client, &id).await?;
    // Ten million bytes were written, with time and tags some more.
    checks.that("  what could not be written is counted, also after its end", lost > 9_000_000, lost);
    let whole = std::fs::metadata(small.join("ends.log"))?.len() + lost;
    checks.that("  to the byte", whole == 100_000 * (100 + 1 + "T stdout F ".len() as u64 + 29), whole);

    let id = lab
        .start(&|c| {
            c.args = owned(&["count", "1"]);
            c.log_path = "small/goes-on.log".into();
        })
        .await?;
    until("a lost line", || {
        let (mut client, id) = (lab.client.clone(), id.clone());
        async move { Ok((dropped(&mut client, &id).await? > 0).then_some(())) }
    })
    .await?;
    let metrics =
        lab.client.runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest::default()).await?;
    let metrics = metrics.into_inner().pod_metrics;
    let containers = metrics.iter().flat_map(|pod| &pod.container_metrics).filter(|c| c.container_id == id);
    let found = containers.flat_map(|c| &c.metrics).find(|m| m.name == "container_log_dropped_bytes_total");
    let value = found.and_then(|metric| metric.value.as_ref()).map(|value| value.value);
    checks.that("  and in the metrics", value.is_some_and(|bytes| bytes > 0), format!("{value:?}"));
    std::fs::remove_file(small.join("ends.log"))?;
    let log = small.join("goes-on.log");
    let before = Log::read(&log)?.0.len();
    until("new lines", || async { Ok((Log::read(&log)?.0.len() > before + 5).then_some(())) }).await?;
    lab.kill(&id).await?;
    let text = std::fs::read_to_string(&log)?;
    // Only a line that the disk cut off is shorter than its head.
    let broken: Vec<_> = text.lines().filter(|line| !line.contains(" stdout F line ")).collect();
    let begin = text.lines().all(|line| line.is_empty() || line.starts_with("20"));
    checks.that(
        "  with room again it goes on, each line from its beginning",
        broken.len() <= 1 && begin,
        format!("{broken:?}"),
    );
    Ok(())
}

async fn names(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    let outside = lab.home.join("elsewhere");
    std::fs::create_dir_all(&outside)?;
    std::os::unix::fs::symlink(&outside, lab.logs.join("linked"))?;
    nix::unistd::mkfifo(&lab.logs.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    for (what, path) in
        [("through a linked directory", "linked/x.log"), ("to a fifo", "fifo"), ("upwards", "../x.log")]
    {
        let said = lab.refusal(&|c| c.log_path = path.into()).await;
        checks.that(&format!("log: refused: {what}"), said.contains("log"), said);
    }
    let left = std::fs::read_dir(&outside)?.count();
    checks.that("  and nothing is written there", left == 0, left);
    let id = lab.start(&|c| (c.args, c.log_path) = (owned(&["echo", "deep"]), "a/b/c.log".into())).await?;
    let text = log_of(lab, &id).await?.text();
    checks.that("log: directories on the way are made", text == "deep\n", text);
    let id =
        lab.start(&|c| (c.args, c.log_path) = (owned(&["lines", "1000", "1000"]), String::new())).await?;
    let ended = lab.client.ended(&id).await?;
    checks.that(
        "log: none asked for: none kept",
        ended.exit_code == 0 && ended.log_path.is_empty(),
        ended.log_path,
    );
    Ok(())
}
