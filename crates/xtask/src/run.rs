//! Running other programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build::{Built, root};
use crate::lanes::{self, Own};
use crate::packages;

pub(crate) fn status(command: &mut Command) -> Result<()> {
    let done = command.status().with_context(|| format!("{command:?}"))?;
    if !done.success() {
        bail!("{command:?} failed");
    }
    Ok(())
}

pub(crate) fn cargo(words: &[&str]) -> Result<()> {
    println!("cargo {}", words.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    status(Command::new(cargo).current_dir(root()).args(words))
}

/// One end-to-end lane over what was built.
pub(crate) fn lane(built: &Built, name: &str, argument: Option<&str>) -> Result<()> {
    let lane = lanes::named(name).with_context(|| format!("no lane {name:?}"))?;
    for tools in lane.tools {
        packages::need(tools)?;
    }
    if name == "skew" {
        cargo(&["build", "--quiet", "-p", "berth-skew"])?;
    }
    let apart = match lane.own {
        Own::Nothing => &[][..],
        Own::Mounts => &["--mount", "--propagation", "private"],
        Own::Host => &["--net", "--mount", "--propagation", "private"],
    };
    let mut command = match apart {
        [] => Command::new(&built.e2e),
        flags => {
            let mut command = Command::new("unshare");
            command.args(flags).arg("--").arg(&built.e2e);
            command
        }
    };
    command
        .arg(name)
        .args(argument)
        .env("BERTH_E2E_BERTH", built.directory.join("berth"))
        .env("BERTH_E2E_GUEST", &built.guest);
    if name == "skew" {
        command.env("BERTH_E2E_SKEW", root().join("target/debug/berth-skew"));
    }
    if name == "node" {
        kubelet()?;
    }
    if name == "crictl" || name == "node" {
        command.env("BERTH_E2E_CRICTL", go("e2e", "crictl", &["build"], "sigs.k8s.io/cri-tools/cmd/crictl")?);
    }
    if name == "bench-node" {
        command.env("BERTH_E2E_KUBELET", kubelet()?);
    }
    if name == "kubelet" {
        command.env("BERTH_E2E_KUBELET", kubelet()?);
        command.env("BERTH_E2E_KUBELET_LOGS", root().join("target/kubelet"));
    }
    if ["streaming", "bench"].contains(&name) {
        // Ours, and changed more often than those of others: Go itself knows whether it is up to date.
        let at = root().join("target/tools/streams");
        let mut build = Command::new("go");
        build.current_dir(root().join("e2e/streaming")).args(["build", "-o"]).arg(&at).arg(".");
        status(&mut build).context("the lane's client is built by Go (package golang-go, or go.dev/dl)")?;
        command.env("BERTH_E2E_STREAMS", at);
    }
    if name == "conformance" {
        let home = root().join("target/conformance");
        packages::images(&home.join("debian"))?;
        command
            .env(
                "BERTH_E2E_CRITEST",
                go("e2e", "critest", &["test", "-c"], "sigs.k8s.io/cri-tools/cmd/critest")?,
            )
            .env("BERTH_E2E_GINKGO", go("e2e", "ginkgo", &["build"], "github.com/onsi/ginkgo/v2/ginkgo")?)
            .env("BERTH_E2E_LEFT_OUT", root().join("e2e/left-out.txt"))
            .env("BERTH_E2E_HOME", home);
    }
    if name == "bench" && argument.is_none() {
        command.env(
            "BERTH_E2E_CRITEST",
            go("e2e", "critest", &["test", "-c"], "sigs.k8s.io/cri-tools/cmd/critest")?,
        );
    }
    if name == "bench-pull" {
        command.env("BERTH_E2E_HOME", root().join("target/bench"));
    }
    if name == "vm" {
        let parts = root().join("target/vm");
        packages::machine(&parts)?;
        command.env("BERTH_E2E_VM", parts);
    }
    // What went wrong is on the screen already.
    match command.status().with_context(|| format!("{command:?}"))?.success() {
        true => Ok(()),
        false => bail!("{name} did not pass"),
    }
}

pub(crate) fn kubelet() -> Result<PathBuf> {
    go("e2e/kubelet", "kubelet", &["build"], "k8s.io/kubernetes/cmd/kubelet")
}

/// A program of others, built by Go from the versions that `module`'s go.mod names.
fn go(module: &str, name: &str, words: &[&str], package: &str) -> Result<PathBuf> {
    let at = root().join("target/tools").join(name);
    if !at.exists() {
        println!("building {name} with go (once)");
        let built = Command::new("go")
            .current_dir(root().join(module))
            .args(words)
            .arg("-o")
            .arg(&at)
            .arg(package)
            .status();
        match built {
            Ok(done) if done.success() => {}
            Ok(_) => bail!("go could not build {name} from {module}/go.mod"),
            Err(error) => bail!("the lane needs Go (package golang-go, or go.dev/dl): {error}"),
        }
    }
    Ok(at)
}
