//! The kubelet itself, standalone, runs its node on Berth: what a pod asks for is looked at from the kubelet's /pods, from
//! inside the containers and from the host.

/// One feature: what is wrong is told under its name, and the lane goes on.
macro_rules! feature {
    ($checks:expr, $what:expr, $body:block) => {{
        let done: anyhow::Result<()> = async { $body }.await;
        $checks.note($what, done.map_err(|error| format!("{error:#}")));
    }};
}
/// That a text has this part, or an error that shows it.
macro_rules! has {
    ($value:expr, $part:expr) => {
        match (&$value, $part) {
            (value, part) => anyhow::ensure!(value.contains(part), "no {part:?} in {value}"),
        }
    };
}
/// That two values are equal, or an error that shows them.
macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                anyhow::ensure!(*left == *right, "{} is {left:?}, not {right:?}", stringify!($left))
            }
        }
    };
}

mod containers;
mod figures;
mod images;
mod logind;
mod network;
mod node;
mod observed;
mod own;
mod place;
mod process;
mod restarts;
mod security;
mod streams;
mod volumes;

use anyhow::{Context as _, Result, bail};
use berth_cri_api::v1::*;

pub(crate) use self::figures::bench;
pub(crate) use self::own::serve;
pub(crate) use self::place::prepare;

use self::node::Node;
use crate::audit::{Footprint, given_back};
use crate::checks::{Checks, within};
use crate::client::Client;

/// Each can be run alone: `cargo xtask e2e kubelet GROUP`.
const GROUPS: [&str; 12] = [
    "containers",
    "volumes",
    "security",
    "network",
    "observed",
    "streams",
    "images",
    "collected",
    "restarts",
    "evented",
    "reboot",
    "shutdown",
];

pub(crate) async fn lane(checks: &mut Checks, focus: Option<&str>) -> Result<()> {
    if let Some(focus) = focus.filter(|focus| !GROUPS.contains(focus)) {
        bail!("no group {focus:?}; there are {}", GROUPS.join(", "));
    }
    let mut node = Node::new().await?;
    let done = run(checks, &mut node, focus).await;
    if let Err(error) = &done {
        eprintln!("{error:#}\n{}", node.tails());
    }
    keep_logs(&node)?;
    done.and(node.reset().await)
}

/// Where a person may read them after the lane.
fn keep_logs(node: &Node) -> Result<()> {
    if let Some(home) = std::env::var_os("BERTH_E2E_KUBELET_LOGS") {
        std::fs::create_dir_all(&home)?;
        let home = std::path::Path::new(&home);
        for (from, name) in [(node.log(), "kubelet.log"), (node.daemon.path("log"), "daemon.log")] {
            std::fs::copy(from, home.join(name))?;
        }
        println!("  the logs of kubelet and daemon: {}", home.display());
    }
    Ok(())
}

async fn run(checks: &mut Checks, node: &mut Node, focus: Option<&str>) -> Result<()> {
    checks.that("the kubelet answers", node.get("/pods").await.is_ok(), "");
    let registries = images::Registries::new(node).await?;
    let before = Footprint::take(&node.daemon)?;
    // All at once, so that nobody waits for one after the other.
    containers::put(node)?;
    volumes::put(node)?;
    security::put(node)?;
    network::put(node)?;
    observed::put(node)?;
    streams::put(node)?;
    images::put(node, &registries)?;
    for group in GROUPS.iter().filter(|group| focus.is_none_or(|focus| focus == **group)) {
        match *group {
            "containers" => containers::check(checks, node).await,
            "volumes" => volumes::check(checks, node).await,
            "security" => security::check(checks, node).await,
            "network" => network::check(checks, node).await,
            "observed" => observed::check(checks, node).await,
            "streams" => streams::check(checks, node).await,
            "images" => images::check(checks, node, &registries).await,
            "collected" => images::collected(checks, node).await,
            "restarts" => restarts::check(checks, node).await,
            "evented" => restarts::evented(checks, node).await,
            "reboot" => restarts::reboot(checks, node).await,
            _ => restarts::shutdown(checks, node).await,
        }
    }
    end(checks, node).await?;
    images::reclaimed(checks, node).await;
    let given = given_back(&node.daemon, &before).await;
    if given.is_err() {
        eprintln!("{}", rows(node)?);
    }
    checks.note("no directory, row or descriptor is left", given);
    Ok(())
}

/// What the database still has of sandboxes.
fn rows(node: &Node) -> Result<String> {
    let store = rusqlite::Connection::open(node.daemon.path("root/berth.db"))?;
    let mut all = store.prepare("SELECT record FROM sandboxes")?;
    let found = all.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(found.join("\n"))
}

/// Every manifest goes, and everything with it.
async fn end(checks: &mut Checks, node: &Node) -> Result<()> {
    node.remove_all()?;
    let gone = within(150, "the pods to be gone", || async {
        let mut client = node.client.clone();
        let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
        let told = node.get_json("/pods").await?;
        let left = std::fs::read_dir(node.daemon.path("kubelet/pods"))?.count();
        let none = pods.into_inner().items.is_empty()
            && told["items"].as_array().is_none_or(Vec::is_empty)
            && left == 0;
        Ok(none.then_some(()))
    })
    .await;
    checks.note(
        "every manifest removed: no pod, sandbox or volume is left",
        gone.map_err(|e| format!("{e:#}")),
    );
    Ok(())
}

async fn pid_of(client: &mut Client, container: &str) -> Result<i64> {
    let request = ContainerStatusRequest { container_id: container.into(), verbose: true };
    let info = client.runtime.container_status(request).await?.into_inner().info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose info")?)?;
    info["pid"].as_i64().context("no pid")
}
