use berth_cri_api::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use super::RuntimeVerbs;
use crate::Failure;

/// The pod CIDR is all the kubelet tells; an empty one changes nothing.
pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse, Failure> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    if let Some(cidr) = network.map(|network| network.pod_cidr).filter(|cidr| !cidr.is_empty()) {
        let done = verbs.backend.update_pod_cidr(&cidr).await;
        done.map_err(|failure| failure.of("runtime_config.network_config.pod_cidr"))?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}
