//! Every released version of the specification, and who agrees on which.

use anyhow::Result;
use serde_json::json;

use super::recorder::{Recorder, chain};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

pub(super) async fn all(checks: &mut Checks, daemon: &Daemon, recorder: &Recorder) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let single = json!({ "cniVersion": version, "name": "lane", "type": "rec-a" });
        let conf = if version < "0.3.0" { single } else { chain(version) };
        let result = one(&mut client, daemon, recorder, &conf, version).await;
        checks.note(
            &format!("CNI {version}: told so, and prevResult where it has one"),
            result.map_err(|e| format!("{e:#}")),
        );
    }
    let mut conf = chain("0.4.0");
    conf["cniVersions"] = json!(["0.3.1", "1.0.0", "1.1.0", "7.0.0"]);
    recorder.behave(
        "rec-b",
        "VERSION",
        r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0"#,
    )?;
    // A program that is another than before is asked again.
    recorder.install("rec-b")?;
    let result = one(&mut client, daemon, recorder, &conf, "1.0.0").await;
    checks
        .note("several versions: the newest that every plugin speaks", result.map_err(|e| format!("{e:#}")));
    recorder.configure(&chain("1.1.0"))?;
    let told = recorder
        .not_ready(daemon, "plugin rec-b speaks CNI 0.4.0, 1.0.0, the configuration is for 1.1.0")
        .await;
    checks.note(
        "one that a plugin does not speak: NetworkReady=false says so",
        told.map_err(|e| format!("{e:#}")),
    );
    recorder.behave("rec-b", "VERSION", "")?;
    recorder.install("rec-b")?;
    recorder.configure(&chain("1.9.0"))?;
    let told = recorder.not_ready(daemon, "10-lane.conflist: CNI version \"1.9.0\"").await;
    checks.note("one that Berth does not speak: the same", told.map_err(|e| format!("{e:#}")));
    recorder.configure(&chain("1.1.0"))?;
    recorder.ready(daemon).await
}

async fn one(
    client: &mut Client,
    daemon: &Daemon,
    recorder: &Recorder,
    conf: &serde_json::Value,
    version: &str,
) -> Result<()> {
    recorder.configure(conf)?;
    // By its own words: what was in use before is ready too.
    in_use(daemon, |shown| shown["version"] == version).await?;
    recorder.ready(daemon).await?;
    recorder.forget()?;
    let id = client.run_pod(&pod("versioned", &daemon.path("logs"))).await?;
    let ip = client.pod_ip(&id).await?;
    holds!(ip == "10.9.8.7", "the address is {ip:?}");
    client.remove_pod(&id).await?;
    for call in recorder.calls()? {
        holds!(call.input["cniVersion"] == version, "told {}", call.input["cniVersion"]);
        let (first, previous) = (call.plugin == "rec-a", !call.input["prevResult"].is_null());
        let wanted = if call.verb == "ADD" { !first } else { version >= "0.4.0" };
        holds!(previous == wanted, "prevResult of {} {}: {previous}", call.verb, call.plugin);
        holds!(!previous || call.input["prevResult"]["cniVersion"] == version, "{}", call.input);
    }
    Ok(())
}
