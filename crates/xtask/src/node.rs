//! `cargo xtask node`: a person's own node, one kubelet without a cluster over one Berth.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::build::{self, root};
use crate::{host, packages, run};

/// What to do with the node.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Start it, and say how to use it.
    Up,
    /// End it with everything it made.
    Down,
    /// The last lines of the kubelet's log and of Berth's.
    Logs,
}

/// A start builds nothing and pulls nothing; the end waits for the grace periods of the pods.
const PATIENCE: Duration = Duration::from_secs(120);

fn home() -> Result<PathBuf> {
    Ok(root().canonicalize()?.join("target/node"))
}

pub(crate) fn perform(task: &Node) -> Result<()> {
    match task {
        Node::Up => up(&home()?),
        Node::Down => down(&home()?),
        Node::Logs => logs(&home()?),
    }
}

/// The process that keeps the node, while it runs.
fn keeper(home: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(home.join("pid")).ok()?.trim().parse().ok()?;
    let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    // The number may be another's by now.
    words.contains(&*home.to_string_lossy()).then_some(pid)
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > end {
            bail!("waited {} s for {what}: cargo xtask node logs", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn up(home: &Path) -> Result<()> {
    host::check()?;
    if keeper(home).is_some() {
        bail!("the node is up already; cargo xtask node down ends it");
    }
    packages::need(&packages::KUBELET)?;
    let built = build::all()?;
    let kubelet = run::kubelet()?;
    if home.exists() {
        std::fs::remove_dir_all(home).with_context(|| home.display().to_string())?;
    }
    std::fs::create_dir_all(home)?;
    let log = std::fs::File::create(home.join("node.log"))?;
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(&built.e2e)
        .arg("own-node")
        .arg(home)
        .env("BERTH_E2E_BERTH", built.directory.join("berth"))
        .env("BERTH_E2E_GUEST", &built.guest)
        .env("BERTH_E2E_KUBELET", kubelet)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // What the terminal sends is not for it.
        .process_group(0)
        .spawn()
        .context("unshare (package util-linux)")?;
    std::fs::write(home.join("pid"), child.id().to_string())?;
    let up = wait("the node", || ready(home, &mut child));
    if up.is_err() && child.try_wait()?.is_none() {
        // It takes down what there is.
        run::status(Command::new("kill").arg(child.id().to_string()))?;
        wait("the end of the node that did not come up", || Ok(child.try_wait()?.is_some()))?;
    }
    up?;
    println!("{}", help(home));
    Ok(())
}

fn ready(home: &Path, child: &mut Child) -> Result<bool> {
    if child.try_wait()?.is_some() {
        bail!("the node ended: {}", std::fs::read_to_string(home.join("node.log"))?);
    }
    Ok(home.join("ready").exists())
}

fn help(home: &Path) -> String {
    let home = home.display();
    format!(
        "the node is up\n\
         \n\
         start a pod     cp deploy/first-pod.yaml {home}/manifests/\n\
         look at it      crictl --runtime-endpoint unix://{home}/state/berth.sock pods\n\
         as the kubelet  curl http://127.0.0.1:10255/pods\n\
         remove the pod  rm {home}/manifests/first-pod.yaml\n\
         the logs        cargo xtask node logs\n\
         end it all      cargo xtask node down"
    )
}

fn down(home: &Path) -> Result<()> {
    let pid = keeper(home).context("no node is up")?;
    run::status(Command::new("kill").arg(pid.to_string()))?;
    wait("the node's end", || Ok(keeper(home).is_none()))?;
    println!("the node is down; its logs are in {}", home.display());
    Ok(())
}

fn logs(home: &Path) -> Result<()> {
    for name in ["node.log", "kubelet.log", "log"] {
        let path = home.join(name);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let lines: Vec<&str> = text.lines().collect();
        println!("==> {} <==", path.display());
        println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
    Ok(())
}
