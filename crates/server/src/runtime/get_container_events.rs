use std::sync::Arc;

use berth_cri_api::v1::ContainerEventResponse;
use berth_model::LifeEvent;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tonic::Status;

use super::RuntimeVerbs;
use crate::batches::Answers;
use crate::convert;

/// Every event from here on, until the client leaves or the daemon ends. A client that reads too slowly loses the stream
/// and learns it: it has to list and ask again.
pub(super) fn call(verbs: &RuntimeVerbs) -> Answers<ContainerEventResponse> {
    stream(verbs.backend.events(), verbs.ending.clone())
}

fn stream(
    events: broadcast::Receiver<Arc<LifeEvent>>,
    ending: watch::Receiver<bool>,
) -> Answers<ContainerEventResponse> {
    let listening = Some((events, ending));
    Box::pin(futures_util::stream::unfold(listening, |listening| async {
        let (mut events, mut ending) = listening?;
        let received = tokio::select! {
            // An error means that the server is gone.
            _ = ending.wait_for(|ending| *ending) => return None,
            received = events.recv() => received,
        };
        match received {
            Ok(event) => Some((Ok(convert::life_event(&event)), Some((events, ending)))),
            Err(RecvError::Lagged(lost)) => {
                let text = format!("the client reads too slowly: {lost} events are lost; list and ask again");
                tracing::warn!(lost, "a listener to events is too slow and loses its stream");
                Some((Err(Status::resource_exhausted(text)), None))
            }
            Err(RecvError::Closed) => None,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ids::SandboxId;
    use berth_model::{LifeEventKind, NamespaceOptions, SandboxMetadata, SandboxState, SandboxStatus};
    use futures_util::StreamExt as _;

    fn event(id: &str) -> Arc<LifeEvent> {
        let sandbox = SandboxStatus {
            id: SandboxId::from_bytes([1; 32]),
            metadata: SandboxMetadata::default(),
            state: SandboxState::Ready,
            created_at: 1,
            ips: Vec::new(),
            namespaces: NamespaceOptions::default(),
            labels: Default::default(),
            annotations: Default::default(),
            runtime_handler: String::new(),
            verbose: None,
        };
        Arc::new(LifeEvent {
            kind: LifeEventKind::Started,
            id: id.into(),
            at: 5,
            sandbox,
            containers: Vec::new(),
        })
    }

    #[tokio::test]
    async fn a_slow_listener_loses_its_stream_and_no_other() {
        let (tell, slow) = broadcast::channel(2);
        let (_ending, ended) = watch::channel(false);
        let (mut slow, mut quick) = (stream(slow, ended.clone()), stream(tell.subscribe(), ended));
        for id in ["a", "b", "c"] {
            tell.send(event(id)).unwrap();
            assert_eq!(quick.next().await.unwrap().unwrap().container_id, id);
        }
        let lost = slow.next().await.unwrap().unwrap_err();
        assert_eq!(lost.code(), tonic::Code::ResourceExhausted, "{lost}");
        assert!(slow.next().await.is_none());
    }

    #[tokio::test]
    async fn the_stream_ends_with_the_daemon() {
        let (tell, events) = broadcast::channel(2);
        let (ending, ended) = watch::channel(false);
        let mut stream = stream(events, ended);
        tell.send(event("a")).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().container_id, "a");
        ending.send_replace(true);
        assert!(stream.next().await.is_none());
    }
}
