use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use berth_ids::{ErrorClass, SandboxId};
use berth_model::PortMapping;
use berth_pods::ports::{Attachment, Network, PortError};

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
    async fn attach(
        &self,
        id: &SandboxId,
        netns: Arc<OwnedFd>,
        ports: &[PortMapping],
    ) -> Result<Attachment, PortError> {
        // CRI: a host_port of 0 maps nothing.
        if let Some(n) = ports.iter().position(|port| port.host_port != 0) {
            let text = format!("config.port_mappings[{n}].host_port: host ports are not supported yet");
            return Err(PortError::new(ErrorClass::Unimplemented, text));
        }
        let (network, id) = (self.network.clone(), id.clone());
        let made = blocking("connect to the bridge", move || network.attach(&id, netns.as_fd())).await?;
        let record = serde_json::to_value(&made);
        let record = record
            .map_err(|e| PortError::new(ErrorClass::Internal, format!("encode the attachment: {e}")))?;
        Ok(Attachment { ips: made.ips, record })
    }

    async fn detach(&self, id: &SandboxId, _: Option<&Attachment>) -> Result<(), PortError> {
        // Memory only: the interfaces go with the namespace.
        self.network.detach(id);
        Ok(())
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
