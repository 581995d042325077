//! Lists: what they show, by which filters, and that one broken object spoils none.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;

use crate::checks::{Checks, until};
use crate::client::{Client, args, pod};
use crate::daemon::Daemon;

/// Every object and its state, for telling whether a request changed anything.
pub(super) async fn everything(client: &mut Client) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for pod in client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items {
        all.insert(format!("pod {} {}", pod.id, pod.state));
    }
    let containers = client.runtime.list_containers(ListContainersRequest::default()).await?.into_inner();
    for container in containers.containers {
        all.insert(format!("container {} {}", container.id, container.state));
        let resources = client.status(&container.id).await?.resources;
        all.insert(format!("limits {} {resources:?}", container.id));
    }
    for image in client.images.list_images(ListImagesRequest::default()).await?.into_inner().images {
        all.insert(format!("image {} {:?}", image.id, image.repo_tags));
    }
    Ok(all)
}

async fn pods(client: &mut Client, filter: PodSandboxFilter) -> Result<BTreeSet<String>> {
    let request = ListPodSandboxRequest { filter: Some(filter) };
    let items = client.runtime.list_pod_sandbox(request).await?.into_inner().items;
    Ok(items.into_iter().map(|pod| pod.id).collect())
}

async fn containers(client: &mut Client, filter: ContainerFilter) -> Result<BTreeSet<String>> {
    let request = ListContainersRequest { filter: Some(filter) };
    let found = client.runtime.list_containers(request).await?.into_inner().containers;
    Ok(found.into_iter().map(|container| container.id).collect())
}

fn set(ids: &[&String]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).clone()).collect()
}

pub(super) async fn run(checks: &mut Checks, daemon: &mut Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let mut red = pod("red", &daemon.path("logs"));
    red.labels = [("colour".into(), "red".into()), ("size".into(), "big".into())].into();
    red.annotations = [("a/ä".into(), " two\nlines\t".into())].into();
    let mut blue = pod("blue", &daemon.path("logs"));
    blue.labels = [("colour".into(), "blue".into()), ("size".into(), "big".into())].into();
    let red_id = client.run_pod(&red).await?;
    let blue_id = client.run_pod(&blue).await?;
    let one = client.run(&red_id, &red, "one", args(&["sleep", "1000"])).await?;
    let two = client.create(&red_id, &red, "two", args(&["true"])).await?;
    let other = client.run(&blue_id, &blue, "one", args(&["true"])).await?;
    client.ended(&other).await?;

    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let found =
        pods(&mut client, PodSandboxFilter { label_selector: label("colour", "red"), ..Default::default() });
    let found = found.await?;
    checks.that("pods by a label", found == set(&[&red_id]), format!("{found:?}"));
    let both = PodSandboxFilter {
        label_selector: [("colour".into(), "blue".into()), ("size".into(), "big".into())].into(),
        ..Default::default()
    };
    let found = pods(&mut client, both).await?;
    checks.that("  by all labels, not by any", found == set(&[&blue_id]), format!("{found:?}"));
    let found = pods(&mut client, PodSandboxFilter { id: red_id[..12].into(), ..Default::default() }).await?;
    checks.that("  by the first letters of the id", found == set(&[&red_id]), format!("{found:?}"));
    let nothing = PodSandboxFilter { id: red_id[1..13].into(), ..Default::default() };
    let found = pods(&mut client, nothing).await?;
    checks.that("  not by letters from the middle", found.is_empty(), format!("{found:?}"));

    let found =
        containers(&mut client, ContainerFilter { pod_sandbox_id: red_id.clone(), ..Default::default() });
    let found = found.await?;
    checks.that("containers of a pod", found == set(&[&one, &two]), format!("{found:?}"));
    let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    for (word, wanted, state) in [
        ("running", &one, state(ContainerState::ContainerRunning)),
        ("created", &two, state(ContainerState::ContainerCreated)),
        ("ended", &other, state(ContainerState::ContainerExited)),
    ] {
        let found = containers(&mut client, ContainerFilter { state, ..Default::default() }).await?;
        checks.that(&format!("  that are {word}"), found == set(&[wanted]), format!("{found:?}"));
    }
    let filter = ContainerFilter {
        id: two[..10].into(),
        pod_sandbox_id: red_id.clone(),
        state: state(ContainerState::ContainerRunning),
        ..Default::default()
    };
    let found = containers(&mut client, filter).await?;
    checks.that("  by all conditions at once", found.is_empty(), format!("{found:?}"));

    let request = PodSandboxStatusRequest { pod_sandbox_id: red_id.clone(), verbose: true };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner();
    let told = status.status.unwrap_or_default();
    let same = told.labels == red.labels && told.annotations == red.annotations;
    checks.that("labels and annotations come back byte for byte", same, format!("{:?}", told.annotations));
    let of_pod = info(&status.info)?;
    let spaces = of_pod["runtimeSpec"]["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let path =
        spaces.iter().find(|space| space["type"] == "network").and_then(|space| space["path"].as_str());
    let namespace = path.map(std::fs::read_link).transpose()?;
    let request = ContainerStatusRequest { container_id: one.clone(), verbose: true };
    let of_container = info(&client.runtime.container_status(request).await?.into_inner().info)?;
    let inside = std::fs::read_link(format!("/proc/{}/ns/net", of_container["pid"]))?;
    let same = namespace.as_ref() == Some(&inside);
    checks.that("verbose: a pod's network namespace is its containers'", same, of_pod);
    let program =
        of_container["runtimeSpec"]["process"]["args"] == serde_json::json!(["/guest", "sleep", "1000"]);
    checks.that("  a container's OCI spec", program, of_container);
    let request = ImageStatusRequest {
        image: Some(ImageSpec { image: crate::daemon::IMAGE.into(), ..Default::default() }),
        verbose: true,
    };
    let of_image = info(&client.images.image_status(request).await?.into_inner().info)?;
    let told = of_image["chainID"].as_str().is_some_and(|id| id.starts_with("sha256:"));
    checks.that("  an image's config and the id of its layers", told, of_image);
    let status = client.runtime.status(StatusRequest { verbose: true }).await?.into_inner();
    let config = status.info.get("config").map(|text| serde_json::from_str::<serde_json::Value>(text));
    let keyed = config.transpose()?.is_some_and(|config| config.get("sandboxImage").is_some());
    checks.that("  the daemon's configuration, with the key that kubeadm reads", keyed, "no such key");

    broken(checks, daemon, &two, &[&one, &other]).await?;
    let mut client = Client::connect(&daemon.socket()).await?;
    client.remove_pod(&red_id).await?;
    client.remove_pod(&blue_id).await?;
    let left = until("the broken container's row to go with its pod", || {
        let mut client = client.clone();
        async move {
            let all = containers(&mut client, ContainerFilter::default()).await?;
            Ok(all.is_empty().then_some(all))
        }
    });
    checks.note("a broken container goes with its pod", left.await.map(drop));
    Ok(())
}

/// The verbose map's one document.
fn info(map: &std::collections::HashMap<String, String>) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(map.get("info").context("no verbose info")?)?)
}

/// A record that the next daemon cannot read.
async fn broken(checks: &mut Checks, daemon: &mut Daemon, id: &str, whole: &[&String]) -> Result<()> {
    daemon.kill()?;
    let store = rusqlite::Connection::open(daemon.path("root/berth.db"))?;
    let changed = store.execute("UPDATE containers SET record = '{\"id\": 7' WHERE id = ?1", [id])?;
    anyhow::ensure!(changed == 1, "no row of {id}");
    drop(store);
    let mut client = daemon.start().await.context("start with a record that cannot be read")?;
    let found = containers(&mut client, ContainerFilter::default()).await?;
    let there = whole.iter().all(|id| found.contains(*id));
    checks.that("a record that cannot be read hides no other object", there, format!("{found:?}"));
    let told = std::fs::read_to_string(daemon.path("log"))?;
    let lines = told.lines().filter(|line| line.contains(id) && line.contains("ERROR")).count();
    checks.that("  and is told once, with its id", lines == 1, lines);
    Ok(())
}
