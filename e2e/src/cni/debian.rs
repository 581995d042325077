//! Debian's containernetworking-plugins, the whole usual chain, on the lane's own network.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use super::recorder::Recorder;
use crate::checks::{Checks, until};
use crate::client::{args, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;
use crate::network::tool;

/// Debian 1.1.1 speaks up to CNI 1.0.
fn conflist(recorder: &Recorder) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "debian",
        "plugins": [
            {
                "type": "bridge", "bridge": "lane0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "mtu": 1450,
                "ipam": {
                    "type": "host-local", "dataDir": recorder.path("ipam"),
                    "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "firewall", "backend": "iptables" },
            { "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_notify": "1" }, "dataDir": recorder.path("tuning") },
        ],
    })
}

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    // Every plugin of it would be done in-process.
    daemon.kill()?;
    daemon.flags.extend(["--network-cni-in-process".to_owned(), "false".to_owned()]);
    recorder.configure(&conflist(recorder))?;
    let mut client = daemon.start().await?;
    in_use(daemon, |shown| shown["network"] == "debian").await?;
    recorder.ready(daemon).await?;
    let links = links()?;
    let port = PortMapping { container_port: 80, host_port: 18090, ..Default::default() };
    let config = PodSandboxConfig {
        port_mappings: vec![port],
        annotations: [("kubernetes.io/egress-bandwidth".to_owned(), "8M".to_owned())].into(),
        ..pod("web", &daemon.path("logs"))
    };
    let web = client.run_pod(&config).await?;
    client.run(&web, &config, "main", args(&["http", "80", "web"])).await?;
    let asking = pod("asking", &daemon.path("logs"));
    let other = client.run_pod(&asking).await?;
    let shell = client.run(&other, &asking, "main", args(&["sleep", "1000"])).await?;
    let ips = client.pod_ips(&web).await?;
    let texts: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let own = texts.len() == 2 && texts[0].starts_with("10.77.0.") && texts[1].starts_with("fd00:77::");
    checks.that("Debian's chain: an address of each version", own, texts.join(" "));
    for ip in &ips {
        let at = SocketAddr::new(*ip, 80).to_string();
        let reached =
            until("the pod's server", || async { Ok(client.clone().out(&shell, &["get", &at]).await.ok()) })
                .await;
        checks.note(
            &format!("  a pod reaches the other at {ip}"),
            reached.map(drop).map_err(|e| format!("{e:#}")),
        );
    }
    checks.note("  the host reaches it, and by its port", {
        let mut reached = connect(&SocketAddr::new(ips[0], 80).to_string());
        reached = reached.and(connect("127.0.0.1:18090"));
        reached.map_err(|e| format!("{e:#}"))
    });
    let info = client.pod_info(&web).await?;
    let record = &info["network"]["cni"];
    let shaped = tool("tc qdisc show")?.contains("tbf");
    checks.that("  its traffic is shaped", shaped, tool("tc qdisc show")?);
    let tuned = client.out(&shell, &["cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify"]).await?;
    checks.that("  its sysctl is set", tuned.trim() == "1", tuned);
    let there = rules()?;
    let both =
        ["iptables-save: ", "ip6tables-save: "].iter().all(|of| there.iter().any(|r| r.starts_with(of)));
    checks.that("  its rules are iptables', of both versions", both, there.join("; "));
    let address = std::fs::read_to_string(recorder.path("ipam/debian").join(&texts[0]))?;
    checks.that("  host-local keeps who has the address", address.starts_with(&web), &address);
    let all = record["plugins"].as_array().cloned().unwrap_or_default();
    let programs = all.len() == 5 && all.iter().all(|plugin| plugin["in_process"] == false);
    checks.that("  all of it by the programs", programs, record);

    // The program has the kernel look for duplicates of the gateway's address.
    until("the bridge's addresses to be settled", || async {
        Ok((tool("ip -j -6 address show tentative")?.trim() == "[]").then_some(()))
    })
    .await?;
    checked(checks, daemon, &ips)?;
    daemon.kill()?;
    let mut client = daemon.start().await?;
    let again = client.pod_ips(&web).await?;
    checks.that(
        "  a restart keeps all of it",
        again == ips && connect("127.0.0.1:18090").is_ok(),
        format!("{again:?}"),
    );
    for id in [&web, &other] {
        client.remove_pod(id).await?;
    }
    let left = recorder.left(daemon)?;
    checks.that("removed: no address and no record is left", left.is_empty(), left.join("; "));
    // The kernel clears a pod's namespace in its own time.
    let gone = until("the pods' links to go", || async {
        let now = self::links()?;
        Ok(now.iter().all(|link| links.contains(link) || link == "lane0").then_some(()))
    });
    checks.note("  nor a link but the bridge", gone.await.map_err(|error| format!("{error:#}")));
    let rules = rules()?;
    checks.that("  nor a rule of a pod's", rules.is_empty(), rules.join("; "));
    // Chains without pods and the bridge are left by the programs' design.
    for family in ["ip", "ip6"] {
        for table in ["nat", "filter"] {
            tool(&format!("nft delete table {family} {table}"))?;
        }
    }
    tool("ip link delete lane0")?;
    daemon.kill()?;
    daemon.flags = recorder.flags();
    daemon.start().await.map(drop)
}

/// Of pods of the lane, in both families.
fn rules() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let text = tool(program)?;
        let of_pod = |line: &&str| ["10.77.0.", "fd00:77::", "18090"].iter().any(|of| line.contains(of));
        found.extend(text.lines().filter(of_pod).map(|line| format!("{program}: {line}")));
    }
    Ok(found)
}

/// With two IP versions it looks for the one's rules among the other's.
const MISTAKE: &str = "plugin portmap of network debian: CHECK: could not check ipv6 dnat: rule [[-p tcp --dport 18090 -s 10.77.";

/// Each hop is there, and what is taken away is missed by the steps and by the plugins.
fn checked(checks: &mut Checks, daemon: &Daemon, ips: &[std::net::IpAddr]) -> Result<()> {
    let said = || -> Result<(String, Vec<String>)> {
        let text = daemon.says(&["network", "check", "web"])?.1;
        let bad = text.lines().filter(|line| line.starts_with("FAIL"));
        // The lane's network has no name server.
        let bad = bad.filter(|line| !line.contains(" name server ") && !line.contains(MISTAKE));
        let bad = bad.map(str::to_owned).collect();
        Ok((text, bad))
    };
    let (text, bad) = said()?;
    let asked = [
        "ok      IPv4 gateway",
        "ok      IPv6 to another pod",
        "ok      port TCP port 18090",
        "ok      others' rules",
    ];
    let whole = bad.is_empty() && asked.iter().all(|step| text.contains(step));
    checks.that("  network check finds nothing", whole, &text);
    checks.that("  but what portmap's own CHECK mistakes", text.contains(MISTAKE), &text);
    let path = daemon.says(&["network", "inspect", "web", "--json"])?.1;
    let path = serde_json::from_str::<Value>(&path)?["netns"][0].as_str().unwrap_or_default().to_owned();
    let change = |verb: &str| tool(&format!("nsenter --net={path} ip address {verb} {}/24 dev eth0", ips[0]));
    change("del")?;
    let (text, bad) = said()?;
    change("add")?;
    tool(&format!("nsenter --net={path} ip route add default via 10.77.0.1"))?;
    let lost = format!("eth0 has lost {}", ips[0]);
    let named = bad.first().is_some_and(|line| line.contains("IPv4 address") && line.ends_with(&lost));
    let by_plugins = bad.iter().any(|line| line.contains("CNI CHECK") && line.contains("plugin bridge"));
    checks.that("  an address taken away is missed, by CHECK too", named && by_plugins, text);
    let (text, bad) = said()?;
    checks.that("  given back: nothing is missed", bad.is_empty(), text);
    Ok(())
}

fn connect(at: &str) -> Result<()> {
    let at: SocketAddr = at.parse()?;
    TcpStream::connect_timeout(&at, Duration::from_secs(5)).map(drop).with_context(|| at.to_string())
}

fn links() -> Result<Vec<String>> {
    let text = tool("ip -o link show")?;
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    Ok(text.lines().filter_map(name).collect())
}
