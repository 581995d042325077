//! Each verb as a person types it, through the real crictl.

mod streams;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, until};
use crate::daemon::{Daemon, IMAGE};

pub(crate) struct Crictl {
    program: PathBuf,
    config: PathBuf,
}

pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Crictl {
    pub(crate) fn new(daemon: &Daemon) -> Result<Self> {
        let program = std::env::var_os("BERTH_E2E_CRICTL").context("BERTH_E2E_CRICTL names crictl")?;
        let config = daemon.path("crictl.yaml");
        let socket = daemon.socket();
        let text = format!("runtime-endpoint: unix://{0}\nimage-endpoint: unix://{0}\n", socket.display());
        std::fs::write(&config, text)?;
        Ok(Self { program: program.into(), config })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config).args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Result<Answer> {
        let done = self.command(words).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Answer { ok: done.status.success(), out: text(&done.stdout), err: text(&done.stderr) })
    }

    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let answer = self.run(words)?;
        serde_json::from_str(&answer.out).with_context(|| format!("{words:?}: {} {}", answer.out, answer.err))
    }
}

/// The answer's text contains this and the command worked.
pub(crate) fn says(checks: &mut Checks, what: &str, answer: &Answer, part: &str) {
    let holds = answer.ok && answer.out.contains(part);
    checks.that(what, holds, format!("{} {}", answer.out, answer.err));
}

/// The command failed and said this.
pub(crate) fn refuses(checks: &mut Checks, what: &str, answer: &Answer, part: &str) {
    checks.that(what, !answer.ok && answer.err.contains(part), format!("{} {}", answer.out, answer.err));
}

pub(crate) async fn run(checks: &mut Checks) -> Result<()> {
    let mut daemon = Daemon::new().await?;
    let done = all(checks, &daemon).await;
    daemon.finish(done).await
}

async fn all(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let crictl = Crictl::new(daemon)?;
    let before = Footprint::take(daemon)?;
    says(checks, "version", &crictl.run(&["version"])?, "RuntimeName:  berth");
    let info = crictl.json(&["info"])?;
    let ready =
        info["status"]["conditions"].as_array().is_some_and(|c| c.iter().all(|c| c["status"] == true));
    checks.that("info: runtime and network are ready", ready, &info["status"]);
    says(checks, "runtime-config", &crictl.run(&["runtime-config"])?, "CGROUPFS");
    says(checks, "images", &crictl.run(&["images"])?, "berth.test/guest");
    let image = crictl.json(&["inspecti", IMAGE])?;
    checks.that("inspecti", image["status"]["repoTags"][0] == IMAGE, &image["status"]);
    let fs = crictl.json(&["imagefsinfo"])?;
    checks.that("imagefsinfo", fs.to_string().contains("usedBytes"), &fs);

    let file = |name: &str, value: Value| -> Result<String> {
        let path = daemon.path(name);
        std::fs::write(&path, value.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    };
    let logs = daemon.path("logs");
    let pod_file = file(
        "pod.json",
        json!({
            "metadata": { "name": "typed", "namespace": "lane", "uid": "u1", "attempt": 0 },
            "hostname": "typed", "log_directory": logs,
            "labels": { "app": "typed" },
            "dns_config": { "servers": ["192.0.2.53"], "searches": ["lane.test"] },
            "linux": { "sysctls": { "net.ipv4.ip_unprivileged_port_start": "7" } },
        }),
    )?;
    let ctr = |name: &str, args: Value, linux: Value| {
        json!({
        "metadata": { "name": name }, "image": { "image": IMAGE }, "args": args,
        "log_path": format!("{name}.log"), "linux": linux })
    };

    let answer = crictl.run(&["runp", &pod_file])?;
    checks.that("runp", answer.ok && answer.out.len() == 64, &answer.err);
    let pod = answer.out;
    says(checks, "pods", &crictl.run(&["pods", "--label", "app=typed"])?, "typed");
    let status = crictl.json(&["inspectp", &pod])?;
    checks.that(
        "inspectp: ready, with an address",
        status["status"]["state"] == "SANDBOX_READY" && status["status"]["network"]["ip"] != "",
        &status["status"],
    );

    let main = file(
        "main.json",
        ctr(
            "main",
            json!(["count", "50"]),
            json!({ "security_context": {
        "run_as_user": { "value": 33 }, "no_new_privs": true, "readonly_rootfs": true,
        "masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/sys"],
        "seccomp": { "profile_type": 0 }, "namespace_options": { "pid": 1 } } }),
        ),
    )?;
    let answer = crictl.run(&["create", &pod, &main, &pod_file])?;
    checks.that("create", answer.ok, &answer.err);
    let id = answer.out;
    says(checks, "ps -a shows it created", &crictl.run(&["ps", "-a"])?, "Created");
    says(checks, "start", &crictl.run(&["start", &id])?, &id);
    says(checks, "ps by an id prefix", &crictl.run(&["ps", "--id", &id[..10]])?, "Running");
    let inspected = crictl.json(&["inspect", &id])?;
    checks.that(
        "inspect: running, user 33",
        inspected["status"]["state"] == "CONTAINER_RUNNING"
            && inspected["status"]["user"]["linux"]["uid"] == "33",
        &inspected["status"],
    );
    let log = until("log lines", || {
        let answer = crictl.run(&["logs", "--tail", "5", &id]);
        async move { Ok(Some(answer?).filter(|a| a.out.contains("line 3"))) }
    })
    .await?;
    says(checks, "logs", &log, "line 3");

    let exec = |words: &[&str]| {
        let all: Vec<&str> = ["exec", "-s", &id, "/guest"].into_iter().chain(words.iter().copied()).collect();
        crictl.run(&all)
    };
    says(checks, "exec -s", &exec(&["echo", "spoken"])?, "spoken");
    let code = exec(&["exit", "7"])?;
    checks.that("exec -s: the command's exit code", !code.ok && code.err.contains('7'), &code.err);
    refuses(
        checks,
        "exec -s: a command that is not there",
        &crictl.run(&["exec", "-s", &id, "/none"])?,
        "No such file",
    );
    let own = exec(&["cat", "/proc/self/status"])?;
    for (what, line) in [
        ("  runs as user 33, groups from the image's files", "Groups:\t33 50"),
        ("  has no capability left (not root)", "CapEff:\t0000000000000000"),
        ("  has no inheritable one", "CapInh:\t0000000000000000"),
        ("  cannot gain privileges", "NoNewPrivs:\t1"),
        ("  is under a seccomp filter", "Seccomp:\t2"),
    ] {
        says(checks, what, &own, line);
    }
    refuses(checks, "  cannot write its root", &exec(&["write", "/x", "y"])?, "Read-only");
    refuses(
        checks,
        "  cannot write /proc/sys",
        &exec(&["write", "/proc/sys/kernel/hostname", "y"])?,
        "Read-only",
    );
    says(
        checks,
        "  resolv.conf as given",
        &exec(&["cat", "/etc/resolv.conf"])?,
        "search lane.test\nnameserver 192.0.2.53",
    );
    says(checks, "  hosts names the pod", &exec(&["cat", "/etc/hosts"])?, "typed");
    says(checks, "  the pod's hostname", &exec(&["cat", "/proc/sys/kernel/hostname"])?, "typed");
    says(
        checks,
        "  the pod's sysctl",
        &exec(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"])?,
        "7",
    );
    let open = exec(&["ls", "/proc/self/fd"])?;
    checks.that("  no descriptor leaks into it", open.out.lines().count() <= 4, &open.out);

    streams::run(checks, &crictl, &pod, &id).await?;

    let stats = crictl.json(&["stats", "-o", "json", "--id", &id[..12]])?;
    checks.that("stats", stats["stats"][0]["attributes"]["id"] == id.as_str(), &stats);
    let stats = crictl.json(&["statsp", "-o", "json", "--id", &pod])?;
    checks.that("statsp", stats["stats"][0]["linux"]["containers"][0]["cpu"].is_object(), &stats);
    let metrics = crictl.json(&["metricsp"])?;
    checks.that("metricsp", metrics["podMetrics"][0]["podSandboxId"] == pod.as_str(), &metrics);
    says(checks, "metricdescs", &crictl.run(&["metricdescs"])?, "container_cpu_usage_seconds_total");
    let changed = crictl.run(&["update", "--memory", "67108864", "--cpu-share", "512", &id])?;
    says(checks, "update", &changed, &id);
    let now = crictl.json(&["inspect", &id])?["status"]["resources"]["linux"].clone();
    checks.that(
        "  shows in inspect",
        now["memoryLimitInBytes"] == "67108864" && now["cpuShares"] == "512",
        &now,
    );

    mistakes(checks, &crictl, &pod, &pod_file, &file, &ctr)?;

    says(checks, "stop", &crictl.run(&["stop", "-t", "1", &id])?, &id);
    let ended = crictl.json(&["inspect", &id])?;
    let killed = ended["status"]["state"] == "CONTAINER_EXITED" && ended["status"]["exitCode"] == 137;
    checks.that("inspect: exited, 137", killed, &ended["status"]);
    let kept = crictl.run(&["logs", "--tail", "1", &id])?;
    says(checks, "logs of an ended container", &kept, "line");
    says(checks, "rm", &crictl.run(&["rm", &id])?, &id);
    refuses(checks, "inspect of what is gone", &crictl.run(&["inspect", &id])?, "NotFound");
    says(checks, "stopp", &crictl.run(&["stopp", &pod])?, &pod);
    says(checks, "stopp again", &crictl.run(&["stopp", &pod])?, &pod);
    says(checks, "rmp", &crictl.run(&["rmp", &pod])?, &pod);
    crate::modes::run(checks, daemon).await?;
    says(checks, "rmi", &crictl.run(&["rmi", IMAGE])?, "Deleted");
    let left = crictl.run(&["images", "-q"])?;
    checks.that("images: none", left.ok && left.out.is_empty(), &left.out);
    crate::pull::run(checks, daemon, &crictl).await?;
    checks.note("no directory, row or descriptor is left", given_back(daemon, &before).await);
    Ok(())
}

/// What a person gets to read after a slip.
fn mistakes(
    checks: &mut Checks,
    crictl: &Crictl,
    pod: &str,
    pod_file: &str,
    file: &dyn Fn(&str, Value) -> Result<String>,
    ctr: &dyn Fn(&str, Value, Value) -> Value,
) -> Result<()> {
    let create = |name: &str, value: Value| -> Result<Answer> {
        crictl.run(&["create", pod, &file(name, value)?, pod_file])
    };
    let mut no_image = ctr("noimage", json!(["true"]), json!({}));
    no_image["image"]["image"] = "berth.test/none:1".into();
    refuses(checks, "an image that is not here", &create("a.json", no_image)?, "berth.test/none:1");
    let relative = json!([{ "container_path": "/x", "host_path": "rel" }]);
    let mut mount = ctr("mount", json!(["true"]), json!({}));
    mount["mounts"] = relative;
    refuses(
        checks,
        "a relative host path, by its field",
        &create("b.json", mount)?,
        "config.mounts[0].host_path",
    );
    let caps = json!({ "security_context": { "capabilities": { "add_capabilities": ["FLY"] } } });
    refuses(checks, "an unknown capability", &create("c.json", ctr("caps", json!(["true"]), caps))?, "FLY");
    let mut missing = ctr("missing", json!([]), json!({}));
    missing["command"] = json!(["/no/such/program"]);
    let id = create("d.json", missing)?.out;
    refuses(checks, "a program that is not in the image", &crictl.run(&["start", &id])?, "/no/such/program");
    let status = crictl.json(&["inspect", &id])?;
    let start_error = status["status"]["reason"] == "StartError" && status["status"]["exitCode"] == 128;
    checks.that("  is a StartError, 128", start_error, &status["status"]);
    refuses(
        checks,
        "exec into what does not run",
        &crictl.run(&["exec", "-s", &id, "/guest", "true"])?,
        "not running",
    );
    refuses(checks, "an unknown pod", &crictl.run(&["inspectp", "0123456789ab"])?, "NotFound");
    refuses(checks, "a second pod of the same name", &crictl.run(&["runp", &file("e.json", json!({
        "metadata": { "name": "typed", "namespace": "lane", "uid": "u1", "attempt": 0 }, "hostname": "other" }))?])?, "AlreadyExists");
    let sysctl = json!({ "metadata": { "name": "s", "namespace": "lane", "uid": "s", "attempt": 0 },
        "linux": { "sysctls": { "kernel.core_pattern": "|/x" } } });
    refuses(
        checks,
        "a sysctl of the whole node",
        &crictl.run(&["runp", &file("f.json", sysctl)?])?,
        "kernel.core_pattern",
    );
    let checkpoint = crictl.run(&["checkpoint", "--export=/tmp/none.tar", &id])?;
    refuses(checks, "what is not there yet says so", &checkpoint, "CheckpointContainer");
    Ok(())
}
