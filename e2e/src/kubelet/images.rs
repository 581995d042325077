//! Images as the kubelet asks for them, and what a person reads in a pod's status when something is wrong.

use anyhow::{Context as _, Result, ensure};
use berth_cri_api::v1::*;
use serde_json::{Value, json};

use super::node::{Node, status_of};
use crate::checks::{Checks, within};
use crate::image;
use crate::registry::Registry;

/// `lane:lane-secret` and `lane:wrong`, in base64.
const RIGHT: &str = "bGFuZTpsYW5lLXNlY3JldA==";
const WRONG: &str = "bGFuZTp3cm9uZw==";

pub(crate) struct Registries {
    open: Registry,
    /// With the right password in the kubelet's file, with a wrong one, and with none.
    closed: [Registry; 3],
}

impl Registries {
    /// To be called before the kubelet first reads its credentials: it keeps them for five minutes.
    pub(crate) async fn new(node: &Node) -> Result<Self> {
        let archive = node.daemon.path("pushed.tar");
        image::write(&archive, "lane/guest:1", "pulled")?;
        let made = Self {
            open: Registry::start(false).await?,
            closed: [
                Registry::start(true).await?,
                Registry::start(true).await?,
                Registry::start(true).await?,
            ],
        };
        for registry in made.closed.iter().chain([&made.open]) {
            registry.push(&archive, "lane/guest:1")?;
        }
        let mut auths = serde_json::Map::new();
        for (registry, auth) in made.closed.iter().zip([RIGHT, WRONG]) {
            auths.insert(registry.host(), json!({ "auth": auth }));
        }
        std::fs::write(node.daemon.path("kubelet/config.json"), json!({ "auths": auths }).to_string())?;
        Ok(made)
    }
}

/// Name of the pod, what its container has, the reason that the kubelet gives, and what the text must name.
type Mistake = (&'static str, Value, &'static str, Vec<String>);

fn mistakes(registries: &Registries) -> Vec<Mistake> {
    let open = registries.open.host();
    let [_, wrong, none] = registries.closed.each_ref().map(Registry::host);
    let pulled = |image: String| json!({ "image": image, "imagePullPolicy": "IfNotPresent" });
    let nobody = "127.0.0.1:9".to_owned();
    vec![
        (
            "no-image",
            pulled(format!("{open}/lane/none:1")),
            "ErrImagePull",
            vec![format!("{open}/lane/none:1"), "does not exist".into()],
        ),
        (
            "no-tag",
            pulled(format!("{open}/lane/guest:none")),
            "ErrImagePull",
            vec![format!("{open}/lane/guest:none"), "does not exist".into()],
        ),
        (
            "wrong-password",
            pulled(format!("{wrong}/lane/guest:1")),
            "ErrImagePull",
            vec![format!("{wrong}/lane/guest:1"), "credentials".into()],
        ),
        (
            "no-password",
            pulled(format!("{none}/lane/guest:1")),
            "ErrImagePull",
            vec![format!("{none}/lane/guest:1"), "credentials".into()],
        ),
        (
            "no-registry",
            pulled(format!("{nobody}/lane/guest:1")),
            "RegistryUnavailable",
            vec![format!("{nobody}/lane/guest:1"), "refused".into()],
        ),
        ("no-name", pulled("lane/UPPER".into()), "InvalidImageName", vec!["lane/UPPER".into()]),
        (
            "never-here",
            json!({ "image": "berth.test/none:1" }),
            "ErrImageNeverPull",
            vec!["berth.test/none:1".into()],
        ),
        (
            "no-program",
            json!({ "command": ["/no/such/program"] }),
            "RunContainerError",
            vec!["/no/such/program".into(), "the image does not have it".into()],
        ),
        (
            "no-permission",
            json!({ "command": ["/etc/passwd"] }),
            "RunContainerError",
            vec!["/etc/passwd".into(), "not executable for this user".into()],
        ),
        (
            "no-directory",
            json!({ "workingDir": "/etc/passwd" }),
            "RunContainerError",
            vec!["/etc/passwd".into()],
        ),
        (
            "no-capability",
            json!({ "securityContext": { "capabilities": { "add": ["FLY"] } } }),
            "CreateContainerError",
            vec!["FLY".into()],
        ),
        (
            "no-profile",
            json!({ "securityContext": { "seccompProfile": { "type": "Localhost", "localhostProfile": "none.json" } } }),
            "CreateContainerError",
            vec!["none.json".into()],
        ),
        (
            "no-device",
            json!({ "volumeMounts": [{ "name": "disk", "mountPath": "/guest" }] }),
            "RunContainerError",
            vec!["/guest".into(), "the image has a file there".into()],
        ),
        (
            "no-source",
            json!({ "volumeMounts": [{ "name": "below", "mountPath": "/x" }] }),
            "RunContainerError",
            vec!["/a-file/below".into(), "not a directory".into(), "config.mounts.host_path".into()],
        ),
        (
            "dangling",
            json!({ "volumeMounts": [{ "name": "dangling", "mountPath": "/x" }] }),
            "RunContainerError",
            vec!["/dangling".into(), "a link on the host to what does not exist".into()],
        ),
    ]
}

/// What containers may mount: all is right with the first, nothing can be mounted of the others.
fn volumes(node: &Node) -> Result<Value> {
    let [file, dangling] = ["a-file", "dangling"].map(|name| node.daemon.path("host").join(name));
    std::fs::create_dir_all(node.daemon.path("host"))?;
    std::fs::write(&file, "")?;
    std::os::unix::fs::symlink("/no/such/place", &dangling)?;
    Ok(json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "below", "hostPath": { "path": file.join("below") } },
        { "name": "dangling", "hostPath": { "path": dangling } },
    ]))
}

pub(crate) fn put(node: &Node, registries: &Registries) -> Result<()> {
    let volumes = volumes(node)?;
    for (name, mut container, _, _) in mistakes(registries) {
        container["name"] = "main".into();
        if container.get("command").is_none() {
            container["args"] = json!(["pause"]);
        }
        node.put(name, &json!({ "containers": [container], "volumes": volumes }))?;
    }
    let [right, ..] = registries.closed.each_ref().map(Registry::host);
    for (name, image, policy) in [
        ("pulled", format!("{}/lane/guest:1", registries.open.host()), "Always"),
        ("secret", format!("{right}/lane/guest:1"), "IfNotPresent"),
        ("imported", crate::daemon::IMAGE.to_owned(), "IfNotPresent"),
    ] {
        node.put(
            name,
            &json!({ "containers": [
            { "name": "main", "args": ["pause"], "image": image, "imagePullPolicy": policy }] }),
        )?;
    }
    Ok(())
}

pub(crate) async fn check(checks: &mut Checks, node: &Node, registries: &Registries) {
    feature!(checks, "images: pulled always, with the node's password, and imported", {
        for (name, greeting) in [("pulled", "pulled"), ("secret", "pulled"), ("imported", "hello")] {
            let pod = node.ready(name).await?;
            same!(node.out(&pod, "main", &["cat", "/greeting"]).await?, greeting);
            let id = status_of(&pod, "main")["imageID"].as_str().context("no imageID")?.to_owned();
            ensure!(id.contains("sha256:"), "imageID {id}");
            node.remove(name)?;
        }
        Ok(())
    });
    for (name, _, reason, parts) in mistakes(registries) {
        feature!(checks, &format!("{reason}: {name}"), {
            let said = std::cell::RefCell::new(String::new());
            node.until(name, reason, |pod| {
                let main = status_of(pod, "main");
                for at in ["/state/waiting", "/state/terminated", "/lastState/terminated"] {
                    let at = main.pointer(at).cloned().unwrap_or_default();
                    // What did not start is told as an end: the reason is Berth's then.
                    let is = at["reason"] == reason
                        || reason == "RunContainerError" && at["reason"] == "StartError"
                        // The next state of what cannot be pulled, with the same text.
                        || at["reason"] == "ImagePullBackOff";
                    if is && at["message"].is_string() {
                        *said.borrow_mut() = at["message"].as_str().unwrap_or_default().to_owned();
                        return true;
                    }
                }
                false
            })
            .await?;
            let said = said.into_inner();
            println!("      {said}");
            for part in &parts {
                has!(said, part.as_str());
            }
            ensure!(!said.contains("lane:") && !said.contains("secret"), "it tells a password: {said}");
            Ok(())
        });
    }
    feature!(checks, "ImagePullBackOff: why, as well", {
        let pod = node
            .until("no-image", "in back-off", |pod| {
                status_of(pod, "main")["state"]["waiting"]["reason"] == "ImagePullBackOff"
            })
            .await?;
        has!(status_of(&pod, "main")["state"]["waiting"]["message"].to_string(), "does not exist");
        Ok(())
    });
    for (name, ..) in mistakes(registries) {
        let _ = node.remove(name);
    }
}

/// The kubelet's own removal of what nobody needs: dead containers beyond the last, and images when space is short.
pub(crate) async fn collected(checks: &mut Checks, node: &mut Node) {
    feature!(checks, "container GC: of a pod's dead containers the last stays", {
        node.until("always", "restarted often", |pod| {
            status_of(pod, "main")["restartCount"].as_u64() >= Some(4)
        })
        .await?;
        within(100, "the dead containers to be removed", || async {
            let list = ListContainersRequest::default();
            let all = node.client.clone().runtime.list_containers(list).await?.into_inner().containers;
            let of = all
                .iter()
                .filter(|c| c.labels.get("io.kubernetes.pod.name").is_some_and(|name| name == "always-node"));
            Ok((of.count() <= 2).then_some(()))
        })
        .await
    });
}

/// With no pod left: every image goes.
pub(crate) async fn reclaimed(checks: &mut Checks, node: &mut Node) {
    feature!(checks, "image GC: short of space, the kubelet removes what no container has", {
        ensure!(images(node).await? > 0, "no image to remove");
        node.kill()?;
        node.settings = json!({ "imageMinimumGCAge": "1s", "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%",
            "imagefs.available": "99.9%" } });
        node.start().await?;
        within(60, "the images to be removed", || async { Ok((images(node).await? == 0).then_some(())) })
            .await
    });
}

async fn images(node: &Node) -> Result<usize> {
    node.client.clone().images().await
}
