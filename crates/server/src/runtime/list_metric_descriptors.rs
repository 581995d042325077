use berth_cri_api::v1::{ListMetricDescriptorsRequest, ListMetricDescriptorsResponse};

use super::RuntimeVerbs;
use crate::{Failure, metrics};

pub(super) async fn call(
    _: &RuntimeVerbs,
    _: ListMetricDescriptorsRequest,
) -> Result<ListMetricDescriptorsResponse, Failure> {
    Ok(ListMetricDescriptorsResponse { descriptors: metrics::descriptors() })
}
