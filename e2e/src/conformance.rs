//! critest, the CRI's own suite, unpatched: its images are made on the spot and come from a registry on loopback that
//! stands in for the public ones. First serially, then four at a time; the streaming specs also over
//! WebSocket.

mod images;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::images::Images;
use self::report::{LeftOut, Report};
use crate::checks::Checks;
use crate::daemon::Daemon;
use crate::pty::{Running, ended_within};
use crate::registry::Registry;

/// The hosts that critest's images are named after.
const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"];
/// Longer than a run in which every spec waits for its own bound would be cut off; none has come near.
const PATIENCE: Duration = Duration::from_secs(1500);
const AT_ONCE: u32 = 4;

fn named(variable: &str) -> Result<PathBuf> {
    Ok(std::env::var_os(variable).with_context(|| format!("{variable} is not set"))?.into())
}

pub(crate) async fn run(checks: &mut Checks, focus: Option<&str>) -> Result<()> {
    let home = named("BERTH_E2E_HOME")?;
    let debian = home.join("debian");
    let left_out = LeftOut::read(&named("BERTH_E2E_LEFT_OUT")?)?;
    let images = Images::of(&debian)?;
    let registry = Registry::over(&home.join("registry")).await?;
    images.push(&registry, &home)?;
    let critest =
        images::with_digest(&named("BERTH_E2E_CRITEST")?, &home, &images.digest("test-image-digest")?)?;

    let mut daemon = Daemon::empty().await?;
    for host in HOSTS {
        let at = daemon.path("certs.d").join(host);
        std::fs::create_dir_all(&at)?;
        std::fs::write(at.join("hosts.toml"), format!("server = \"http://{}\"\n", registry.host()))?;
    }
    let suite = Suite { critest, home, daemon: &daemon, focus };
    let mut done = suite.run(checks, &left_out, Way::Serial).await;
    if done.is_ok() && focus.is_none() {
        done = suite.run(checks, &left_out, Way::Parallel).await;
    }
    if done.is_ok() && focus.is_none_or(|focus| focus.contains("treaming")) {
        done = suite.run(checks, &left_out, Way::WebSocket).await;
    }
    let kept = suite.home.join("daemon.log");
    std::fs::copy(daemon.path("log"), &kept)?;
    println!("  the daemon's log: {}", kept.display());
    done.and(daemon.reset().await)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Serial,
    Parallel,
    /// The streaming specs once more, over the other protocol.
    WebSocket,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Parallel => "parallel",
            Self::WebSocket => "websocket",
        }
    }
}

struct Suite<'a> {
    critest: PathBuf,
    home: PathBuf,
    daemon: &'a Daemon,
    focus: Option<&'a str>,
}

impl Suite<'_> {
    async fn run(&self, checks: &mut Checks, left_out: &LeftOut, way: Way) -> Result<()> {
        let log = self.home.join(format!("critest-{}.log", way.name()));
        let report = self.home.join(format!("critest-{}.json", way.name()));
        let focus = self.focus.or((way == Way::WebSocket).then_some("Streaming"));
        if report.exists() {
            std::fs::remove_file(&report)?;
        }
        let scratch = self.daemon.path("critest");
        std::fs::create_dir_all(&scratch)?;
        let endpoint = format!("unix://{}", self.daemon.socket().display());
        let mut critest = Command::new(&self.critest);
        critest
            .arg(format!("-runtime-endpoint={endpoint}"))
            .arg(format!("-image-endpoint={endpoint}"))
            .arg(format!("-ginkgo.json-report={}", report.display()))
            .arg(format!("-ginkgo.timeout={}s", PATIENCE.as_secs()))
            .arg("-ginkgo.no-color")
            .env("TMPDIR", &scratch)
            .current_dir(&scratch)
            .stdin(Stdio::null());
        if let Some(focus) = focus {
            critest.arg(format!("-ginkgo.focus={focus}"));
        }
        if way == Way::WebSocket {
            critest.args(["-websocket-exec", "-websocket-attach", "-websocket-portforward"]);
        }
        if way == Way::Parallel {
            let tools = named("BERTH_E2E_GINKGO")?;
            let tools = tools.parent().context("ginkgo lies in a directory")?;
            let path = std::env::var("PATH").unwrap_or_default();
            critest.arg(format!("-parallel={AT_ONCE}")).env("PATH", format!("{}:{path}", tools.display()));
        }
        let output = std::fs::File::create(&log)?;
        critest.stdout(output.try_clone()?).stderr(output);
        println!("  critest, {}: {}", way.name(), log.display());
        // It bounds itself, but for what it is stuck in.
        let mut child = Running(critest.spawn().context("critest")?);
        ended_within(&mut child.0, PATIENCE + Duration::from_secs(60)).await.context("critest")?;
        if !report.exists() {
            bail!("critest wrote no report: {}", crate::daemon::tail(&log));
        }
        Report::read(&report)?.judge(checks, left_out, focus.is_some());
        Ok(())
    }
}

/// A file's text, with its path in the error.
fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
