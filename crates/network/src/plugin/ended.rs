//! Interfaces of pods that have ended: the kernel clears them with their namespace, some time later, or when whoever holds that
//! lets go of it. Until then they answer for addresses that host-local has given back.

use std::collections::VecDeque;
use std::net::IpAddr;

use berth_cni::{Call, IpConfig, PluginError};
use berth_netlink::Routes;
use parking_lot::Mutex;

use super::{fail, link};

/// Of how many pods. An address comes again when all others of its range were there, which so many pods' time is enough for.
const PODS: usize = 1024;

#[derive(Debug)]
struct Pod {
    addresses: Vec<IpAddr>,
    /// Its interface on the host.
    interface: String,
}

/// The last ones that have ended.
#[derive(Debug, Default)]
pub(super) struct Ended(Mutex<VecDeque<Pod>>);

impl Ended {
    pub(super) fn note(&self, call: &Call<'_>) {
        let addresses = call.previous.map(|made| made.addresses(call.interface)).unwrap_or_default();
        if addresses.is_empty() {
            return;
        }
        let mut pods = self.0.lock();
        if pods.len() == PODS {
            pods.pop_front();
        }
        pods.push_back(Pod { addresses, interface: link::host_name(call) });
    }

    /// Removes what still answers for addresses that the call's pod has now, and what is left of itself: it has not ended.
    pub(super) fn clear(
        &self,
        routes: &Routes,
        call: &Call<'_>,
        ips: &[IpConfig],
    ) -> Result<(), PluginError> {
        let (own, mut before) = (link::host_name(call), Vec::new());
        self.0.lock().retain(|pod| {
            let again = ips.iter().any(|ip| pod.addresses.contains(&ip.address.address));
            let goes = again || pod.interface == own;
            if goes {
                before.push(pod.interface.clone());
            }
            !goes
        });
        before.iter().try_for_each(|interface| {
            link::delete(routes, interface)
                .map_err(fail(format!("remove {interface} of a pod that has ended")))
        })
    }
}
