//! What pods and containers use. Measured in one go for a whole list; what vanishes meanwhile is left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_ids::ContainerId;
use berth_model::{
    ContainerFilter, ContainerState, ContainerStats, NamespaceMode, SandboxFilter, SandboxState,
    SandboxStats, UnixNanos,
};

use crate::ports::{Look, Measurement, Subject};
use crate::state::{Container, Sandbox, State};
use crate::{PodsError, container, sandbox};

/// Between two measurements this far apart a rate means something.
const SECOND: i64 = 1_000_000_000;

/// A shim gives its account when no birth is under way; a list does not wait for one that hangs.
pub(crate) const ACCOUNT_PATIENCE: Duration = Duration::from_millis(500);

/// One object's measurements over time.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: UnixNanos,
    /// When, and the CPU time used until then.
    base: Option<(UnixNanos, u64)>,
    rate: Option<u64>,
}

impl Pace {
    /// The time to report, later than any before, and the rate in CPU nanoseconds per second.
    fn note(&mut self, at: UnixNanos, cpu: Option<u64>) -> (UnixNanos, Option<u64>) {
        self.last = at.max(self.last.saturating_add(1));
        let Some(cpu) = cpu else { return (self.last, None) };
        match self.base {
            Some((since, used)) if cpu >= used => {
                let nanos = self.last.saturating_sub(since);
                if nanos >= SECOND {
                    let rate = u128::from(cpu - used) * SECOND as u128 / nanos.unsigned_abs() as u128;
                    self.rate = u64::try_from(rate).ok();
                    self.base = Some((self.last, cpu));
                }
            }
            // The first, or a counter that began anew.
            _ => (self.base, self.rate) = (Some((self.last, cpu)), None),
        }
        (self.last, self.rate)
    }
}

pub(crate) async fn container(state: &State, id: &str) -> Result<ContainerStats, PodsError> {
    let cell = state.container(id)?;
    let measured = state.ports.meter.measure(vec![subject(&cell, false)]).await;
    let measured = measured.into_iter().next().unwrap_or_default();
    Ok(describe(&cell, measured))
}

pub(crate) async fn containers(state: &State, filter: &ContainerFilter) -> Vec<ContainerStats> {
    let filter = ContainerFilter { state: Some(ContainerState::Running), ..filter.clone() };
    let cells = container::matching(state, &filter);
    let subjects = cells.iter().map(|cell| subject(cell, false)).collect();
    let measured = state.ports.meter.measure(subjects).await;
    cells.iter().zip(measured).filter_map(|(cell, measured)| running(cell, measured)).collect()
}

pub(crate) async fn sandbox(state: &State, id: &str) -> Result<SandboxStats, PodsError> {
    let cell = state.sandbox(id)?;
    cell.ready()?;
    let found = all(state, vec![cell], false).await.pop();
    found.ok_or_else(|| PodsError::SandboxNotReady { id: id.to_owned() })
}

pub(crate) async fn sandboxes(state: &State, filter: &SandboxFilter, details: bool) -> Vec<SandboxStats> {
    let filter = SandboxFilter { state: Some(SandboxState::Ready), ..filter.clone() };
    all(state, sandbox::matching(state, &filter), details).await
}

/// One pass over everything that these sandboxes have.
async fn all(state: &State, sandboxes: Vec<Arc<Sandbox>>, details: bool) -> Vec<SandboxStats> {
    let containers: Vec<Vec<Arc<Container>>> = sandboxes
        .iter()
        .map(|sandbox| {
            let mut cells = state.containers_of(&sandbox.id);
            cells.retain(|cell| cell.state() == ContainerState::Running);
            cells
        })
        .collect();
    let mut subjects = Vec::new();
    for (sandbox, cells) in sandboxes.iter().zip(&containers) {
        let own_network = sandbox.read(|r| r.config.security.namespaces.network == NamespaceMode::Pod);
        subjects.push(Subject {
            cgroup_path: sandbox.read(|r| r.cgroup_parent.clone()),
            layer_of: None,
            network: sandbox.pod().filter(|_| own_network),
            processes: if details { Look::Open } else { Look::Count },
        });
        subjects.extend(cells.iter().map(|cell| subject(cell, details)));
    }
    let mut measured = state.ports.meter.measure(subjects).await.into_iter();
    let dropped = if details { log_dropped(&sandboxes).await } else { HashMap::new() };
    let mut found = Vec::new();
    for (sandbox, cells) in sandboxes.iter().zip(&containers) {
        let own = measured.next().unwrap_or_default();
        let mut containers: Vec<_> = cells
            .iter()
            .zip(measured.by_ref())
            .filter_map(|(cell, measured)| running(cell, measured))
            .collect();
        for stats in &mut containers {
            stats.log_dropped = dropped.get(&stats.id).copied();
        }
        // Stopped in between: as if it had never been listed.
        if sandbox.ready().is_ok() {
            found.push(summary(sandbox, own, containers));
        }
    }
    found
}

/// Bytes of log that the shims could not write, all asked at once; a shim that gives no account is left out.
async fn log_dropped(sandboxes: &[Arc<Sandbox>]) -> HashMap<ContainerId, u64> {
    let mut asked = tokio::task::JoinSet::new();
    for pod in sandboxes.iter().filter_map(|sandbox| sandbox.pod()) {
        asked.spawn(async move { tokio::time::timeout(ACCOUNT_PATIENCE, pod.snapshot()).await });
    }
    let mut found = HashMap::new();
    while let Some(account) = asked.join_next().await {
        if let Ok(Ok(Ok(seen))) = account {
            found.extend(seen.into_iter().map(|seen| (seen.container, seen.log_dropped)));
        }
    }
    found
}

fn subject(container: &Container, details: bool) -> Subject {
    Subject {
        cgroup_path: container.read(|r| r.cgroup_path.clone()),
        layer_of: Some(container.id.clone()),
        network: None,
        processes: if details { Look::Open } else { Look::No },
    }
}

/// `None` when it ended while it was measured.
fn running(container: &Container, measured: Measurement) -> Option<ContainerStats> {
    Some(describe(container, measured)).filter(|stats| stats.group.is_some())
}

fn describe(container: &Container, measured: Measurement) -> ContainerStats {
    let cpu = measured.group.as_ref().and_then(|group| group.cpu).map(|cpu| cpu.total);
    let (at, nano_cores) = container.pace.lock().note(measured.at, cpu);
    container.read(|r| ContainerStats {
        id: r.id.clone(),
        metadata: r.config.metadata.clone(),
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        image: r.config.image.image.clone(),
        cgroup_path: r.cgroup_path.clone(),
        started_at: r.run.started_at,
        resources: r.config.resources.clone(),
        at,
        // The cgroup of an ended one stays until its removal, with old numbers.
        group: measured.group.filter(|_| r.run.state == ContainerState::Running),
        nano_cores,
        layer: measured.layer,
        processes: measured.processes,
        log_dropped: None,
    })
}

fn summary(sandbox: &Sandbox, measured: Measurement, containers: Vec<ContainerStats>) -> SandboxStats {
    let cpu = measured.group.as_ref().and_then(|group| group.cpu).map(|cpu| cpu.total);
    let (at, nano_cores) = sandbox.pace.lock().note(measured.at, cpu);
    sandbox.read(|r| SandboxStats {
        id: r.id.clone(),
        metadata: r.config.metadata.clone(),
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        cgroup_path: r.cgroup_parent.clone(),
        at,
        group: measured.group,
        nano_cores,
        processes: measured.processes,
        interfaces: measured.interfaces,
        containers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times() {
        let mut pace = Pace::default();
        assert_eq!(pace.note(100, Some(50)), (100, None));
        // The clock stands or goes back: reported times go on.
        assert_eq!(pace.note(100, Some(50)), (101, None));
        assert_eq!(pace.note(10, Some(60)), (102, None));
        // Half a core for two seconds.
        let later = 100 + 2 * SECOND;
        assert_eq!(pace.note(later, Some(50 + SECOND as u64)), (later, Some(500_000_000)));
        // Too soon for another: the last one stands.
        assert_eq!(pace.note(later + 5, Some(60 + SECOND as u64)).1, Some(500_000_000));
        assert_eq!(pace.note(later + 2 * SECOND, Some(3)).1, None, "a counter that began anew");
        assert_eq!(pace.note(later + 3 * SECOND, None).1, None);
    }
}
