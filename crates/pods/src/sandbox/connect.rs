use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::PodsError;
use crate::state::State;

/// A connection to a port within the pod's network.
pub(crate) async fn connect(state: &Arc<State>, id: &str, port: u16) -> Result<OwnedFd, PodsError> {
    let pod = state.sandbox(id)?.ready()?;
    if port == 0 {
        return Err(PodsError::Empty { field: "port" });
    }
    let connected = pod.connect(port).await;
    connected.map_err(PodsError::port(format!("forward to port {port} of sandbox {id}")))
}
