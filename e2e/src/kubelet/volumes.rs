//! What the kubelet mounts into containers.

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::node::{Node, read};
use crate::checks::Checks;
use crate::daemon::IMAGE;

pub(crate) fn put(node: &Node) -> Result<()> {
    let host = node.daemon.path("host/volume");
    let below = host.join("below");
    for directory in [&host, &below] {
        std::fs::create_dir_all(directory)?;
    }
    // Later mounts come into a container only from a shared one.
    mount(Some(&host), &host, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    mount(None::<&str>, &host, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    mount(Some("lane"), &below, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))
        .with_context(|| below.display().to_string())?;
    std::fs::write(host.join("file"), "of the host")?;
    let volume = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let mut ro = volume("host", "/ro");
    ro["readOnly"] = true.into();
    // Recursively read-only is for a kubelet with an API server: without its runtime classes it takes no runtime to be
    // able (kubelet_pods.go, runtimeClassSupportsRecursiveReadOnlyMounts). This one must then be as plain as the other.
    let mut possible = volume("host", "/possible");
    possible["readOnly"] = true.into();
    possible["recursiveReadOnly"] = "IfPossible".into();
    let mut sub = volume("disk", "/sub");
    sub["subPath"] = "deep/er".into();
    let mut expanded = volume("disk", "/expanded");
    expanded["subPathExpr"] = "of-$(POD)".into();
    let mut propagated = volume("host", "/propagated");
    propagated["mountPropagation"] = "HostToContainer".into();
    let field =
        |path: &str| json!({ "path": path.replace(['.', '/'], "-"), "fieldRef": { "fieldPath": path } });
    let mut given = volume("host", "/given");
    given["mountPropagation"] = "Bidirectional".into();
    node.put_pod(&json!({
        "metadata": { "name": "volumes", "labels": { "colour": "green" } },
        "spec": {
            "containers": [{
                "name": "main", "args": ["pause"],
                "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } }],
                "resources": { "limits": { "memory": "32Mi" } },
                "volumeMounts": [volume("disk", "/disk"), volume("memory", "/memory"), volume("file", "/file"),
                    volume("downward", "/downward"), volume("image", "/image"), volume("host", "/rw"),
                    ro, possible, sub, expanded, propagated],
            }, { "name": "giver", "args": ["pause"], "securityContext": { "privileged": true }, "volumeMounts": [given],
            }, { "name": "reader", "args": ["pause"], "volumeMounts": [volume("disk", "/disk")] }],
            "volumes": [
                { "name": "disk", "emptyDir": {} },
                { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
                { "name": "host", "hostPath": { "path": host } },
                { "name": "file", "hostPath": { "path": host.join("file"), "type": "File" } },
                { "name": "image", "image": { "reference": IMAGE, "pullPolicy": "Never" } },
                // A projected volume wants an API server's client, whatever it has (volume/projected); this is the same data.
                { "name": "downward", "downwardAPI": { "defaultMode": 288, "items": [
                    field("metadata.labels"), field("metadata.name"),
                    { "path": "limit", "resourceFieldRef": { "containerName": "main", "resource": "limits.memory" } },
                ] } },
            ],
        },
    }))
}

pub(crate) async fn check(checks: &mut Checks, node: &Node) {
    feature!(checks, "emptyDir: shared by the pod's containers, on the host's disk", {
        let pod = node.ready("volumes").await?;
        node.out(&pod, "main", &["write", "/disk/note", "from main"]).await?;
        same!(node.out(&pod, "reader", &["cat", "/disk/note"]).await?, "from main");
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let on_disk = format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/disk/note");
        same!(read(node.daemon.path(&on_disk))?, "from main");
        Ok(())
    });
    feature!(checks, "  in memory: a tmpfs of its size", {
        let pod = node.ready("volumes").await?;
        let mounts = node.out(&pod, "main", &["cat", "/proc/self/mounts"]).await?;
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/memory")).unwrap_or_default();
        has!(line, "tmpfs");
        has!(line, "size=8192k");
        Ok(())
    });
    feature!(checks, "hostPath: a directory, and a file", {
        let pod = node.ready("volumes").await?;
        same!(node.out(&pod, "main", &["cat", "/file", "/rw/file"]).await?, "of the hostof the host");
        node.out(&pod, "main", &["write", "/rw/back", "to the host"]).await?;
        same!(read(node.daemon.path("host/volume/back"))?, "to the host");
        Ok(())
    });
    feature!(checks, "the downward API: labels, name and limits, with their mode; and in the environment", {
        let pod = node.ready("volumes").await?;
        let seen = node
            .out(
                &pod,
                "main",
                &["cat", "/downward/metadata-labels", "/downward/metadata-name", "/downward/limit"],
            )
            .await?;
        same!(seen, format!("colour=\"green\"volumes-node{}", 32 << 20));
        has!(node.out(&pod, "main", &["stat", "/downward/..data/limit"]).await?, "100440");
        let env = node.out(&pod, "main", &["env"]).await?;
        has!(env, "POD=volumes-node");
        has!(env, format!("LIMIT={}", 32 << 20).as_str());
        Ok(())
    });
    feature!(checks, "subPath and subPathExpr: a directory below the volume", {
        let pod = node.ready("volumes").await?;
        node.out(&pod, "main", &["write", "/sub/x", "deep"]).await?;
        same!(node.out(&pod, "reader", &["cat", "/disk/deep/er/x"]).await?, "deep");
        node.out(&pod, "main", &["write", "/expanded/x", "named"]).await?;
        same!(node.out(&pod, "reader", &["cat", "/disk/of-volumes-node/x"]).await?, "named");
        Ok(())
    });
    feature!(checks, "read-only: what is mounted, not what is mounted below", {
        let pod = node.ready("volumes").await?;
        for (path, code) in [("/ro/x", 1), ("/ro/below/x", 0), ("/possible/x", 1), ("/possible/below/x", 0)] {
            let seen = node.code(&pod, "main", &["write", path, ""]).await?;
            ensure!(seen == code, "writing {path} ended with {seen}");
        }
        Ok(())
    });
    feature!(checks, "mount propagation: a later mount of the host comes in, only where asked", {
        let pod = node.ready("volumes").await?;
        let late = node.daemon.path("host/volume/late");
        std::fs::create_dir_all(&late)?;
        mount(Some("lane"), &late, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))?;
        std::fs::write(late.join("x"), "late")?;
        same!(node.out(&pod, "main", &["cat", "/propagated/late/x"]).await?, "late");
        same!(node.code(&pod, "main", &["cat", "/rw/late/x"]).await?, 1);
        Ok(())
    });
    feature!(checks, "  Bidirectional: a container's own mount comes out, and into the others", {
        let pod = node.ready("volumes").await?;
        node.out(&pod, "giver", &["do", "mkdir", "/given/made", "then", "mount-tmpfs", "/given/made"])
            .await?;
        node.out(&pod, "giver", &["write", "/given/made/x", "given"]).await?;
        same!(read(node.daemon.path("host/volume/made/x"))?, "given");
        same!(node.out(&pod, "main", &["cat", "/propagated/made/x"]).await?, "given");
        same!(node.code(&pod, "main", &["cat", "/rw/made/x"]).await?, 1);
        Ok(())
    });
    feature!(checks, "an image as a volume", {
        let pod = node.ready("volumes").await?;
        same!(node.out(&pod, "main", &["cat", "/image/greeting"]).await?, "hello");
        same!(node.code(&pod, "main", &["write", "/image/x", ""]).await?, 1);
        Ok(())
    });
}
