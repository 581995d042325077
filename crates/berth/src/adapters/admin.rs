//! The administrator's verbs over the domain and the mechanisms.

mod network;

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use berth_cni::Cni;
use berth_images::{Direction, Images, LayerReport, LayerState};
use berth_network::{Neighbours, Network, Plugins};
use berth_pods::Pods;
use berth_shim_client::Shims;

pub(crate) use self::network::NetworkVerbs;
use super::look;
use crate::admin::{
    AdminBackend, Failure, ImageVerb, ImportedImage, NetworkCheck, NetworkReport, PodNetwork, VerifiedLayer,
    VerifiedState,
};

/// What the admin socket asks for, by the domain and the mechanisms.
pub(crate) struct Admin {
    pub(crate) pods: Pods,
    pub(crate) images: Images,
    pub(crate) network: Arc<Network>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) cni: Arc<Cni>,
    pub(crate) shims: Shims,
    pub(crate) network_verbs: NetworkVerbs,
}

#[async_trait]
impl AdminBackend for Admin {
    async fn import(&self, archive: File) -> Result<Vec<ImportedImage>, Failure> {
        let images = self.images.clone();
        let imported = tokio::task::spawn_blocking(move || images.import(archive)).await??;
        let one = |image: &Arc<berth_images::Image>| ImportedImage {
            id: image.id.to_string(),
            names: image.repo_tags.clone(),
        };
        Ok(imported.iter().map(one).collect())
    }

    async fn export(&self, references: Vec<String>, archive: File) -> Result<(), Failure> {
        let images = self.images.clone();
        Ok(tokio::task::spawn_blocking(move || images.export(&references, archive)).await??)
    }

    async fn verify(&self, image: Option<String>, repair: bool) -> Result<Vec<VerifiedLayer>, Failure> {
        let reports = self.images.verify(image.as_deref(), repair).await?;
        Ok(reports.into_iter().map(verified).collect())
    }

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
        let (neighbours, network) = (self.neighbours.clone(), self.network.clone());
        let stopped = tokio::task::spawn_blocking(move || look(&neighbours, &network)).await;
        let (mut pulls, mut pushes) = (self.images.transfers(), Vec::new());
        pulls.retain(|transfer| !transfer.ended);
        pushes.extend(pulls.extract_if(.., |transfer| transfer.direction == Direction::Push));
        serde_json::json!({
            "pods": { "sandboxes": sandboxes, "containers": containers },
            "images": { "count": self.images.list().len(), "bytes": usage.used_bytes, "at": usage.mountpoint },
            "pulls": pulls,
            "pushes": pushes,
            "network": { "bridge": self.network.bridge(), "subnets": self.network.subnets() },
            "stopped_by_others": stopped.unwrap_or_default(),
        })
    }
}

fn verified(report: LayerReport) -> VerifiedLayer {
    let (state, found, problem) = match report.state {
        LayerState::Whole => (VerifiedState::Whole, Vec::new(), None),
        LayerState::Unrecorded => (VerifiedState::Unrecorded, Vec::new(), None),
        LayerState::Damaged(found) => (VerifiedState::Damaged, found, None),
        LayerState::Repaired(found) => (VerifiedState::Repaired, found, None),
        LayerState::Unrepaired(found, problem) => (VerifiedState::Damaged, found, Some(problem)),
    };
    VerifiedLayer { layer: report.layer.to_string(), images: report.images, state, found, problem }
}
