//! The daemon killed while a plugin works, at each step: the plugin ends, the next daemon undoes, a retry succeeds.

use anyhow::Result;
use berth_cri_api::v1::*;

use super::recorder::{Recorder, Told};
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, daemon: &mut Daemon, recorder: &Recorder) -> Result<()> {
    for (verb, plugin) in [("ADD", "rec-a"), ("ADD", "rec-b"), ("DEL", "rec-b"), ("DEL", "rec-a")] {
        let done = one(daemon, recorder, verb, plugin).await;
        checks.note(
            &format!("killed in {verb} of {plugin}: undone, and a retry succeeds"),
            done.map_err(|e| format!("{e:#}")),
        );
    }
    Ok(())
}

async fn one(daemon: &mut Daemon, recorder: &Recorder, verb: &str, plugin: &str) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = pod("cut", &daemon.path("logs"));
    let id = match verb {
        "DEL" => Some(client.run_pod(&config).await?),
        _ => None,
    };
    recorder.forget()?;
    let mark = recorder.path("pid");
    let _ = std::fs::remove_file(&mark);
    recorder.behave(
        plugin,
        verb,
        "echo $$ > \"$home/pid.new\"; mv \"$home/pid.new\" \"$home/pid\"; sleep 600",
    )?;
    let call = {
        let (mut client, config, id) = (client.clone(), config.clone(), id.clone());
        tokio::spawn(async move {
            match id {
                Some(id) => client.remove_pod(&id).await.map(drop),
                None => client.run_pod(&config).await.map(drop),
            }
        })
    };
    let pid = until("the plugin to work", || async { Ok(std::fs::read_to_string(&mark).ok()) }).await?;
    daemon.kill()?;
    let _ = call.await?;
    recorder.behave(plugin, verb, "")?;
    let mut client = daemon.start().await?;
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    holds!(state.is_empty() || state.contains(") Z "), "the plugin of before still runs: {state}");
    recorder.ready(daemon).await?;
    if let Some(id) = &id {
        client.remove_pod(id).await?;
    }
    until("everything to be given back", || async { Ok(recorder.left(daemon)?.is_empty().then_some(())) })
        .await?;
    let dels: Vec<_> = recorder.calls()?.into_iter().filter(|call| call.verb == "DEL").collect();
    let last: Vec<&str> = dels.iter().rev().take(2).map(|call| call.plugin.as_str()).collect();
    holds!(last == ["rec-a", "rec-b"], "{dels:?}");
    // What the plugins before the one that was cut off said was kept.
    let told = |call: &Told| call.input["prevResult"]["ips"][0]["address"] == "10.9.8.7/24";
    let said = (verb, plugin) != ("ADD", "rec-a");
    holds!(dels.iter().all(|call| told(call) == said), "{dels:?}");
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    holds!(pods.is_empty(), "{pods:?}");
    let again = client.run_pod(&config).await?;
    let ip = client.pod_ip(&again).await?;
    holds!(ip == "10.9.8.7", "the address is {ip:?}");
    client.remove_pod(&again).await
}
