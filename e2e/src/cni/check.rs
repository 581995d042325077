//! CHECK, which `berth network check` asks the plugins of a pod for.

use anyhow::Result;

use super::recorder::{Recorder, chain};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// The line about the plugins.
fn line(daemon: &Daemon) -> Result<(i32, String)> {
    let (code, text) = daemon.says(&["network", "check", "checked"])?;
    let line = text.lines().find(|line| line.contains(" CNI CHECK ")).unwrap_or(&text);
    Ok((code, line.to_owned()))
}

pub(super) async fn all(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let id = client.run_pod(&pod("checked", &daemon.path("logs"))).await?;
    recorder.forget()?;
    let (_, said) = line(daemon)?;
    let asked = said.starts_with("ok ") && said.ends_with("rec-a (program), rec-b (program)");
    let order = recorder.order()?;
    checks.that(
        "network check: CHECK of the plugins in their order",
        asked && order == ["CHECK rec-a", "CHECK rec-b"],
        format!("{said} {order:?}"),
    );
    let result = &client.pod_info(&id).await?["network"]["cni"]["result"];
    let calls = recorder.calls()?;
    let told = |one: &super::recorder::Told| {
        one.input["prevResult"] == *result
            && one.container == id
            && one.inode != "-"
            && one.interface == "eth0"
    };
    let all = calls.len() == 2 && result["ips"].is_array() && calls.iter().all(told);
    checks.that("  told the result and the namespace", all, format!("{calls:?} but {result}"));

    recorder.behave("rec-b", "CHECK", "echo '{\"code\":100,\"msg\":\"the lease is gone\"}'; exit 1")?;
    let (code, said) = line(daemon)?;
    let words = "plugin rec-b of network lane: CHECK: the lease is gone (code 100)";
    let named = code == 1 && said.starts_with("FAIL ") && said.contains(words);
    checks.that("  one that has lost something is named with its words", named, said);
    recorder.behave("rec-b", "CHECK", "sleep 600")?;
    let (_, said) = line(daemon)?;
    let named = said.starts_with("FAIL ") && said.contains("rec-b") && said.contains("did not end within 2s");
    checks.that("  one that hangs is waited for 2 s", named, said);
    recorder.behave("rec-b", "CHECK", "")?;
    let (_, drawn) = daemon.says(&["network", "inspect", "checked"])?;
    let shown = drawn.contains("CNI network lane, version 1.1.0") && drawn.contains("rec-a (program)");
    checks.that("network inspect shows the plugins", shown, drawn);
    let (code, said) = daemon.says(&["network", "reset", "--yes"])?;
    checks.that(
        "network reset is refused as long as it is there",
        code == 1 && said.contains("demo/checked"),
        said,
    );
    client.remove_pod(&id).await?;

    let mut quiet = chain("1.1.0");
    quiet["disableCheck"] = true.into();
    for (conf, words) in [(quiet, "says disableCheck"), (chain("0.3.1"), "CNI 0.3.1 has no CHECK")] {
        recorder.configure(&conf)?;
        recorder.ready(daemon).await?;
        let id = crate::checks::until("a pod of that configuration", || async {
            let mut client = Client::connect(&daemon.socket()).await?;
            let id = client.run_pod(&pod("checked", &daemon.path("logs"))).await?;
            let record = &client.pod_info(&id).await?["network"]["cni"];
            let same = record["version"] == conf["cniVersion"]
                && record["disable_check"] == conf.get("disableCheck").is_some();
            if !same {
                client.remove_pod(&id).await?;
            }
            Ok(same.then_some(id))
        })
        .await?;
        recorder.forget()?;
        let (_, said) = line(daemon)?;
        let skipped = said.starts_with("skipped ") && said.contains(words) && recorder.order()?.is_empty();
        checks.that(&format!("  not asked: {words}"), skipped, said);
        client.remove_pod(&id).await?;
    }
    recorder.configure(&chain("1.1.0"))?;
    recorder.ready(daemon).await
}
