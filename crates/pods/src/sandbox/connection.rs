//! How pods are connected, for people who look at their network.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_ids::SandboxId;
use berth_model::NamespaceMode;

use super::status::netns;
use crate::PodsError;
use crate::ports::Attachment;
use crate::record::Phase;
use crate::state::{Sandbox, State};

/// A pod and its connection.
#[derive(Debug, Clone)]
pub struct Connection {
    pub id: SandboxId,
    /// `namespace/name`.
    pub name: String,
    pub ready: bool,
    /// It has the host's network and no connection of its own.
    pub host_network: bool,
    /// The namespace, and a path of it that is good as long as the pod lives.
    pub netns: Option<(Arc<OwnedFd>, String)>,
    pub attachment: Option<Attachment>,
}

fn describe(sandbox: &Sandbox) -> Connection {
    let pod = sandbox.pod();
    sandbox.read(|r| Connection {
        id: r.id.clone(),
        name: full_name(r),
        ready: r.phase == Phase::Ready,
        host_network: r.config.security.namespaces.network == NamespaceMode::Node,
        netns: pod.map(|pod| (pod.netns(), netns(r, pod.pid()))),
        attachment: r.attachment.clone(),
    })
}

fn full_name(record: &crate::SandboxRecord) -> String {
    format!("{}/{}", record.config.metadata.namespace, record.config.metadata.name)
}

pub(crate) fn connections(state: &State) -> Vec<Connection> {
    state.sandboxes().iter().map(|sandbox| describe(sandbox)).collect()
}

/// By its name, with or without the namespace, else by the beginning of its id. Of several with a name, the one that is ready.
pub(crate) fn connection(state: &State, wanted: &str) -> Result<Connection, PodsError> {
    let named =
        |sandbox: &Arc<Sandbox>| sandbox.read(|r| r.config.metadata.name == wanted || full_name(r) == wanted);
    let mut found: Vec<Arc<Sandbox>> = state.sandboxes().into_iter().filter(named).collect();
    if found.len() > 1 {
        found.retain(|sandbox| sandbox.phase() == Phase::Ready);
    }
    match &found[..] {
        [only] => Ok(describe(only)),
        [] => state.sandbox(wanted).map(|sandbox| describe(&sandbox)),
        several => {
            Err(PodsError::Ambiguous { kind: "sandbox", prefix: wanted.to_owned(), matches: several.len() })
        }
    }
}

/// What its containers have as /etc/resolv.conf; empty when it is gone.
pub(crate) async fn resolv_conf(state: &State, id: &SandboxId) -> String {
    let path = state.ports.launcher.files(id).resolv_conf;
    let bytes = state.ports.launcher.host_file(&path.to_string_lossy()).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
