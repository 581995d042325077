use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use berth_cgroup::{CgroupPath, Cgroups};
use berth_ids::ContainerId;
use berth_images::Images;
use berth_pods::ports::{Look, Measurement, Meter, Subject};

#[derive(Debug, Clone)]
pub(crate) struct MeterPort {
    cgroups: Arc<Cgroups>,
    images: Images,
}

impl MeterPort {
    pub(crate) fn new(cgroups: Arc<Cgroups>, images: Images) -> Self {
        Self { cgroups, images }
    }
}

#[async_trait]
impl Meter for MeterPort {
    async fn measure(&self, subjects: Vec<Subject>) -> Vec<Measurement> {
        let meter = self.clone();
        // Lost work only at the daemon's end.
        tokio::task::spawn_blocking(move || meter.all(&subjects)).await.unwrap_or_default()
    }
}

impl MeterPort {
    fn all(&self, subjects: &[Subject]) -> Vec<Measurement> {
        let containers: Vec<ContainerId> = subjects.iter().filter_map(|s| s.layer_of.clone()).collect();
        let mut layers = self.images.layer_usage(&containers).into_iter();
        let mut one = |subject: &Subject| {
            let mut measured = self.one(subject);
            if subject.layer_of.is_some() {
                measured.layer = layers.next().flatten();
            }
            measured
        };
        subjects.iter().map(&mut one).collect()
    }

    fn one(&self, subject: &Subject) -> Measurement {
        let cgroup = CgroupPath::new(&subject.cgroup_path).map(|path| self.cgroups.open(&path)).ok();
        let interfaces = subject.network.as_ref().and_then(|pod| {
            // A short read of one file; the namespace is never entered.
            berth_network::counters(pod.pid(), pod.netns())
        });
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Measurement {
            at: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            group: cgroup.as_ref().and_then(berth_cgroup::Cgroup::usage),
            layer: None,
            interfaces: interfaces.unwrap_or_default(),
            processes: cgroup
                .filter(|_| subject.processes != Look::No)
                .map(|cgroup| cgroup.process_usage(subject.processes == Look::Open)),
        }
    }
}
