//! Who a container is and what it may do.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node::{Node, read};
use crate::checks::Checks;

/// Refuses mkdir(2) and mkdirat(2) with EPERM and allows everything else.
fn no_mkdir() -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] })
}

pub(crate) fn put(node: &Node) -> Result<()> {
    let profiles = node.daemon.path("kubelet/seccomp");
    std::fs::create_dir_all(&profiles)?;
    std::fs::write(profiles.join("no-mkdir.json"), no_mkdir().to_string())?;
    let container = |name: &str, context: Value| {
        json!({ "name": name, "args": ["pause"], "securityContext": context,
            "volumeMounts": [{ "name": "disk", "mountPath": "/disk" }] })
    };
    let disk = json!([{ "name": "disk", "emptyDir": {} }]);
    // web is user 33 of the image, and there a member of extra, 50.
    node.put("users", &json!({
        "securityContext": { "runAsUser": 33, "runAsGroup": 33, "fsGroup": 2000, "supplementalGroups": [3000] },
        "containers": [
            container("main", json!({})),
            container("other", json!({ "runAsUser": 1234, "runAsGroup": 5 })),
            container("tight", json!({ "capabilities": { "drop": ["ALL"] }, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "runAsNonRoot": true })),
        ],
        "volumes": disk,
    }))?;
    node.put(
        "strict",
        &json!({
            "securityContext": { "runAsUser": 33, "runAsGroup": 33, "supplementalGroupsPolicy": "Strict" },
            "containers": [container("main", json!({}))], "volumes": disk,
        }),
    )?;
    node.put("powers", &json!({
        "containers": [
            container("plain", json!({ "seccompProfile": { "type": "RuntimeDefault" } })),
            container("free", json!({ "seccompProfile": { "type": "Unconfined" } })),
            container("own", json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "no-mkdir.json" } })),
            container("strong", json!({ "privileged": true })),
            container("timely", json!({ "capabilities": { "add": ["SYS_TIME"] } })),
        ],
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "7" }] },
        "volumes": disk,
    }))?;
    node.put(
        "mapped",
        &json!({
            "hostUsers": false, "volumes": disk,
        "containers": [container("main", json!({})), container("unmasked", json!({ "procMount": "Unmasked" }))],
        }),
    )?;
    node.put(
        "shared-pids",
        &json!({
            "shareProcessNamespace": true,
            "containers": [container("main", json!({})), container("beside", json!({ "runAsUser": 33 }))],
            "volumes": disk,
        }),
    )?;
    node.put(
        "host-pids",
        &json!({
            "hostPID": true, "hostIPC": true, "containers": [container("main", json!({}))], "volumes": disk,
        }),
    )
}

/// What /proc tells of the container's first process.
async fn own(node: &Node, pod: &Value, container: &str) -> Result<String> {
    node.out(pod, container, &["cat", "/proc/1/status"]).await
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    feature!(checks, "users and groups: the pod's, a container's own, fsGroup on volumes", {
        let pod = node.ready("users").await?;
        let status = own(node, &pod, "main").await?;
        has!(status, "Uid:\t33\t33\t33\t33");
        has!(status, "Gid:\t33\t33\t33\t33");
        has!(status, "Groups:\t33 50 2000 3000");
        has!(own(node, &pod, "other").await?, "Uid:\t1234\t");
        node.out(&pod, "main", &["write", "/disk/x", ""]).await?;
        let seen = node.out(&pod, "main", &["stat", "/disk/x"]).await?;
        ensure!(seen.starts_with("33 2000 "), "{seen}");
        let told = super::node::status_of(&pod, "main")["user"]["linux"].clone();
        same!(told, json!({ "uid": 33, "gid": 33, "supplementalGroups": [33, 50, 2000, 3000] }));
        Ok(())
    });
    feature!(checks, "  Strict leaves out the groups of the image", {
        let pod = node.ready("strict").await?;
        let status = own(node, &pod, "main").await?;
        let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap_or_default();
        same!(groups.trim(), "Groups:\t33");
        Ok(())
    });
    feature!(checks, "no capabilities, no new privileges, a read-only root", {
        let pod = node.ready("users").await?;
        let status = own(node, &pod, "tight").await?;
        has!(status, "CapBnd:\t0000000000000000");
        has!(status, "NoNewPrivs:\t1");
        same!(node.code(&pod, "tight", &["write", "/x", ""]).await?, 1);
        Ok(())
    });
    feature!(checks, "seccomp: the default, none, and a profile of the node's", {
        let pod = node.ready("powers").await?;
        has!(own(node, &pod, "plain").await?, "Seccomp:\t2");
        has!(own(node, &pod, "free").await?, "Seccomp:\t0");
        same!(node.code(&pod, "plain", &["mkdir", "/new"]).await?, 0);
        same!(node.code(&pod, "own", &["mkdir", "/new"]).await?, 1);
        Ok(())
    });
    feature!(checks, "privileged, an added capability, a sysctl of the pod", {
        let pod = node.ready("powers").await?;
        let bits = |status: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).context("no CapEff")?;
            Ok(u64::from_str_radix(line, 16)?)
        };
        const SYS_TIME: u32 = 25;
        const SYS_ADMIN: u32 = 21;
        let (strong, timely, plain) = (
            bits(&own(node, &pod, "strong").await?)?,
            bits(&own(node, &pod, "timely").await?)?,
            bits(&own(node, &pod, "plain").await?)?,
        );
        ensure!(strong >> SYS_ADMIN & 1 == 1, "privileged has {strong:x}");
        ensure!(timely >> SYS_TIME & 1 == 1 && plain >> SYS_TIME & 1 == 0, "{timely:x}, {plain:x}");
        same!(
            node.out(&pod, "plain", &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).await?.trim(),
            "7"
        );
        Ok(())
    });
    feature!(checks, "hostUsers false: root inside is nobody outside, volumes included", {
        let pod = node.ready("mapped").await?;
        let map = node.out(&pod, "main", &["cat", "/proc/self/uid_map"]).await?;
        let fields: Vec<u64> = map.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        ensure!(fields.len() == 3 && fields[0] == 0 && fields[1] >= 65536 && fields[2] == 65536, "{map}");
        let outside = read(format!("/proc/{}/status", node.pid(&pod, "main").await?))?;
        has!(outside, format!("Uid:\t{}\t", fields[1]).as_str());
        node.out(&pod, "main", &["write", "/disk/x", ""]).await?;
        let seen = node.out(&pod, "main", &["stat", "/disk/x"]).await?;
        ensure!(seen.starts_with("0 0 "), "{seen}");
        has!(node.out(&pod, "main", &["cat", "/etc/hosts"]).await?, "mapped-node");
        Ok(())
    });
    feature!(checks, "  procMount Unmasked: its /proc without Berth's masks, the other's with", {
        let pod = node.ready("mapped").await?;
        for (container, masked) in [("main", true), ("unmasked", false)] {
            let mounts = node.out(&pod, container, &["cat", "/proc/self/mounts"]).await?;
            let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
            let below: Vec<&str> = points.filter(|point| point.starts_with("/proc/")).collect();
            ensure!(below.contains(&"/proc/keys") == masked, "{container}: {below:?}");
            ensure!(below.contains(&"/proc/sys") == masked, "{container}: {below:?}");
        }
        Ok(())
    });
    feature!(checks, "shareProcessNamespace: each sees the other's processes", {
        let pod = node.ready("shared-pids").await?;
        let first = node.pid(&pod, "main").await?;
        let second = node.pid(&pod, "beside").await?;
        let namespace = |pid: i64| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        ensure!(namespace(first)? == namespace(second)?, "two pid namespaces");
        let seen = node.out(&pod, "main", &["pids"]).await?;
        ensure!(seen.matches("/guest pause").count() == 2, "{seen}");
        Ok(())
    });
    feature!(checks, "hostPID and hostIPC: the host's own", {
        let pod = node.ready("host-pids").await?;
        let pid = node.pid(&pod, "main").await?;
        for kind in ["pid", "ipc"] {
            let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            ensure!(namespace(&pid.to_string())? == namespace("self")?, "another {kind} namespace");
        }
        Ok(())
    });
}
