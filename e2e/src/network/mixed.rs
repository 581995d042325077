//! A chain of which one plugin is a program and the next is not: what each kept of a pod goes with the pod.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use super::kind::Kind;
use super::machine::{Machine, OWN, ip};
use super::pods::Served;
use super::ports::tcp;
use super::restarts::{CLEARED, empty};
use super::traffic::answers;
use crate::checks::Checks;
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// In a configuration that asks the bridge for what needs its program.
pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    // Comes before the lane's own by its name.
    let file = daemon.path("cni/00-mixed.conflist");
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": "mixed",
        "plugins": [
            {
                "type": "bridge", "bridge": "lane1", "isDefaultGateway": true, "hairpinMode": true, "enabledad": true,
                "ipam": {
                    "type": "host-local", "dataDir": daemon.path("ipam"),
                    "ranges": [[{ "subnet": "10.78.0.0/24" }], [{ "subnet": "fd00:78::/64" }]],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    std::fs::write(&file, conf.to_string())?;
    in_use(daemon, |shown| {
        let by = |at: usize| shown["plugins"][at]["in_process"].as_bool();
        shown["network"] == "mixed"
            && shown["problem"].is_null()
            && [by(0), by(1)] == [Some(false), Some(true)]
    })
    .await?;
    let pod = Served::new(daemon, "mixed", &[tcp(8080)]).await?;
    let mut reached = answers(&machine.own, SocketAddr::new(ip("127.0.0.1"), 8080), "mixed");
    for own in OWN {
        reached = reached.and(answers(&machine.outside, SocketAddr::new(ip(own), 8080), "mixed"));
    }
    checks.note("bridge by its program, portmap without: the pod's port is reached", reached);
    pod.gone(daemon).await?;
    checks.note("  the pod gone, nothing of it is left", empty(daemon, CLEARED).await);
    std::fs::remove_file(&file)?;
    Kind::InProcess.ready(daemon).await
}
