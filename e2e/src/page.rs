//! `deploy/node.md`, followed literally: its commands are run as they stand, the installation below a directory that stands in
//! for the root.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::checks::{Checks, until};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The commands of a section, which are the lines set in by four.
fn commands(page: &str, section: &str) -> Result<Vec<String>> {
    let text = page.split("\n## ").find(|part| part.starts_with(section));
    let text = text.with_context(|| format!("deploy/node.md has no section {section:?}"))?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    let found: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(!found.is_empty(), "section {section:?} has no commands");
    Ok(found)
}

fn shell(command: &str) -> Result<Output> {
    let crictl = std::env::var("BERTH_E2E_CRICTL").context("BERTH_E2E_CRICTL names crictl")?;
    let tools = Path::new(&crictl).parent().context("crictl lies in a directory")?;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    Ok(Command::new("sh").args(["-c", command]).current_dir(REPOSITORY).env("PATH", path).output()?)
}

/// What it wrote, once it succeeds: a pod takes its moment.
async fn done(command: &str) -> Result<String> {
    let tried = until(command, || async {
        let output = shell(command)?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    });
    tried.await
}

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let page = std::fs::read_to_string(Path::new(REPOSITORY).join("deploy/node.md"))?;
    let tries = commands(&page, "To try")?;
    let (up, down) = ("cargo xtask node up", "cargo xtask node down");
    ensure!(tries.first().is_some_and(|c| c == up) && tries.last().is_some_and(|c| c == down), "{tries:?}");
    let started = shell(up)?;
    let told = String::from_utf8_lossy(&started.stdout).into_owned();
    checks.that(up, started.status.success() && told.contains("the node is up"), {
        format!("{told} {}", String::from_utf8_lossy(&started.stderr))
    });
    let tried = used(checks, &tries[1..tries.len() - 1]).await;
    let ended = shell(down)?;
    checks.that(down, ended.status.success(), String::from_utf8_lossy(&ended.stderr));
    tried?;
    stays(checks, &page)
}

async fn used(checks: &mut Checks, commands: &[String]) -> Result<()> {
    for command in commands {
        // What the page promises of each.
        let expected = match command {
            c if c.contains(":18080/") => "hello from a pod",
            c if c.contains("/pods") && c.starts_with("curl") => "first-pod-node",
            c if c.starts_with("crictl") => "ticker",
            c if c.contains("/containerLogs/") => "line 0",
            _ => "",
        };
        let said = done(command).await;
        let right = said.as_ref().is_ok_and(|said| said.contains(expected));
        checks.that(command.as_str(), right, format!("{said:?}"));
    }
    Ok(())
}

/// The installation, below another root, and what systemd thinks of the units.
fn stays(checks: &mut Checks, page: &str) -> Result<()> {
    let root = tempfile::Builder::new().prefix("berth-root-").tempdir()?;
    let at = root.path();
    for directory in ["etc/systemd/system", "usr/bin", "bin"] {
        std::fs::create_dir_all(at.join(directory))?;
    }
    for command in commands(page, "To stay")?.iter().filter(|command| command.starts_with("install ")) {
        let below = |word: &str| match word.starts_with('/') {
            true => format!("{}{word}", at.display()),
            false => word.to_owned(),
        };
        let command = command.split(' ').map(below).collect::<Vec<_>>().join(" ");
        let output = shell(&command)?;
        if !output.status.success() {
            bail!("{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    // systemd's own, which every unit is ordered by.
    for name in ["basic", "sysinit", "shutdown", "multi-user", "network-online", "local-fs", "umount"] {
        std::fs::write(
            at.join(format!("etc/systemd/system/{name}.target")),
            "[Unit]\nDescription=stand-in\n",
        )?;
    }
    std::fs::copy("/bin/mkdir", at.join("bin/mkdir"))?;
    let drop_in = at.join("etc/systemd/system/kubelet.service.d");
    std::fs::create_dir_all(&drop_in)?;
    std::fs::copy(Path::new(REPOSITORY).join("deploy/10-berth.conf"), drop_in.join("10-berth.conf"))?;
    for unit in ["berth.service", "kubelet.service"] {
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--generators=no", "--root"])
            .arg(at)
            .arg(unit)
            .output()
            .context("systemd-analyze (package systemd)")?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        // What other packages would bring, such as the targets, is not below this root.
        let ours: Vec<&str> =
            said.lines().filter(|line| line.contains("berth") || line.contains("kubelet")).collect();
        checks.that(&format!("systemd-analyze verify {unit}"), ours.is_empty(), ours.join("; "));
    }
    Ok(())
}
