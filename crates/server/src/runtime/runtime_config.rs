use berth_cri_api::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse,
};

use super::RuntimeVerbs;
use crate::Failure;

/// Always set: the enum's zero would tell the kubelet "systemd".
pub(super) async fn call(
    _: &RuntimeVerbs,
    _: RuntimeConfigRequest,
) -> Result<RuntimeConfigResponse, Failure> {
    let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
    Ok(RuntimeConfigResponse { linux: Some(linux) })
}
