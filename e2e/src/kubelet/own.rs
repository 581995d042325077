//! A person's own node: the same kubelet over the same Berth, in a directory that a person knows, until SIGTERM.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::node::Node;
use super::place::{Cgroups, prepare_mounts};
use crate::daemon::Daemon;

/// Of the API, of reading, and of health: the kubelet's usual ones.
const PORTS: [u16; 3] = [10250, 10255, 10248];
const NAME: &str = "node";

/// `home/ready` is there while the node answers.
pub(crate) async fn serve(home: Option<&str>) -> Result<()> {
    let home = PathBuf::from(home.context("the directory of the node is missing")?);
    let mut ends = signal(SignalKind::terminate())?;
    let mut stops = signal(SignalKind::interrupt())?;
    prepare_mounts()?;
    std::fs::create_dir_all(&home)?;
    let cgroups = Cgroups::new("berth-own-node".into())?;
    let daemon = Daemon::at(home.clone(), NAME).await?;
    let node = Node::over(daemon, cgroups, PORTS, None).await?;
    std::fs::write(home.join("ready"), "")?;
    tokio::select! { _ = ends.recv() => {}, _ = stops.recv() => {} }
    std::fs::remove_file(home.join("ready"))?;
    node.reset().await
}
