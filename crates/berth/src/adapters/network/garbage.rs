//! What belongs to no pod is given back from time to time, whoever was to keep it.

use std::io;
use std::time::Duration;

use berth_pods::Pods;

use super::NetworkPort;

const PAUSE: Duration = Duration::from_secs(600);
/// After a pod came while plugins were told of the others.
const SHORT_PAUSE: Duration = Duration::from_secs(10);

impl NetworkPort {
    /// Begins at once and goes on as long as the daemon lives, on a thread of its own: a plugin may take its time.
    pub(crate) fn collect_garbage(&self, pods: Pods) -> io::Result<()> {
        let (cni, network, ports) = (self.cni.clone(), self.network.clone(), self.ports.clone());
        let collect = move || {
            let whole = cni.collect();
            ports.collect(|| pods.known());
            match network.collect(|| pods.known()) {
                Ok(0) => {}
                Ok(count) => tracing::warn!(count, "what no pod owned in the network is given back"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what no pod owns in the network is not given back");
                }
            }
            if whole { PAUSE } else { SHORT_PAUSE }
        };
        let work = move || loop {
            std::thread::sleep(collect());
        };
        std::thread::Builder::new().name("network-gc".into()).spawn(work).map(drop)
    }
}
