//! Lives of containers: order, sidecars, probes, hooks, restarts, ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node::{Node, condition, id_of, read, status_of};
use crate::checks::{Checks, within};

fn guest(name: &str, words: &[&str]) -> Value {
    json!({ "name": name, "args": words })
}

pub(crate) fn with(mut container: Value, key: &str, value: Value) -> Value {
    container[key] = value;
    container
}

fn shared(container: Value) -> Value {
    with(container, "volumeMounts", json!([{ "name": "shared", "mountPath": "/shared" }]))
}

pub(crate) fn put(node: &Node) -> Result<()> {
    let host = node.daemon.path("host/hooks");
    std::fs::create_dir_all(&host)?;
    let hooks = json!({
        "postStart": { "exec": { "command": ["/guest", "append", "/shared/order", "postStart"] } },
        "preStop": { "exec": { "command": ["/guest", "do", "write", "/host/stopping", "by preStop"] } },
    });
    let main = json!({
        "name": "main", "args": ["pause"], "lifecycle": hooks,
        "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }, { "name": "host", "mountPath": "/host" }],
    });
    let append = |name: &str| shared(guest(name, &["append", "/shared/order", name]));
    let side = shared(guest("side", &["do", "append", "/shared/order", "side", "then", "pause"]));
    let side = with(side, "restartPolicy", "Always".into());
    let side = with(
        side,
        "startupProbe",
        json!({ "exec": { "command": ["/guest", "exists", "/shared/order"] }, "periodSeconds": 1 }),
    );
    node.put("order", &json!({
        "initContainers": [append("first"), append("second"), side],
        "containers": [main, shared(guest("other", &["do", "append", "/shared/order", "other", "then", "pause"]))],
        "volumes": [{ "name": "shared", "emptyDir": {} },
            { "name": "host", "hostPath": { "path": host, "type": "Directory" } }],
        "terminationGracePeriodSeconds": 20,
    }))?;

    let ready = |name: &str, words: &[&str], probe: Value| {
        let mut probe = probe;
        for (key, value) in [("periodSeconds", 1), ("failureThreshold", 1), ("timeoutSeconds", 5)] {
            probe[key] = value.into();
        }
        with(guest(name, words), "readinessProbe", probe)
    };
    node.put(
        "probed",
        &json!({ "containers": [
        ready("exec", &["pause"], json!({ "exec": { "command": ["/guest", "do", "exists", "/ok"] } })),
        ready("http", &["web", "8080", "/bad"], json!({ "httpGet": { "port": 8080, "path": "/ask",
            "httpHeaders": [{ "name": "X-From", "value": "probe" }] } })),
        ready("tcp", &["web", "8081", "/bad"], json!({ "tcpSocket": { "port": 8081 } })),
        ready("grpc", &["grpc", "8082", "/bad"], json!({ "grpc": { "port": 8082 } })),
    ] }),
    )?;
    node.put(
        "lively",
        &json!({ "containers": [with(
        guest("main", &["web", "8080", "/bad"]),
        "livenessProbe",
        json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 }),
    )] }),
    )?;

    for (name, policy, words) in [
        ("always", "Always", &["exit", "3"][..]),
        ("on-failure", "OnFailure", &["true"]),
        ("on-failure-fails", "OnFailure", &["exit", "5"]),
        ("never", "Never", &["exit", "4"]),
    ] {
        node.put(name, &json!({ "restartPolicy": policy, "containers": [guest("main", words)] }))?;
    }

    let limited = |name: &str, words: &[&str]| {
        with(
            guest(name, words),
            "resources",
            json!({
            "limits": { "cpu": "200m", "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "32Mi" } }),
        )
    };
    node.put("oom", &json!({ "restartPolicy": "Never", "containers": [limited("main", &["hold", "300"])] }))?;
    node.put("limits", &json!({ "containers": [limited("main", &["pause"])] }))?;
    node.put(
        "pod-limits",
        &json!({ "resources": { "limits": { "cpu": "300m", "memory": "96Mi" } },
        "containers": [guest("main", &["pause"]), guest("beside", &["pause"])] }),
    )?;
    let message = ["do", "write", "/dev/termination-log", "the last word", "then", "exit", "9"];
    let fallback = with(
        guest("log", &["do", "complain", "what went wrong", "then", "exit", "8"]),
        "terminationMessagePolicy",
        "FallbackToLogsOnError".into(),
    );
    node.put(
        "message",
        &json!({ "restartPolicy": "Never",
        "containers": [guest("file", &message), fallback] }),
    )?;
    // A first process without a handler does not see SIGTERM: only the end of the grace period ends it.
    node.put(
        "graceful",
        &json!({ "terminationGracePeriodSeconds": 4,
        "containers": [guest("deaf", &["sleep", "100000"]), guest("polite", &["pause"])] }),
    )
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    order(checks, node).await;
    probes(checks, node).await;
    restarts(checks, node).await;
    ends(checks, node).await;
}

async fn order(checks: &mut Checks, node: &Node) {
    feature!(checks, "init containers, a sidecar, two containers: in their order", {
        let pod = node.ready("order").await?;
        for name in ["first", "second"] {
            let ended = status_of(&pod, name)["state"]["terminated"].clone();
            same!(ended["reason"], "Completed");
        }
        let side = status_of(&pod, "side");
        ensure!(side["state"]["running"].is_object() && side["ready"] == true, "the sidecar: {side}");
        let order = node.out(&pod, "other", &["cat", "/shared/order"]).await?;
        let lines: Vec<&str> = order.lines().collect();
        ensure!(lines.starts_with(&["first", "second", "side"]) && lines.len() == 5, "{order}");
        has!(order, "postStart");
        has!(order, "other");
        Ok(())
    });
    feature!(checks, "the manifest removed: preStop runs, then every container ends", {
        let pod = node.pod("order").await?;
        let pids = [node.pid(&pod, "main").await?, node.pid(&pod, "side").await?];
        let log = node.log_directory(&pod);
        ensure!(log.join("main/0.log").exists(), "no log in {}", log.display());
        node.remove("order")?;
        node.gone("order").await?;
        has!(read(node.daemon.path("host/hooks/stopping"))?, "by preStop");
        let alive = pids.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        ensure!(!alive, "a process of it lives");
        Ok(())
    });
}

async fn probes(checks: &mut Checks, node: &Node) {
    feature!(checks, "readiness by exec, HTTP, TCP and gRPC: not yet by exec, the others are", {
        let pod = node
            .until("probed", "ready but for one", |pod| {
                ["http", "tcp", "grpc"].iter().all(|name| status_of(pod, name)["ready"] == true)
            })
            .await?;
        same!(status_of(&pod, "exec")["ready"], false);
        ensure!(!condition(&pod, "Ready"), "the pod is ready: {pod}");
        node.out(&pod, "exec", &["write", "/ok", ""]).await?;
        node.ready("probed").await?;
        has!(node.logged(&pod, "http", 0)?, "GET /ask HTTP/1.1");
        Ok(())
    });
    feature!(checks, "  what fails its probe is not ready, and ready again after", {
        let pod = node.ready("probed").await?;
        for name in ["http", "grpc"] {
            node.out(&pod, name, &["write", "/bad", ""]).await?;
            node.until("probed", "not ready", |pod| status_of(pod, name)["ready"] == false).await?;
            node.out(&pod, name, &["remove", "/bad"]).await?;
        }
        let pod = node.ready("probed").await?;
        same!(status_of(&pod, "http")["restartCount"], 0);
        Ok(())
    });
    feature!(checks, "liveness: what fails its probe is restarted, once", {
        let pod = node.ready("lively").await?;
        node.out(&pod, "main", &["write", "/bad", ""]).await?;
        let pod = node
            .until("lively", "restarted", |pod| {
                let main = status_of(pod, "main");
                main["restartCount"] == 1 && main["state"]["running"].is_object()
            })
            .await?;
        same!(status_of(&pod, "main")["lastState"]["terminated"]["exitCode"], 137);
        // Its root is a new one: the file is not there.
        same!(node.code(&pod, "main", &["exists", "/bad"]).await?, 1);
        Ok(())
    });
}

async fn restarts(checks: &mut Checks, node: &Node) {
    feature!(checks, "restart policy Always: restarted, with back-off", {
        let pod = node
            .until("always", "in back-off", |pod| {
                let main = status_of(pod, "main");
                main["restartCount"].as_u64() >= Some(2)
                    && main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            })
            .await?;
        same!(status_of(&pod, "main")["lastState"]["terminated"]["exitCode"], 3);
        same!(status_of(&pod, "main")["lastState"]["terminated"]["reason"], "Error");
        Ok(())
    });
    feature!(checks, "  OnFailure: a success stays, a failure is restarted", {
        let pod = node.until("on-failure", "succeeded", |pod| pod["status"]["phase"] == "Succeeded").await?;
        same!(status_of(&pod, "main")["restartCount"], 0);
        node.until("on-failure-fails", "restarted", |pod| {
            status_of(pod, "main")["restartCount"].as_u64() >= Some(1)
        })
        .await?;
        Ok(())
    });
    feature!(checks, "  Never: a failure stays", {
        let pod = node.until("never", "failed", |pod| pod["status"]["phase"] == "Failed").await?;
        same!(status_of(&pod, "main")["restartCount"], 0);
        same!(status_of(&pod, "main")["state"]["terminated"]["exitCode"], 4);
        Ok(())
    });
}

async fn ends(checks: &mut Checks, node: &Node) {
    feature!(checks, "over its memory limit: OOMKilled, 137", {
        let pod = node.until("oom", "failed", |pod| pod["status"]["phase"] == "Failed").await?;
        let ended = status_of(&pod, "main")["state"]["terminated"].clone();
        same!(ended["reason"], "OOMKilled");
        same!(ended["exitCode"], 137);
        Ok(())
    });
    feature!(checks, "limits: in the container's control groups and the pod's", {
        let pod = node.ready("limits").await?;
        same!(pod["status"]["qosClass"], "Burstable");
        let resources = status_of(&pod, "main")["resources"].clone();
        same!(resources["limits"]["memory"], "64Mi");
        same!(resources["requests"]["cpu"], "100m");
        let id = id_of(&pod, "main")?;
        let groups = read(format!("/proc/{}/cgroup", node.pid(&pod, "main").await?))?;
        let of = |controller: &str| -> Result<std::path::PathBuf> {
            let line = groups.lines().find(|l| l.split(':').nth(1) == Some(controller));
            let path = line.and_then(|l| l.split(':').nth(2)).with_context(|| groups.clone())?;
            Ok(std::path::Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
        };
        let (memory, cpu) = (of("memory")?, of("cpu")?);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let expected = format!("{}/kubepods/burstable/pod{uid}/", node.cgroups.root());
        has!(memory.display().to_string(), expected.as_str());
        has!(memory.display().to_string(), id.as_str());
        let pods = memory.parent().context("no parent")?;
        for (file, value) in [
            (memory.join("memory.limit_in_bytes"), (64 << 20).to_string()),
            (pods.join("memory.limit_in_bytes"), (64 << 20).to_string()),
            (cpu.join("cpu.cfs_quota_us"), "20000".into()),
            (cpu.join("cpu.shares"), "102".into()),
        ] {
            let seen = read(&file)?;
            ensure!(seen == value, "{}: {seen}, not {value}", file.display());
        }
        let adjusted: i64 =
            read(format!("/proc/{}/oom_score_adj", node.pid(&pod, "main").await?))?.parse()?;
        ensure!((2..1000).contains(&adjusted), "oom_score_adj {adjusted}");
        Ok(())
    });
    feature!(checks, "  limits of the pod as a whole: on its group, which holds both containers", {
        let pod = node.ready("pod-limits").await?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let mut groups = Vec::new();
        for container in ["main", "beside"] {
            let text = read(format!("/proc/{}/cgroup", node.pid(&pod, container).await?))?;
            let line = text.lines().find(|line| line.split(':').nth(1) == Some("memory"));
            groups.push(line.and_then(|l| l.split(':').nth(2)).with_context(|| text.clone())?.to_owned());
        }
        for group in groups {
            let parent = group.rsplit_once('/').map(|(parent, _)| parent).unwrap_or_default();
            has!(parent, format!("/pod{uid}").as_str());
            same!(
                read(format!("/sys/fs/cgroup/memory{parent}/memory.limit_in_bytes"))?,
                (96 << 20).to_string()
            );
            same!(read(format!("/sys/fs/cgroup/cpu{parent}/cpu.cfs_quota_us"))?, "30000");
        }
        Ok(())
    });
    feature!(checks, "the termination message: the file's, and the log's where asked", {
        let pod = node.until("message", "failed", |pod| pod["status"]["phase"] == "Failed").await?;
        let ended = |name: &str| status_of(&pod, name)["state"]["terminated"].clone();
        same!(ended("file")["message"], "the last word");
        same!(ended("file")["exitCode"], 9);
        has!(ended("log")["message"].to_string(), "what went wrong");
        same!(ended("log")["exitCode"], 8);
        Ok(())
    });
    feature!(checks, "the grace period: who hears SIGTERM ends at once, who does not at its end", {
        let pod = node.ready("graceful").await?;
        let (deaf, polite) = (node.pid(&pod, "deaf").await?, node.pid(&pod, "polite").await?);
        let since = Instant::now();
        node.remove("graceful")?;
        let lives = |pid: i64| std::path::Path::new(&format!("/proc/{pid}")).exists();
        let ended = |pid: i64| {
            within(30, "a process to end", move || async move { Ok((!lives(pid)).then(Instant::now)) })
        };
        let (polite, deaf) = (ended(polite).await?, ended(deaf).await?);
        let between = deaf.duration_since(polite);
        ensure!(between > Duration::from_secs(3), "only {between:?} between them");
        ensure!(since.elapsed() < Duration::from_secs(20), "{:?} in all", since.elapsed());
        node.gone("graceful").await
    });
}
