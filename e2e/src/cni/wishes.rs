//! What pods may wish of a network: each capability by its name, tunables, which of several addresses comes first.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::json;

use super::protocol::same;
use super::recorder::Recorder;
use crate::checks::Checks;
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    capabilities(checks, daemon, recorder).await?;
    tunables(checks, daemon).await?;
    preference(checks, daemon, recorder).await
}

/// CRI has no field for some: annotations say them.
async fn capabilities(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    let every = json!({
        "portMappings": true, "bandwidth": true, "dns": true, "ipRanges": true, "mac": true, "ips": true,
        "cgroupPath": true, "infinibandGUID": true, "deviceID": true,
    });
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lane", "plugins": [{ "type": "rec-a", "capabilities": every }],
    });
    recorder.configure(&conf)?;
    crate::conflist::in_use(daemon, |shown| shown["plugins"].as_array().is_some_and(|all| all.len() == 1))
        .await?;
    recorder.ready(daemon).await?;
    let mut client = Client::connect(&daemon.socket()).await?;
    recorder.forget()?;
    let bare = client.run_pod(&pod("bare", &daemon.path("logs"))).await?;
    let told = recorder.calls()?.first().context("no call")?.input["runtimeConfig"].clone();
    let path = told["cgroupPath"].as_str().unwrap_or_default();
    let alone = told.as_object().is_some_and(|all| all.len() == 1) && path.starts_with('/');
    checks.that("every capability: of a pod without a wish only its control group", alone, &told);
    client.remove_pod(&bare).await?;

    let network = NetworkConfig { pod_cidr: "10.222.4.0/24,fd22:4::/64".into() };
    let request =
        UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config: Some(network) }) };
    client.runtime.update_runtime_config(request).await?;
    let annotations = [
        ("kubernetes.io/ingress-bandwidth", "1G"),
        ("kubernetes.io/egress-bandwidth", "20M"),
        ("berth.ips", "10.9.8.7, fd00:9::7"),
        ("berth.mac", "02:00:00:00:00:01"),
        ("berth.infiniband-guid", "c2:11:22:33:44:55:66:77"),
        ("berth.device-id", "0000:00:1f.6"),
    ];
    let dns = DnsConfig {
        servers: vec!["192.0.2.53".into(), "2001:db8::53".into()],
        searches: vec!["a.test".into(), "b.test".into()],
        options: vec!["ndots:5".into()],
    };
    let port = PortMapping {
        protocol: Protocol::Sctp.into(),
        host_port: 8080,
        container_port: 80,
        ..Default::default()
    };
    let parent = format!("/berth-{}/own", daemon.name());
    let config = PodSandboxConfig {
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        dns_config: Some(dns),
        port_mappings: vec![port],
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: parent.clone(), ..Default::default() }),
        ..pod("wishes", &daemon.path("logs"))
    };
    recorder.forget()?;
    let id = client.run_pod(&config).await?;
    let wanted = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "sctp" }],
        "bandwidth": {
            "ingressRate": 1_000_000_000, "ingressBurst": 100_000_000,
            "egressRate": 20_000_000, "egressBurst": 2_000_000,
        },
        "dns": {
            "servers": ["192.0.2.53", "2001:db8::53"], "searches": ["a.test", "b.test"], "options": ["ndots:5"],
        },
        "ipRanges": [[{ "subnet": "10.222.4.0/24" }], [{ "subnet": "fd22:4::/64" }]],
        "mac": "02:00:00:00:00:01",
        "ips": ["10.9.8.7", "fd00:9::7"],
        "cgroupPath": parent,
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
        "deviceID": "0000:00:1f.6",
    });
    let told = recorder.calls()?.first().context("no call")?.input["runtimeConfig"].clone();
    checks.note("  of one that has all of them, each", same(&told, &wanted));
    recorder.forget()?;
    client.remove_pod(&id).await?;
    let told = recorder.calls()?.first().context("no call")?.input["runtimeConfig"].clone();
    checks.note("  and at its end the same", same(&told, &wanted));
    Ok(())
}

async fn tunables(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let wanted = [("net.core.somaxconn", "321"), ("net.ipv4.ip_unprivileged_port_start", "7")];
    let sysctls: HashMap<String, String> =
        wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let linux = LinuxPodSandboxConfig { sysctls, ..Default::default() };
    let config = PodSandboxConfig { linux: Some(linux), ..pod("tuned", &daemon.path("logs")) };
    let id = client.run_pod(&config).await?;
    let shell = client.run(&id, &config, "main", args(&["sleep", "1000"])).await?;
    for (name, value) in wanted {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let found = client.out(&shell, &["cat", &file]).await?;
        checks.that(&format!("a pod's {name}, connected by plugins"), found.trim() == value, found);
    }
    client.remove_pod(&id).await
}

/// The recorder gives 10.9.8.7 and, as the second of a chain, fd00:9::7.
async fn preference(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    recorder.configure(&super::recorder::chain("1.1.0"))?;
    let usual = daemon.flags.clone();
    for (wish, first, second) in [
        ("cni", "10.9.8.7", "fd00:9::7"),
        ("ipv4", "10.9.8.7", "fd00:9::7"),
        ("ipv6", "fd00:9::7", "10.9.8.7"),
    ] {
        daemon.kill()?;
        daemon.flags = usual.clone();
        daemon.flags.extend(["--network-ip-preference".into(), wish.into()]);
        let mut client = daemon.start().await?;
        recorder.ready(daemon).await?;
        let id = client.run_pod(&pod("preferred", &daemon.path("logs"))).await?;
        let ips: Vec<String> = client.pod_ips(&id).await?.iter().map(ToString::to_string).collect();
        checks.that(
            &format!("ip_preference {wish}: ip is {first}, additional_ips the other"),
            ips == [first, second],
            ips.join(" "),
        );
        client.remove_pod(&id).await?;
    }
    daemon.kill()?;
    daemon.flags = usual;
    daemon.start().await?;
    recorder.ready(daemon).await
}
