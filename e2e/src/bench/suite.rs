//! critest's own benchmarks of pods and containers, on both sides, one after the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::figures::{Report, Series};
use crate::daemon::IMAGE;

/// Of each of the two lifecycles.
const SAMPLES: usize = 30;
/// Where critest puts pods when a runtime does not tell its cgroup driver: containerd before 2.0.
const SLICE: &str = "system.slice";

/// What critest writes of one lifecycle.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    operations_names: Vec<String>,
    datapoints: Vec<Datapoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datapoint {
    operations_durations_ns: Vec<u64>,
}

/// Both lifecycles of one runtime.
pub(super) struct Suite {
    pods: Results,
    containers: Results,
}

/// Runs it against a socket; the files go below `home`.
pub(super) fn run(socket: &Path, home: &Path) -> Result<Suite> {
    let critest: PathBuf =
        std::env::var_os("BERTH_E2E_CRITEST").context("BERTH_E2E_CRITEST is not set")?.into();
    std::fs::create_dir_all(home)?;
    let at = |name: &str| home.join(name);
    let parameters = format!(
        "containersNumber: {SAMPLES}\ncontainersNumberParallel: 1\npodsNumber: {SAMPLES}\npodsNumberParallel: 1\n"
    );
    std::fs::write(at("parameters.yaml"), parameters)?;
    std::fs::write(at("images.yaml"), format!("defaultTestContainerImage: {IMAGE}\n"))?;
    let before = slices();
    let output = std::fs::File::create(at("critest.log"))?;
    let endpoint = format!("unix://{}", socket.display());
    let done = Command::new(critest)
        .arg("-benchmark")
        .arg(format!("-runtime-endpoint={endpoint}"))
        .arg(format!("-image-endpoint={endpoint}"))
        .arg(format!("-benchmarking-params-file={}", at("parameters.yaml").display()))
        .arg(format!("-benchmarking-output-dir={}", home.display()))
        .arg(format!("-test-images-file={}", at("images.yaml").display()))
        .args([
            "-ginkgo.timeout=15m",
            "-ginkgo.no-color",
            "-ginkgo.skip=about operations on Image|Container start",
        ])
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    // Empty by now, and not there before.
    for made in slices().into_iter().filter(|slice| !before.contains(slice)) {
        let _ = std::fs::remove_dir(made);
    }
    if !done.success() {
        bail!("critest -benchmark: {}", crate::daemon::tail(&at("critest.log")));
    }
    let read = |name: &str| -> Result<Results> {
        let path = at(name);
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    };
    Ok(Suite { pods: read("pod_benchmark_data.json")?, containers: read("container_benchmark_data.json")? })
}

fn slices() -> Vec<PathBuf> {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return Vec::new() };
    let all = hierarchies.filter_map(Result::ok).map(|hierarchy| hierarchy.path().join(SLICE));
    all.filter(|path| path.is_dir()).collect()
}

impl Results {
    fn series(&self, operation: usize) -> Series {
        let mut series = Series::default();
        for point in &self.datapoints {
            if let Some(took) = point.operations_durations_ns.get(operation) {
                series.push(Duration::from_nanos(*took));
            }
        }
        series
    }
}

pub(super) fn report(report: &mut Report<'_>, ours: &Suite, theirs: &Suite) {
    for (ours, theirs) in [(&ours.pods, &theirs.pods), (&ours.containers, &theirs.containers)] {
        for (n, name) in ours.operations_names.iter().enumerate() {
            report.times(&format!("critest: {name}"), &mut ours.series(n), &mut theirs.series(n), None);
        }
    }
}
