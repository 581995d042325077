//! A node: a kubelet over a daemon of the lane's own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_cri_api::v1::*;
use serde_json::Value;

use super::place::{ADDRESS, Cgroups};
use super::process::{Kubelet, NAME, free_port};
use crate::checks::within;
use crate::client::Client;
use crate::daemon::{Daemon, tail};

/// In this order they end.
pub(crate) struct Node {
    kubelet: Kubelet,
    given_up: RefCell<BTreeSet<String>>,
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) cgroups: Cgroups,
}

/// What the kubelet can be asked, its node can.
impl Deref for Node {
    type Target = Kubelet;

    fn deref(&self) -> &Kubelet {
        &self.kubelet
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Kubelet {
        &mut self.kubelet
    }
}

impl Node {
    /// On the lane's own host ([`super::place`]).
    pub(crate) async fn new() -> Result<Self> {
        let cgroups = Cgroups::new(format!("berth-node-{}", std::process::id()))?;
        let ports = [free_port()?, free_port()?, free_port()?];
        Self::over(Daemon::new().await?, cgroups, ports, Some(ADDRESS)).await
    }

    /// `ports` are those of the API, of reading, and of health. Without an address the kubelet takes the default route's.
    pub(crate) async fn over(
        daemon: Daemon,
        cgroups: Cgroups,
        ports: [u16; 3],
        address: Option<&'static str>,
    ) -> Result<Self> {
        let client = Client::connect(&daemon.socket()).await?;
        let kubelet = Kubelet::new(&daemon.path(""), daemon.socket(), cgroups.root(), ports, address)?;
        let mut node = Self { kubelet, given_up: RefCell::default(), daemon, client, cgroups };
        node.start().await?;
        Ok(node)
    }

    pub(crate) fn tails(&self) -> String {
        format!("{}\n--\n{}", tail(&self.log()), self.daemon.log_tail())
    }

    /// kill -9 of the daemon, and a new one.
    pub(crate) async fn restart_daemon(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.client = self.daemon.start().await?;
        Ok(())
    }

    /// Waits until the pod is as wanted. A pod that once did not become so is not waited for again.
    pub(crate) async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(pod) = self.pod(name).await {
                if is(&pod) {
                    return Ok(pod);
                }
                last = pod;
            }
            if self.given_up.borrow().contains(name) {
                bail!("{name} is not {what}, and was not waited for again");
            }
            if Instant::now() > end {
                self.given_up.borrow_mut().insert(name.to_owned());
                bail!("waited 60 s for {name} to be {what}: {}", states(&last));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every container of the pod is ready.
    pub(crate) async fn ready(&self, name: &str) -> Result<Value> {
        self.until(name, "ready", |pod| condition(pod, "Ready")).await
    }

    /// Waits until nothing of the pod runs: the kubelet forgets a static pod with its manifest, and stops it then.
    pub(crate) async fn gone(&self, name: &str) -> Result<()> {
        self.until(name, "gone", Value::is_null).await?;
        let full = format!("{name}-{NAME}");
        within(60, &format!("{name} to be stopped"), || async {
            let list = ListPodSandboxRequest::default();
            let pods = self.client.clone().runtime.list_pod_sandbox(list).await?.into_inner().items;
            let ready = |pod: &PodSandbox| {
                pod.state == i32::from(PodSandboxState::SandboxReady)
                    && pod.metadata.as_ref().is_some_and(|m| m.name == full)
            };
            Ok((!pods.iter().any(ready)).then_some(()))
        })
        .await
    }

    /// The standard output of a tool in a container of a pod, asked of Berth and not of the kubelet.
    pub(crate) async fn out(&self, pod: &Value, container: &str, words: &[&str]) -> Result<String> {
        let id = id_of(pod, container)?;
        let out = self.client.clone().out(&id, words).await;
        out.with_context(|| format!("{container}: {}", words.join(" ")))
    }

    /// Its exit code.
    pub(crate) async fn code(&self, pod: &Value, container: &str, words: &[&str]) -> Result<i32> {
        let id = id_of(pod, container)?;
        Ok(self.client.clone().exec(&id, words).await?.exit_code)
    }

    /// Its first process, as the host numbers it.
    pub(crate) async fn pid(&self, pod: &Value, container: &str) -> Result<i64> {
        let id = id_of(pod, container)?;
        super::pid_of(&mut self.client.clone(), &id).await
    }

    /// What the container wrote, from the file that the kubelet names.
    pub(crate) fn logged(&self, pod: &Value, container: &str, attempt: u64) -> Result<String> {
        let file = self.log_directory(pod).join(container).join(format!("{attempt}.log"));
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    pub(crate) fn log_directory(&self, pod: &Value) -> PathBuf {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        self.daemon.path("logs").join(format!("{}_{}_{}", of("namespace"), of("name"), of("uid")))
    }

    pub(crate) async fn reset(mut self) -> Result<()> {
        self.kill()?;
        self.unmount();
        self.daemon.reset().await
    }
}

/// What a status says of its containers, for a failure's message.
fn states(pod: &Value) -> String {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    let told =
        all.map(|c| format!("{}: {} after {}", c["name"], c["state"], c["lastState"])).collect::<Vec<_>>();
    format!("{} {} {}", pod["status"]["phase"], pod["status"]["message"], told.join(", "))
}

pub(crate) fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// A container's status, of whichever kind it is.
pub(crate) fn status_of(pod: &Value, name: &str) -> Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    all.find(|status| status["name"] == name).cloned().unwrap_or_default()
}

/// A container's id, as Berth knows it.
pub(crate) fn id_of(pod: &Value, name: &str) -> Result<String> {
    let status = status_of(pod, name);
    let id = status["containerID"].as_str().and_then(|id| id.strip_prefix("berth://"));
    Ok(id.with_context(|| format!("{name} has no id: {status}"))?.to_owned())
}

/// A text file of the host, trimmed.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    Ok(std::fs::read_to_string(path).with_context(|| path.display().to_string())?.trim().to_owned())
}
