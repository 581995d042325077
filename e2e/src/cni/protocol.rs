//! What plugins are told, verb by verb, and what the kubelet is told of what they said.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use super::recorder::{Recorder, Told};
use crate::checks::{Checks, until};
use crate::client::{Client, of_host, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

fn wishful(daemon: &Daemon) -> PodSandboxConfig {
    let annotations = HashMap::from([
        ("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned()),
        ("berth.ips".to_owned(), "10.9.8.7".to_owned()),
        ("berth.mac".to_owned(), "02:00:00:00:00:01".to_owned()),
    ]);
    PodSandboxConfig {
        annotations,
        dns_config: Some(DnsConfig { servers: vec!["192.0.2.53".into()], ..Default::default() }),
        port_mappings: vec![
            PortMapping {
                container_port: 80,
                host_port: 8080,
                host_ip: "127.0.0.1".into(),
                ..Default::default()
            },
            PortMapping { container_port: 81, ..Default::default() },
        ],
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/berth-{}/own", daemon.name()),
            ..Default::default()
        }),
        ..pod("wishful", &daemon.path("logs"))
    }
}

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    recorder.forget()?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = wishful(daemon);
    let id = client.run_pod(&config).await?;
    let calls = recorder.calls()?;
    checks.that(
        "ADD: the plugins in their order",
        recorder.order()? == ["ADD rec-a", "ADD rec-b"],
        format!("{calls:?}"),
    );
    let [a, b] = &calls[..] else { anyhow::bail!("not two calls: {calls:?}") };
    let info = client.pod_info(&id).await?;
    checks.note("  the environment, exactly", environment(&[a, b], &id, &info, recorder));
    checks.note("  the first one's configuration and capabilities, no more than it declares", {
        same(&a.input, &json!({
            "cniVersion": "1.1.0", "name": "lane", "type": "rec-a", "own": [1],
            "runtimeConfig": {
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" }],
                "dns": { "servers": ["192.0.2.53"] },
                "cgroupPath": format!("/berth-{}/own", daemon.name()),
            },
        }))
    });
    let first = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "eth0", "sandbox": a.netns }, { "name": "net1", "sandbox": a.netns }],
        "ips": [{ "version": "4", "address": "10.9.8.7/24", "gateway": "10.9.8.1", "interface": 0 }],
        "routes": [], "dns": {},
    });
    checks.note("  the second one's, with the first one's result", {
        same(
            &b.input,
            &json!({
                "cniVersion": "1.1.0", "name": "lane", "type": "rec-b", "prevResult": first,
                "runtimeConfig": {
                    "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": 1_048_576 },
                    "ips": ["10.9.8.7"],
                },
            }),
        )
    });
    checks.note("the kubelet is told the addresses of eth0, and where the namespace is", {
        told(&mut client, &id, &info).await
    });
    let asked = until("STATUS", || async {
        let asked: Vec<Told> = recorder.all()?.into_iter().filter(|one| one.verb == "STATUS").collect();
        Ok((!asked.is_empty()).then_some(asked))
    })
    .await?;
    let bare = asked.iter().all(|one| one.container == "-" && one.netns == "-");
    checks.that("STATUS is asked, without a pod", bare, format!("{asked:?}"));

    recorder.forget()?;
    daemon.kill()?;
    let mut client = daemon.start().await?;
    recorder.ready(daemon).await?;
    let collected = until("GC", || async {
        let calls: Vec<Told> = recorder.calls()?.into_iter().filter(|one| one.verb == "GC").collect();
        Ok((calls.len() == 2).then_some(calls))
    })
    .await?;
    let valid = json!([{ "containerID": id, "ifname": "eth0" }]);
    let good =
        collected.iter().all(|one| one.input["cni.dev/valid-attachments"] == valid && one.container == "-");
    checks.that("GC at start: who is connected", good, format!("{collected:?}"));
    let status = recorder.all()?.into_iter().find(|one| one.verb == "STATUS");
    let bare = status.as_ref().is_some_and(|one| one.container == "-" && one.netns == "-" && one.path != "-");
    checks.that("STATUS before the network is ready, with CNI_PATH alone", bare, format!("{status:?}"));

    recorder.forget()?;
    client.remove_pod(&id).await?;
    let calls = recorder.calls()?;
    checks.that("DEL: backwards", recorder.order()? == ["DEL rec-b", "DEL rec-a"], format!("{calls:?}"));
    let last = info["network"]["cni"]["result"].clone();
    let same_result = calls.iter().all(|one| {
        one.input["prevResult"] == last && last["ips"].as_array().is_some_and(|ips| ips.len() == 3)
    });
    checks.that("  both with the chain's result", same_result, format!("{calls:?} but {last}"));
    let calls: Vec<&Told> = calls.iter().collect();
    checks.note("  the environment as for ADD", environment(&calls, &id, &info, recorder));
    let left = recorder.left(daemon)?;
    checks.that("  and nothing is kept", left.is_empty(), left.join("; "));
    host_network(checks, daemon, recorder).await?;
    handler(checks, daemon, recorder).await
}

pub(super) fn same(found: &Value, wanted: &Value) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{found}\n      is not {wanted}")) }
}

fn environment(calls: &[&Told], id: &str, info: &Value, recorder: &Recorder) -> Result<(), String> {
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=wishful;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-wishful"
    );
    for one in calls {
        let path = format!("{}:/usr/lib/cni", recorder.path("bin").display());
        let told = [&one.container, &one.interface, &one.args, &one.path];
        if told != [id, "eth0", args.as_str(), path.as_str()]
            || info["netns"] != one.netns.as_str()
            || one.inode == "-"
        {
            return Err(format!("{one:?}; the namespace is at {}", info["netns"]));
        }
    }
    Ok(())
}

async fn told(client: &mut Client, id: &str, info: &Value) -> Result<(), String> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await.map_err(|error| error.to_string())?;
    let network = status.into_inner().status.unwrap_or_default().network.unwrap_or_default();
    let others: Vec<_> = network.additional_ips.iter().map(|ip| ip.ip.as_str()).collect();
    let inode = |path: &str| {
        std::fs::metadata(path).map(|found| found.ino()).map_err(|error| format!("{path}: {error}"))
    };
    let bound = inode(info["netns"].as_str().unwrap_or_default())?;
    let lives = inode(&format!("/proc/{}/ns/net", info["pid"]))?;
    match network.ip == "10.9.8.7" && others == ["fd00:9::7"] && bound == lives {
        true => Ok(()),
        false => Err(format!("{network:?}, namespace {bound} and {lives}")),
    }
}

/// A pod with the host's network is nobody's.
async fn host_network(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    recorder.forget()?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&of_host("of-host", &daemon.path("logs"))).await?;
    client.remove_pod(&id).await?;
    let order = recorder.order()?;
    checks.that("a pod with the host's network: no plugin is called", order.is_empty(), format!("{order:?}"));
    Ok(())
}

/// A directory for pods of one runtime handler.
async fn handler(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    let directory = recorder.path("handler.d");
    std::fs::create_dir_all(&directory)?;
    let mut conf = super::recorder::chain("1.0.0");
    conf["name"] = "of-handler".into();
    let whole = conf.to_string();
    std::fs::write(directory.join("10.conflist"), &whole)?;
    daemon.kill()?;
    let usual = daemon.flags.clone();
    daemon.flags.extend(["--network-cni-handler-dirs".into(), format!("berth={}", directory.display())]);
    let mut client = daemon.start().await?;
    let ready = |shown: &Value| shown["network"] == "of-handler" && shown["problem"].is_null();
    in_use(daemon, ready).await?;
    recorder.forget()?;
    let id = client.run_pod(&pod("handled", &daemon.path("logs"))).await?;
    // The daemon has just started, and may tell the plugins of the other network who is there.
    let added = recorder.calls()?.into_iter().find(|one| one.verb == "ADD");
    let name = added.context("no ADD")?.input["name"].clone();
    checks.that("a runtime handler's own directory", name == "of-handler", name);
    client.remove_pod(&id).await?;
    std::fs::write(directory.join("10.conflist"), "{ \"name\": \"of-handler\",\n \"plugins\": ? }")?;
    let told = recorder.not_ready(daemon, "handler.d/10.conflist:2: expected value").await;
    checks
        .note("  broken: NetworkReady=false with file, line and reason", told.map_err(|e| format!("{e:#}")));
    std::fs::write(directory.join("10.conflist"), &whole)?;
    checks.note("  mended: ready", in_use(daemon, ready).await);
    daemon.kill()?;
    daemon.flags = usual;
    daemon.start().await?;
    recorder.ready(daemon).await
}
