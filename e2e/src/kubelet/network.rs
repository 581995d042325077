//! The pods' network as the kubelet asks for it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_cri_api::v1::StatusRequest;
use serde_json::{Value, json};

use super::node::Node;
use super::place::ADDRESS;
use crate::checks::{Checks, within};

const HOST_PORT: u16 = 18080;
const OWN_PORT: u16 = 18081;

/// A process that has started does not listen yet.
fn listens(port: u16) -> Value {
    json!({ "tcpSocket": { "port": port }, "periodSeconds": 1 })
}

pub(crate) fn put(node: &Node) -> Result<()> {
    let mut own = listens(OWN_PORT);
    own["tcpSocket"]["host"] = "127.0.0.1".into();
    node.put("served", &json!({
        "hostname": "chosen",
        "hostAliases": [{ "ip": "192.0.2.77", "hostnames": ["alias.test"] }],
        "dnsPolicy": "None",
        "dnsConfig": { "nameservers": ["192.0.2.1"], "searches": ["one.test"], "options": [{ "name": "ndots", "value": "2" }] },
        "containers": [{ "name": "main", "args": ["http", "8080", "served"], "readinessProbe": listens(8080),
            "ports": [{ "containerPort": 8080, "hostPort": HOST_PORT, "protocol": "TCP" }] }],
    }))?;
    node.put(
        "host-network",
        &json!({
            "hostNetwork": true,
            "containers": [{ "name": "main", "args": ["http", OWN_PORT.to_string(), "of the host"], "readinessProbe": own,
                "ports": [{ "containerPort": OWN_PORT, "hostPort": OWN_PORT }] }],
        }),
    )?;
    node.put(
        "asking",
        &json!({ "dnsPolicy": "Default", "containers": [{ "name": "main", "args": ["pause"] }] }),
    )
}

/// The body that an address answers with.
pub(crate) fn ask(address: &str) -> Result<String> {
    let address: SocketAddr = address.parse().with_context(|| address.to_owned())?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    feature!(checks, "a pod's address: the host reaches it, and the kubelet tells it", {
        let pod = node.ready("served").await?;
        let ip = pod["status"]["podIP"].as_str().context("no podIP")?.to_owned();
        same!(ask(&format!("{ip}:8080"))?, "served");
        let asking = node.ready("asking").await?;
        same!(node.out(&asking, "main", &["get", &format!("{ip}:8080")]).await?, "served\n");
        Ok(())
    });
    feature!(checks, "hostPort: by the node's address, by 127.0.0.1, and from a pod", {
        for address in [ADDRESS, "127.0.0.1"] {
            same!(ask(&format!("{address}:{HOST_PORT}"))?, "served");
        }
        let asking = node.ready("asking").await?;
        same!(node.out(&asking, "main", &["get", &format!("{ADDRESS}:{HOST_PORT}")]).await?, "served\n");
        Ok(())
    });
    feature!(
        checks,
        "  one that a process of the host has: refused with its name, and taken once it is free",
        {
            let taken = std::net::TcpListener::bind("0.0.0.0:0")?;
            let port = taken.local_addr()?.port();
            node.put(
                "late",
                &json!({ "containers": [{ "name": "main", "args": ["http", "8080", "late"], "readinessProbe": listens(8080),
            "ports": [{ "containerPort": 8080, "hostPort": port }] }] }),
            )?;
            // A pod that has no sandbox has no status of it: the kubelet tells its log, and an event where there is an API.
            within(30, "the kubelet to say why", || async {
                let log = std::fs::read_to_string(node.log())?;
                let why = "a process of the host listens on";
                let said = log.lines().any(|line| {
                    line.contains("late-node") && line.contains(why) && line.contains(&port.to_string())
                });
                Ok(said.then_some(()))
            })
            .await?;
            drop(taken);
            node.ready("late").await?;
            same!(ask(&format!("{ADDRESS}:{port}"))?, "late");
            Ok(())
        }
    );
    feature!(checks, "hostNetwork: the node's address and namespace", {
        let pod = node.ready("host-network").await?;
        // A kubelet without an API server tells no address of its own.
        ensure!(pod["status"]["podIP"].is_null(), "{}", pod["status"]["podIP"]);
        same!(ask(&format!("127.0.0.1:{OWN_PORT}"))?, "of the host");
        let pid = node.pid(&pod, "main").await?;
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        ensure!(namespace(&pid.to_string())? == namespace("self")?, "another network namespace");
        Ok(())
    });
    feature!(checks, "hostname, host aliases, resolv.conf by the pod and by the node", {
        let pod = node.ready("served").await?;
        same!(node.out(&pod, "main", &["cat", "/proc/sys/kernel/hostname"]).await?.trim(), "chosen");
        has!(node.out(&pod, "main", &["cat", "/etc/hosts"]).await?, "192.0.2.77\talias.test");
        let own = node.out(&pod, "main", &["cat", "/etc/resolv.conf"]).await?;
        for part in ["nameserver 192.0.2.1\n", "search one.test", "options ndots:2"] {
            has!(own, part);
        }
        let asking = node.ready("asking").await?;
        let nodes = node.out(&asking, "main", &["cat", "/etc/resolv.conf"]).await?;
        has!(nodes, "nameserver 192.0.2.53");
        has!(nodes, "search node.test");
        Ok(())
    });
    feature!(
        checks,
        "no network: the kubelet tells the CNI file, line and reason, and it heals without a restart",
        {
            let directory = node.daemon.path("cni");
            std::fs::create_dir_all(&directory)?;
            let (new, conf) = (directory.join("new"), directory.join("10-broken.conflist"));
            std::fs::write(&new, "{ \"name\": \"lane\",\n  \"plugins\": [ { \"type\": } ] }")?;
            std::fs::rename(new, &conf)?;
            let told = "10-broken.conflist:2: ";
            within(30, "the runtime's status to say so", || async {
                let request = StatusRequest { verbose: false };
                let status = node.client.clone().runtime.status(request).await?.into_inner().status;
                let conditions = status.context("no status")?.conditions;
                let broken = conditions.iter().any(|c| !c.status && c.message.contains(told));
                Ok(broken.then_some(()))
            })
            .await?;
            node.put("unconnected", &json!({ "containers": [{ "name": "main", "args": ["pause"] }] }))?;
            // Of a pod that is not begun there is no status either: the kubelet tells its log, and an event.
            within(60, "the kubelet to say why", || async {
                let log = std::fs::read_to_string(node.log())?;
                let said = log.lines().any(|line| {
                    line.contains("unconnected-node")
                        && line.contains("NetworkReady=false")
                        && line.contains(told)
                });
                Ok(said.then_some(()))
            })
            .await?;
            std::fs::remove_file(conf)?;
            node.ready("unconnected").await?;
            node.remove("unconnected")
        }
    );
}
