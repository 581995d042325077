//! What the kubelet tells of its pods: statistics, metrics, logs.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node::{Node, status_of};
use crate::checks::{Checks, within};

const MIB: u64 = 1 << 20;

pub(crate) fn put(node: &Node) -> Result<()> {
    let word = "x".repeat(100_000);
    let limited = |memory: &str| json!({ "limits": { "cpu": "200m", "memory": memory } });
    node.put("loaded", &json!({ "containers": [
        { "name": "spin", "args": ["spin", "1000000"], "resources": limited("64Mi") },
        { "name": "hold", "args": ["do", "fill", "/big", "8", "then", "hold", "32"], "resources": limited("128Mi") },
        { "name": "server", "args": ["http", "8080", word] },
    ] }))?;
    node.put("talking", &json!({ "containers": [{ "name": "main", "args": ["do",
        "echo", "first", "then", "sleep", "1", "then", "complain", "second", "then", "sleep", "1", "then", "echo", "third",
        "then", "pause"] }] }))?;
    node.put("chatty", &json!({ "containers": [{ "name": "main", "args": ["count", "2"] }] }))
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    summary(checks, node).await;
    metrics(checks, node).await;
    logs(checks, node).await;
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut all = list.as_array().into_iter().flatten();
    all.find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

async fn pod_stats(node: &Node) -> Result<Value> {
    let summary = node.get_json("/stats/summary").await?;
    let pods = summary["pods"].as_array().context("no pods")?.clone();
    let pod = pods.into_iter().find(|pod| pod["podRef"]["name"] == "loaded-node");
    Ok(pod.unwrap_or_default())
}

async fn summary(checks: &mut Checks, node: &Node) {
    feature!(checks, "/stats/summary: a container's CPU, at the rate its limit allows", {
        node.ready("loaded").await?;
        let found = within(60, "the rate of the busy container", || async {
            let pod = pod_stats(node).await?;
            let rate = named(&pod["containers"], "spin")["cpu"]["usageNanoCores"].as_u64();
            Ok(rate.filter(|rate| *rate > 50_000_000))
        })
        .await?;
        ensure!(found < 400_000_000, "{found} nanocores");
        let used =
            named(&pod_stats(node).await?["containers"], "spin")["cpu"]["usageCoreNanoSeconds"].as_u64();
        ensure!(used > Some(0), "{used:?}");
        Ok(())
    });
    feature!(checks, "  its memory and its files", {
        let hold = within(60, "8 MiB of files and 32 MiB of memory", || async {
            let hold = named(&pod_stats(node).await?["containers"], "hold").clone();
            let enough = |value: &Value, least: u64| value.as_u64().is_some_and(|value| value >= least);
            Ok((enough(&hold["rootfs"]["usedBytes"], 8 * MIB)
                && enough(&hold["memory"]["workingSetBytes"], 32 * MIB))
            .then_some(hold))
        })
        .await?;
        let working = hold["memory"]["workingSetBytes"].as_u64().unwrap_or_default();
        ensure!(working < 64 * MIB, "{working}");
        let free = hold["memory"]["availableBytes"].as_u64().unwrap_or_default();
        ensure!(free > 0 && free < 128 * MIB, "available {free}");
        let files = hold["rootfs"]["usedBytes"].as_u64().unwrap_or_default();
        ensure!(files < 9 * MIB, "{files}");
        ensure!(hold["rootfs"]["inodesUsed"].as_u64() > Some(0), "{}", hold["rootfs"]);
        ensure!(hold["rootfs"]["capacityBytes"].as_u64() > Some(0), "{}", hold["rootfs"]);
        Ok(())
    });
    feature!(checks, "  the pod's network, sums, pressure and processes", {
        let pod = node.ready("loaded").await?;
        let ip = pod["status"]["podIP"].as_str().context("no podIP")?.to_owned();
        let body = super::network::ask(&format!("{ip}:8080"))?;
        same!(body.len(), 100_000);
        let pod = within(60, "100 kB to be counted", || async {
            let pod = pod_stats(node).await?;
            Ok((pod["network"]["txBytes"].as_u64() >= Some(100_000)).then_some(pod))
        })
        .await?;
        same!(pod["network"]["name"], "eth0");
        ensure!(pod["network"]["txBytes"].as_u64() < Some(1_000_000), "{}", pod["network"]);
        ensure!(pod["memory"]["workingSetBytes"].as_u64() >= Some(32 * MIB), "{}", pod["memory"]);
        ensure!(pod["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0), "{}", pod["cpu"]);
        ensure!(pod["process_stats"]["process_count"].as_u64() >= Some(3), "{}", pod["process_stats"]);
        Ok(())
    });
    feature!(checks, "  the node's image filesystem", {
        let summary = node.get_json("/stats/summary").await?;
        let images = summary["node"]["runtime"]["imageFs"].clone();
        ensure!(images["usedBytes"].as_u64() > Some(0), "{images}");
        ensure!(images["capacityBytes"].as_u64() > images["usedBytes"].as_u64(), "{images}");
        Ok(())
    });
}

/// The values of a metric whose labels have all of these.
fn values(text: &str, metric: &str, labels: &[&str]) -> Vec<f64> {
    let lines = text.lines().filter(|line| {
        line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    });
    // A timestamp may follow the value.
    lines.filter_map(|line| line.rsplit_once('}')?.1.split_whitespace().next()?.parse().ok()).collect()
}

async fn metrics(checks: &mut Checks, node: &Node) {
    let of = |container: &'static str| {
        [
            r#"namespace="default""#.to_owned(),
            r#"pod="loaded-node""#.to_owned(),
            format!("container=\"{container}\""),
        ]
    };
    feature!(checks, "/metrics/cadvisor: with the labels of pods and containers", {
        let (spin, hold) = (of("spin"), of("hold"));
        let [spin, hold] = [&spin, &hold].map(|labels| labels.iter().map(String::as_str).collect::<Vec<_>>());
        let text = within(60, "the busy container's processor time", || async {
            let text = node.get("/metrics/cadvisor").await?;
            let cpu = values(&text, "container_cpu_usage_seconds_total", &spin);
            Ok((cpu.iter().sum::<f64>() > 0.1).then_some(text))
        })
        .await?;
        let memory = values(&text, "container_memory_working_set_bytes", &hold);
        ensure!(memory.len() == 1 && memory[0] >= (32 * MIB) as f64, "memory: {memory:?}");
        let limit = values(&text, "container_spec_memory_limit_bytes", &hold);
        same!(limit, vec![(128 * MIB) as f64]);
        let sent = values(&text, "container_network_transmit_bytes_total", &[r#"pod="loaded-node""#, "eth0"]);
        ensure!(sent.len() == 1 && sent[0] > 100_000.0, "sent: {sent:?}");
        Ok(())
    });
    feature!(checks, "/metrics/resource: without a scrape error", {
        let text = node.get("/metrics/resource").await?;
        let spin = of("spin");
        let spin: Vec<&str> = spin.iter().map(String::as_str).collect();
        let cpu = values(&text, "container_cpu_usage_seconds_total", &spin);
        ensure!(cpu.len() == 1 && cpu[0] > 0.1, "CPU: {cpu:?}");
        for metric in ["pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"] {
            let seen = values(&text, metric, &[r#"pod="loaded-node""#]);
            ensure!(seen.len() == 1 && seen[0] > 0.1, "{metric}: {seen:?}");
        }
        let started = values(&text, "container_start_time_seconds", &spin);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
        ensure!(
            started.len() == 1 && (0.0..600.0).contains(&(now - started[0])),
            "started {started:?}, now {now}"
        );
        has!(text, "resource_scrape_error 0");
        Ok(())
    });
}

async fn logs(checks: &mut Checks, node: &Node) {
    feature!(checks, "/containerLogs: both streams, the last lines, the run before", {
        node.ready("talking").await?;
        let all = within(30, "the third line", || async {
            let all = node.api("/containerLogs/default/talking-node/main")?;
            Ok(all.contains("third").then_some(all))
        })
        .await?;
        same!(all, "first\nsecond\nthird\n");
        same!(node.api("/containerLogs/default/talking-node/main?tailLines=1")?, "third\n");
        let pod = node.ready("lively").await?;
        let restarts = |pod: &Value| status_of(pod, "main")["restartCount"].as_u64() >= Some(1);
        if !restarts(&pod) {
            node.out(&pod, "main", &["write", "/bad", ""]).await?;
            node.until("lively", "restarted", restarts).await?;
        }
        has!(node.api("/containerLogs/default/lively-node/main?previous=true")?, "GET / HTTP/1.1");
        Ok(())
    });
    feature!(checks, "the kubelet rotates a log: no line is lost between the files", {
        let pod = node.ready("chatty").await?;
        let directory = node.log_directory(&pod).join("main");
        // The two last files are text, the kubelet compresses those before. What was read counts if nothing was rotated
        // meanwhile.
        let files = || -> Result<Vec<std::path::PathBuf>> {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(&directory)? {
                files.push(entry?.path());
            }
            files.sort();
            Ok(files)
        };
        let text = within(60, "three files", || async {
            let before = files()?;
            let mut plain = before.iter().filter(|file| file.extension().is_some_and(|e| e != "gz"));
            let (Some(new), Some(old), None) = (plain.next(), plain.next(), plain.next()) else {
                return Ok(None);
            };
            let (Ok(old), Ok(new)) = (std::fs::read_to_string(old), std::fs::read_to_string(new)) else {
                return Ok(None);
            };
            Ok((before.len() >= 3 && files()? == before).then(|| old + &new))
        })
        .await?;
        let mut numbers = text.lines().filter_map(|line| line.rsplit_once("line ")?.1.parse::<u64>().ok());
        let mut last = numbers.next().context("an empty log")?;
        for number in numbers {
            ensure!(number == last + 1, "{number} follows {last}");
            last = number;
        }
        node.remove("chatty")
    });
}
