use berth_cri_api::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};

use super::{HANDLERS, RuntimeVerbs};
use crate::{Condition, Failure};

fn condition(kind: &str, condition: Condition) -> RuntimeCondition {
    RuntimeCondition {
        r#type: kind.into(),
        status: condition.ok,
        reason: condition.reason,
        message: condition.message,
    }
}

pub(super) async fn call(verbs: &RuntimeVerbs, request: StatusRequest) -> Result<StatusResponse, Failure> {
    let report = verbs.backend.report(request.verbose).await;
    let handler = |name: &str| RuntimeHandler {
        name: name.into(),
        features: Some(RuntimeHandlerFeatures {
            recursive_read_only_mounts: report.recursive_readonly,
            user_namespaces: report.user_namespaces,
        }),
    };
    Ok(StatusResponse {
        runtime_handlers: HANDLERS.map(handler).into(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: report.user_namespaces,
            mount_options: true,
        }),
        status: Some(RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", report.runtime),
                condition("NetworkReady", report.network),
            ],
        }),
        info: report.info.into_iter().collect(),
    })
}
