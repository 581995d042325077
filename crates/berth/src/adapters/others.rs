//! What of pods' traffic others' rules stop, on every bridge and by every other way that leads to pods.

use std::sync::Arc;

use berth_cni::{Cni, CniResult};
use berth_network::{Bridged, Finding, Neighbours, Network, NetworkError, bridges, look_now};

use super::network::default_is_configured;

#[derive(Clone)]
pub(crate) struct Others {
    neighbours: Arc<Neighbours>,
    network: Arc<Network>,
    cni: Arc<Cni>,
}

impl Others {
    pub(crate) fn new(network: Arc<Network>, cni: Arc<Cni>) -> Self {
        Self { neighbours: Arc::default(), network, cni }
    }

    /// Nothing where rules cannot be read, which the log tells. Blocking.
    pub(crate) fn look(&self) -> Vec<Finding> {
        let looked = self.bridges().and_then(|all| self.neighbours.look(&all));
        looked.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "what others stop is not known");
            Vec::new()
        })
    }

    /// Berth's own where it leads to pods, or will.
    fn bridges(&self) -> Result<Vec<Bridged>, NetworkError> {
        let mut all = bridges(&self.cni.connected(), &self.cni.configured())?;
        if self.network.is_used() || !default_is_configured(&self.cni) {
            all.push(self.network.bridged());
        }
        Ok(all)
    }

    /// At this very moment, of Berth's own bridge or of what plugins connected a pod to: `None` where that is something else.
    pub(crate) fn look_now(
        &self,
        connected: Option<&berth_cni::Record>,
    ) -> Result<Option<Vec<Finding>>, NetworkError> {
        let Some(record) = connected else { return look_now(&[self.network.bridged()]).map(Some) };
        let read = record.result.clone().map(|result| CniResult::read(result, record.version));
        let results: Vec<Arc<CniResult>> = read.and_then(Result::ok).into_iter().map(Arc::new).collect();
        let bridges = bridges(&results, &[])?;
        if bridges.is_empty() { Ok(None) } else { look_now(&bridges).map(Some) }
    }
}
