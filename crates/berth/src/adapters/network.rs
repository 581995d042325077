use std::os::fd::AsFd as _;
use std::sync::Arc;

use async_trait::async_trait;
use berth_ids::{ErrorClass, SandboxId};
use berth_network::PodRequest;
use berth_pods::ports::{Attachment, Connect, Network, PortError};

use super::blocking;

#[derive(Debug, Clone)]
pub(crate) struct NetworkPort {
    network: Arc<berth_network::Network>,
}

impl NetworkPort {
    pub(crate) fn new(network: Arc<berth_network::Network>) -> Self {
        Self { network }
    }
}

fn parse(attachment: &Attachment) -> Result<berth_network::Attachment, PortError> {
    serde_json::from_value(attachment.record.clone()).map_err(|error| {
        PortError::new(ErrorClass::Internal, format!("the recorded attachment is damaged: {error}"))
    })
}

#[async_trait]
impl Network for NetworkPort {
    async fn attach(&self, pod: Connect<'_>) -> Result<Attachment, PortError> {
        let (network, id, netns) = (self.network.clone(), pod.id.clone(), pod.netns);
        let metadata = &pod.config.metadata;
        let name = format!("{}/{}", metadata.namespace, metadata.name);
        let ports = pod.config.port_mappings.clone();
        let work = move || {
            network.attach(PodRequest { id: &id, name: &name, ports: &ports, bandwidth: None }, netns.as_fd())
        };
        let made = blocking("connect to the bridge", work).await?;
        let record = serde_json::to_value(&made);
        let record = record
            .map_err(|e| PortError::new(ErrorClass::Internal, format!("encode the attachment: {e}")))?;
        Ok(Attachment { ips: made.ips, record })
    }

    async fn detach(&self, id: &SandboxId, attachment: Option<&Attachment>) -> Result<(), PortError> {
        let (network, id) = (self.network.clone(), id.clone());
        let recorded = attachment.and_then(|attachment| parse(attachment).ok());
        blocking("disconnect from the bridge", move || {
            network.detach(&id, recorded.as_ref());
            Ok::<_, berth_network::NetworkError>(())
        })
        .await
    }

    async fn restore(&self, live: Vec<(SandboxId, Attachment)>) -> Result<(), PortError> {
        let network = self.network.clone();
        let live = live.into_iter().filter_map(|(id, attachment)| match parse(&attachment) {
            Ok(parsed) => Some((id, parsed)),
            Err(error) => {
                tracing::warn!(sandbox = %id, error = &error as &dyn std::error::Error, "its address is not known");
                None
            }
        });
        let live: Vec<_> = live.collect();
        blocking("restore the network", move || network.restore(&live)).await
    }
}
