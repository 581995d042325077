use berth_cri_api::v1::{PortForwardRequest, PortForwardResponse};

use super::RuntimeVerbs;
use crate::{Failure, convert};

/// Of one session over WebSocket channels; over SPDY clients name ports as they go.
const PORTS_MAX: usize = 128;

pub(super) async fn call(
    verbs: &RuntimeVerbs,
    request: PortForwardRequest,
) -> Result<PortForwardResponse, Failure> {
    let id = convert::id("pod_sandbox_id", &request.pod_sandbox_id)?;
    if request.port.len() > PORTS_MAX {
        return Err(convert::invalid(
            "port",
            format!("{} ports are more than {PORTS_MAX}", request.port.len()),
        ));
    }
    let number = |port: &i32| {
        let number = u16::try_from(*port).ok().filter(|port| *port > 0);
        number.ok_or_else(|| convert::invalid("port", format!("{port} is not within 1 to 65535")))
    };
    let ports = request.port.iter().map(number).collect::<Result<_, _>>()?;
    Ok(PortForwardResponse { url: verbs.backend.port_forward(id, ports).await? })
}
