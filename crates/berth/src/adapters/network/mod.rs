//! The domain's network: CNI plugins where a configuration is there, else Berth's own. A pod ends with whom it began.

mod garbage;
mod request;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_cni::{Cni, CniPod, PodName};
use berth_ids::{ErrorClass, SandboxId};
use berth_model::SandboxConfig;
use berth_network::{HeldPorts, PodRequest};
use berth_pods::ports::{Attachment, Connect, Network, PortError};
use berth_server::{Condition, Failure};
use serde_json::json;
use tokio::sync::Semaphore;

use super::blocking;
use crate::config::IpVersion;

/// Pods that plugins connect, and disconnect, at the same time. One that hangs holds one of these and one of the threads.
const CHAINS: usize = 16;
/// How long a pod waits for one of them.
const CHAIN_WAIT: Duration = Duration::from_secs(60);
/// The key of a record that is a CNI connection's; the embedded network's has others.
const CNI: &str = "cni";

#[derive(Debug, Clone)]
pub(crate) struct NetworkPort {
    network: Arc<berth_network::Network>,
    plugins: Arc<berth_network::Plugins>,
    cni: Arc<Cni>,
    ports: Arc<HeldPorts>,
    primary: Option<IpVersion>,
    attaching: Arc<Semaphore>,
    detaching: Arc<Semaphore>,
}

/// For people.
fn pod_name(config: &SandboxConfig) -> String {
    format!("{}/{}", config.metadata.namespace, config.metadata.name)
}

/// Whether pods of the default runtime handler, by whichever of its names, are connected by plugins.
pub(crate) fn default_is_configured(cni: &Cni) -> bool {
    cni.is_configured("")
}

/// Records of both kinds.
pub(crate) enum Record {
    Embedded(berth_network::Attachment),
    Cni(Box<berth_cni::Record>),
}

pub(crate) fn parse(attachment: &Attachment) -> Result<Record, PortError> {
    let read = match attachment.record.get(CNI) {
        Some(record) => serde_json::from_value(record.clone()).map(|record| Record::Cni(Box::new(record))),
        None => serde_json::from_value(attachment.record.clone()).map(Record::Embedded),
    };
    read.map_err(|error| {
        PortError::new(ErrorClass::Internal, format!("the recorded attachment is damaged: {error}"))
    })
}

fn encode(record: impl serde::Serialize) -> Result<serde_json::Value, PortError> {
    let record = serde_json::to_value(record);
    record.map_err(|e| PortError::new(ErrorClass::Internal, format!("encode the attachment: {e}")))
}

impl NetworkPort {
    pub(crate) fn new(
        network: Arc<berth_network::Network>,
        plugins: Arc<berth_network::Plugins>,
        cni: Arc<Cni>,
        primary: Option<IpVersion>,
    ) -> Self {
        let permits = || Arc::new(Semaphore::new(CHAINS));
        let ports = Arc::default();
        Self { network, plugins, cni, ports, primary, attaching: permits(), detaching: permits() }
    }

    /// What Status says of it, and for its verbose form what there is behind that. It waits for nothing.
    pub(crate) fn report(&self, verbose: bool) -> (Condition, BTreeMap<String, String>) {
        let report = self.cni.report();
        let mut info = BTreeMap::new();
        if verbose {
            info.insert("cniconfig".to_owned(), report.verbose.to_string());
            let status = report.problem.clone().unwrap_or_else(|| "OK".to_owned());
            info.insert("lastCNILoadStatus".to_owned(), status);
        }
        let notes = report.notes.join("; ");
        let condition = match report.problem {
            None => Condition { ok: true, reason: String::new(), message: notes },
            Some(problem) => {
                let message = if notes.is_empty() { problem } else { format!("{problem}; {notes}") };
                Condition { ok: false, reason: "NetworkPluginNotReady".into(), message }
            }
        };
        (condition, info)
    }

    /// New pods get addresses of these networks.
    pub(crate) async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Failure> {
        let (network, cni, cidr) = (self.network.clone(), self.cni.clone(), cidr.to_owned());
        let work = move || {
            network.set_pod_cidr(&cidr)?;
            let subnets: Vec<_> = cidr.split(',').filter_map(|one| one.trim().parse().ok()).collect();
            if let Err(error) = cni.set_pod_cidr(&subnets) {
                tracing::warn!(%error, "plugins are not told the pods' networks after a restart");
            }
            Ok(())
        };
        let lost = |_| Err(Failure::new(ErrorClass::Internal, "the work was lost"));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(lost)
    }

    /// Nobody else's plugin keeps a pod waiting for ever.
    async fn turn(of: &Arc<Semaphore>) -> Result<tokio::sync::OwnedSemaphorePermit, PortError> {
        match tokio::time::timeout(CHAIN_WAIT, of.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(PortError::new(
                ErrorClass::ResourceExhausted,
                format!("CNI plugins are busy with {CHAINS} other pods for more than {CHAIN_WAIT:?}"),
            )),
        }
    }

    async fn attach_by_plugins(&self, pod: Connect<'_>) -> Result<Attachment, PortError> {
        let turn = Self::turn(&self.attaching).await?;
        let cni = self.cni.clone();
        let runtime = request::runtime(&pod, cni.pod_cidr())?;
        let metadata = &pod.config.metadata;
        let name = PodName {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        };
        let handler = pod.config.runtime_handler.clone();
        let (id, pid, netns) = (pod.id.to_string(), pod.pid, pod.netns);
        let work = move || {
            let _turn = turn;
            let path = format!("/proc/{pid}/ns/net");
            cni.attach(CniPod {
                container: &id,
                name,
                handler: &handler,
                runtime,
                netns: netns.as_fd(),
                path,
            })
        };
        let made = blocking("connect by CNI", work).await?;
        let netns = made.record.netns.as_ref().map(|path| path.to_string_lossy().into_owned());
        Ok(Attachment { ips: made.ips, record: json!({ CNI: encode(made.record)? }), netns })
    }

    async fn attach_embedded(&self, pod: Connect<'_>) -> Result<Attachment, PortError> {
        let (network, id, netns) = (self.network.clone(), pod.id.clone(), pod.netns);
        let name = pod_name(pod.config);
        let ports = pod.config.port_mappings.clone();
        let bandwidth = request::bandwidth(pod.config)?;
        let work = move || {
            network.attach(PodRequest { id: &id, name: &name, ports: &ports, bandwidth }, netns.as_fd())
        };
        let made = blocking("connect to the bridge", work).await?;
        let record = encode(&made)?;
        Ok(Attachment { ips: made.ips, record, netns: None })
    }

    async fn detach_by_plugins(
        &self,
        id: &SandboxId,
        netns: Option<Arc<OwnedFd>>,
        record: Option<berth_cni::Record>,
    ) -> Result<(), PortError> {
        let turn = Self::turn(&self.detaching).await;
        let (cni, id) = (self.cni.clone(), id.to_string());
        blocking("disconnect by CNI", move || {
            match turn {
                Ok(_turn) => cni.detach(&id, netns.as_ref().map(|netns| netns.as_fd()), record),
                // They do not keep the pod.
                Err(busy) => cni.postpone(&id, record, busy.to_string()),
            }
            Ok::<_, berth_cni::CniError>(())
        })
        .await
    }

    async fn detach_embedded(
        &self,
        id: &SandboxId,
        recorded: Option<berth_network::Attachment>,
    ) -> Result<(), PortError> {
        let (network, id) = (self.network.clone(), id.clone());
        blocking("disconnect from the bridge", move || {
            network.detach(&id, recorded.as_ref());
            Ok::<_, berth_network::NetworkError>(())
        })
        .await
    }
}

#[async_trait]
impl Network for NetworkPort {
    async fn attach(&self, pod: Connect<'_>) -> Result<Attachment, PortError> {
        let (id, config) = (pod.id, pod.config);
        let taken = self.ports.take(id, &pod_name(config), &config.port_mappings);
        taken.map_err(|error| PortError::wrap("hold its ports of the host", error))?;
        let made = match self.cni.is_configured(&config.runtime_handler) {
            true => self.attach_by_plugins(pod).await,
            false => self.attach_embedded(pod).await,
        };
        let mut attachment = made.inspect_err(|_| self.ports.give_back(id))?;
        match self.primary {
            Some(IpVersion::V4) => attachment.ips.sort_by_key(std::net::IpAddr::is_ipv6),
            Some(IpVersion::V6) => attachment.ips.sort_by_key(std::net::IpAddr::is_ipv4),
            None => {}
        }
        Ok(attachment)
    }

    async fn detach(
        &self,
        id: &SandboxId,
        netns: Option<Arc<OwnedFd>>,
        attachment: Option<&Attachment>,
    ) -> Result<(), PortError> {
        match attachment.map(parse) {
            Some(Ok(Record::Embedded(recorded))) => self.detach_embedded(id, Some(recorded)).await?,
            Some(Ok(Record::Cni(record))) => self.detach_by_plugins(id, netns, Some(*record)).await?,
            // Whichever was cut off while it connected the pod knows it by itself.
            None | Some(Err(_)) => {
                self.detach_embedded(id, None).await?;
                if self.cni.knows(id.as_str()) {
                    self.detach_by_plugins(id, netns, None).await?;
                }
            }
        }
        self.ports.give_back(id);
        Ok(())
    }

    async fn restore(&self, live: Vec<(SandboxId, Attachment)>) -> Result<(), PortError> {
        let (mut embedded, mut by_plugins) = (Vec::new(), HashMap::new());
        for (id, attachment) in live {
            match parse(&attachment) {
                Ok(Record::Embedded(parsed)) => {
                    self.ports.of_embedded(&id, &parsed);
                    embedded.push((id, parsed));
                }
                Ok(Record::Cni(record)) => {
                    self.ports.of_plugins(&id, &record);
                    by_plugins.insert(id.to_string(), *record);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(sandbox = %id, error, "its address is not known");
                }
            }
        }
        let (network, plugins, cni) = (self.network.clone(), self.plugins.clone(), self.cni.clone());
        blocking("restore the network", move || {
            cni.restore(by_plugins);
            plugins.restore()?;
            // Where plugins connect the pods, Berth's own bridge is nobody's.
            let restored = match embedded.is_empty() && default_is_configured(&cni) {
                true => Ok(()),
                false => network.restore(&embedded),
            };
            if let Err(error) = cni.start() {
                tracing::error!(%error, "CNI configurations are not watched");
            }
            restored
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use berth_ids::Classify as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_finds_all_plugins_busy_is_told_so_in_its_time() {
        let busy = Arc::new(Semaphore::new(CHAINS));
        let mut held = Vec::new();
        for _ in 0..CHAINS {
            held.push(NetworkPort::turn(&busy).await.unwrap());
        }
        let since = tokio::time::Instant::now();
        let refused = NetworkPort::turn(&busy).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::ResourceExhausted);
        assert!(since.elapsed() >= CHAIN_WAIT && since.elapsed() < CHAIN_WAIT * 2, "{:?}", since.elapsed());
        assert!(refused.to_string().contains("busy with 16 other pods"), "{refused}");
        let waits = tokio::spawn(async move { NetworkPort::turn(&busy).await.is_ok() });
        tokio::task::yield_now().await;
        held.pop();
        assert!(waits.await.unwrap());
    }
}
