use berth_cri_api::v1::{VersionRequest, VersionResponse};

use super::RuntimeVerbs;
use crate::Failure;

/// All four texts must be there, the kubelet refuses less. `version` is the kubelet's own API level.
pub(super) async fn call(_: &RuntimeVerbs, _: VersionRequest) -> Result<VersionResponse, Failure> {
    Ok(VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "berth".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    })
}
