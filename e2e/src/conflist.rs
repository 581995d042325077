//! CNI configurations of the lanes, and which one a daemon uses.

use anyhow::Result;
use berth_cri_api::v1::StatusRequest;
use serde_json::Value;

use crate::checks::until;
use crate::client::Client;
use crate::daemon::Daemon;

/// What the verbose status says of the configuration of pods without a handler of their own.
pub(crate) async fn shown(daemon: &Daemon) -> Result<Value> {
    let request = StatusRequest { verbose: true };
    let info = Client::connect(&daemon.socket()).await?.runtime.status(request).await?.into_inner().info;
    let all: Value = serde_json::from_str(info.get("cniconfig").map_or("null", String::as_str))?;
    Ok(all["handlers"][""].clone())
}

/// Waits until the configuration in use is as wanted.
pub(crate) async fn in_use(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    until("the configuration to be in use", || async { Ok(wanted(&shown(daemon).await?).then_some(())) })
        .await
}
