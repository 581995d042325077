//! The administrator's verbs over the domain and the mechanisms.

mod images;
mod network;

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use berth_cni::Cni;
use berth_images::Images;
use berth_model::Direction;
use berth_network::{Network, Plugins};
use berth_pods::Pods;
use berth_shim_client::Shims;

pub(crate) use self::network::NetworkVerbs;
use super::Others;
use crate::admin::{AdminBackend, Failure, ImageVerb, NetworkCheck, NetworkReport, PodNetwork};

/// What the admin socket asks for, by the domain and the mechanisms.
pub(crate) struct Admin {
    pub(crate) pods: Pods,
    pub(crate) images: Images,
    pub(crate) network: Arc<Network>,
    pub(crate) others: Others,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) cni: Arc<Cni>,
    pub(crate) shims: Shims,
    pub(crate) network_verbs: NetworkVerbs,
}

#[async_trait]
impl AdminBackend for Admin {
    async fn image(&self, verb: ImageVerb, archive: Option<File>) -> Result<serde_json::Value, Failure> {
        self.about_images(verb, archive).await
    }

    async fn reset(&self) -> Result<(), Failure> {
        self.pods.remove_all().await?;
        let (network, cni, shims) = (self.network.clone(), self.cni.clone(), self.shims.clone());
        let plugins = self.plugins.clone();
        tokio::task::spawn_blocking(move || {
            cni.reset();
            plugins.reset()?;
            network.reset()?;
            shims.remove_parent()?;
            Ok::<_, Failure>(())
        })
        .await?
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Failure> {
        let signal = berth_model::Signal::from_number(signal);
        Ok(self.pods.signal(container, signal.ok_or("signals are numbered from 1 to 64")?).await?)
    }

    async fn inspect_network(&self) -> Result<NetworkReport, Failure> {
        self.network_verbs.inspect().await
    }

    async fn inspect_pod(&self, pod: &str) -> Result<PodNetwork, Failure> {
        self.network_verbs.inspect_pod(pod).await
    }

    async fn check_network(&self, pod: &str) -> Result<NetworkCheck, Failure> {
        self.network_verbs.check(pod).await
    }

    async fn reset_network(&self) -> Result<(), Failure> {
        self.network_verbs.reset().await
    }

    async fn status(&self) -> serde_json::Value {
        let (sandboxes, containers) = self.pods.counts();
        let usage = self.images.fs_usage();
        let others = self.others.clone();
        let stopped = tokio::task::spawn_blocking(move || others.look()).await;
        let transfers = self.images.transfers();
        let going = |direction: Direction| -> Vec<_> {
            transfers.iter().filter(|one| !one.ended && one.direction == direction).collect()
        };
        serde_json::json!({
            "pods": { "sandboxes": sandboxes, "containers": containers },
            "images": { "count": self.images.list().len(), "bytes": usage.used_bytes, "at": usage.mountpoint },
            "pulls": going(Direction::Pull),
            "pushes": going(Direction::Push),
            "imports": going(Direction::Import),
            "exports": going(Direction::Export),
            "network": { "bridge": self.network.bridge(), "subnets": self.network.subnets() },
            "stopped_by_others": stopped.unwrap_or_default(),
        })
    }
}
