//! After a start: what the records say against what is really there. Every object is taken for itself; a broken one
//! blocks no other.

use std::collections::HashMap;
use std::sync::Arc;

use berth_ids::{ContainerId, SandboxId};
use berth_model::{ContainerState, LifeEventKind};
use berth_shim_wire::ExitStatus;
use tokio::task::JoinSet;

use crate::ports::{Pod, Seen};
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::state::{Container, Sandbox, State, now};
use crate::{PodsError, container, sandbox};

/// What a start found, for the log and for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Pods that still run and were taken over.
    pub adopted: usize,
    /// Pods known but no longer running.
    pub stopped: usize,
    /// Half-made or half-removed pods that were cleared.
    pub cleared: usize,
    /// The machine was booted in between.
    pub rebooted: bool,
}

pub(crate) async fn run(state: &Arc<State>) -> Result<Recovered, PodsError> {
    let loaded = state.ports.store.load().await.map_err(PodsError::port("read the records back"))?;
    let mut by_pod: HashMap<SandboxId, Vec<ContainerRecord>> = HashMap::new();
    let images = |c: &ContainerRecord| {
        let all: Vec<_> = std::iter::once(&c.image_id).chain(&c.image_volumes).cloned().collect();
        all.into_iter().map(|image| (c.id.clone(), image)).collect::<Vec<_>>()
    };
    let live_images = loaded.containers.iter().flat_map(images).collect();
    for container in loaded.containers {
        by_pod.entry(container.sandbox_id.clone()).or_default().push(container);
    }
    if let Err(error) = state.ports.images.restore(live_images).await {
        warn("image leases are not restored", &error);
    }
    let mut found = Recovered { rebooted: loaded.rebooted, ..Recovered::default() };

    let mut tasks = JoinSet::new();
    for record in loaded.sandboxes {
        let containers = by_pod.remove(&record.id).unwrap_or_default();
        let (state, rebooted) = (state.clone(), loaded.rebooted);
        tasks.spawn(async move { take(&state, record, containers, rebooted).await });
    }
    let mut half = Vec::new();
    while let Some(taken) = tasks.join_next().await {
        match taken {
            Ok(Taken::Adopted) => found.adopted += 1,
            Ok(Taken::Stopped) => found.stopped += 1,
            Ok(Taken::Half(sandbox)) => half.push(sandbox),
            Err(error) => warn("a pod is not taken over", &error),
        }
    }
    // Containers of no pod: their sandbox's record was lost.
    for orphan in by_pod.into_values().flatten() {
        drop_orphan(state, &orphan).await;
    }
    // The network must know every address in use before it hands one out, so this comes before any removal ends.
    let sandboxes = state.sandboxes();
    let live = sandboxes
        .iter()
        .filter_map(|s| s.read(|r| r.attachment.clone().map(|a| (r.id.clone(), a))))
        .collect();
    if let Err(error) = state.ports.network.restore(live).await {
        warn("the network is not restored", &error);
    }
    found.cleared = half.len();
    for sandbox in half {
        if let Err(error) = sandbox::finish_removal(state, &sandbox).await {
            warn("a half-made pod stays until it is removed", &error);
        }
    }
    let removing: Vec<_> = state.containers().into_iter().filter(|c| c.read(|r| r.removing)).collect();
    for cell in removing {
        if let Err(error) = container::remove_cell(state, &cell).await {
            warn("a container stays half removed", &error);
        }
    }
    for sandbox in state.sandboxes() {
        let state = state.clone();
        tokio::spawn(async move { sandbox::expire(&state, &sandbox).await });
    }
    let known: Vec<SandboxId> = state.sandboxes().iter().map(|s| s.id.clone()).collect();
    state.ports.launcher.sweep(&known).await;
    Ok(found)
}

enum Taken {
    Adopted,
    Stopped,
    /// To be removed, once all others are known.
    Half(Arc<Sandbox>),
}

async fn take(
    state: &Arc<State>,
    record: SandboxRecord,
    containers: Vec<ContainerRecord>,
    rebooted: bool,
) -> Taken {
    let id = record.id.clone();
    let adopted = match rebooted {
        true => Ok(None),
        false => state.ports.launcher.adopt(&id, state.events()).await,
    };
    let pod = adopted.unwrap_or_else(|error| {
        warn("a shim does not answer", &error);
        None
    });
    let phase = record.phase;
    let sandbox = Sandbox::new(record, pod.clone());
    state.insert_sandbox(sandbox.clone());
    let cells: Vec<_> =
        containers.into_iter().map(|record| Container::new(record, sandbox.clone())).collect();
    for cell in &cells {
        state.insert_container(cell.clone());
    }
    match pod {
        Some(pod) => reconcile(state, &*pod, &cells).await,
        None => without_shim(state, &id, &cells, rebooted).await,
    }
    match phase {
        Phase::Creating | Phase::Removing => Taken::Half(sandbox),
        Phase::Ready if sandbox.pod().is_some() => Taken::Adopted,
        Phase::Ready => {
            not_ready(state, &sandbox).await;
            Taken::Stopped
        }
        // A stop was cut off: go on with it.
        Phase::NotReady => {
            if let Err(error) = sandbox::release(state, &sandbox, Phase::NotReady).await {
                warn("a stop is not finished", &error);
            }
            Taken::Stopped
        }
    }
}

/// Believes the shim about every container it knows.
async fn reconcile(state: &Arc<State>, pod: &dyn Pod, cells: &[Arc<Container>]) {
    let seen = match pod.snapshot().await {
        Ok(seen) => seen.into_iter().map(|s| (s.container.clone(), s)).collect::<HashMap<_, _>>(),
        Err(error) => return warn("a shim gives no account", &error),
    };
    for cell in cells {
        let before = cell.read(|r| r.run.clone());
        let after = cell.update(|r| match (seen.get(&r.id), r.run.state) {
            (Some(Seen { exit: Some(status), started_at, .. }), state) if state != ContainerState::Exited => {
                r.run.started_at = *started_at;
                r.run.ended(*status);
            }
            (Some(Seen { exit: None, pid, started_at, .. }), _) => r.run.running(*pid, *started_at),
            (None, ContainerState::Running | ContainerState::Unknown) => {
                r.run.lost(now(), "the pod's shim does not know this container");
            }
            _ => {}
        });
        if after.run.state != ContainerState::Created {
            cell.start_is_known();
        }
        if after.run != before {
            save(state, &after).await;
        }
    }
}

/// The shim is gone: what it wrote down, else "unknown".
async fn without_shim(state: &Arc<State>, id: &SandboxId, cells: &[Arc<Container>], rebooted: bool) {
    let ends: HashMap<ContainerId, ExitStatus> =
        state.ports.launcher.exit_records(id).await.into_iter().collect();
    for cell in cells {
        let ended = cell.end(|run| match (ends.get(&cell.id), run.state) {
            (Some(status), _) => run.ended(*status),
            (None, ContainerState::Created) => {}
            (None, _) if rebooted => run.lost(now(), "the machine was booted while it ran"),
            (None, _) => run.lost(now(), "its supervisor died with it"),
        });
        if let Some(record) = ended {
            state.tell_ended(cell, true);
            if let Err(error) = state.ports.launcher.clear_cgroup(&record.cgroup_path).await {
                warn("a cgroup of a lost pod stays", &error);
            }
            save(state, &record).await;
        }
    }
}

/// A shim died under a running daemon.
pub(crate) async fn lost(state: &Arc<State>, sandbox: &Arc<Sandbox>) {
    if sandbox.phase() != Phase::Ready {
        return;
    }
    tracing::error!(sandbox = %sandbox.id, "the pod's shim died; its containers are ended");
    sandbox.forget_pod();
    without_shim(state, &sandbox.id, &state.containers_of(&sandbox.id), false).await;
    not_ready(state, sandbox).await;
    state.tell(LifeEventKind::Stopped, sandbox, sandbox.id.as_str());
}

async fn not_ready(state: &State, sandbox: &Sandbox) {
    let record = sandbox.update(|r| r.phase = Phase::NotReady);
    if let Err(error) = state.save_sandbox(&record).await {
        warn("a sandbox's end is not on disk", &error);
    }
}

async fn drop_orphan(state: &State, record: &ContainerRecord) {
    tracing::warn!(container = %record.id, sandbox = %record.sandbox_id, "a container of no known pod is dropped");
    if let Err(error) = state.ports.launcher.clear_cgroup(&record.cgroup_path).await {
        warn("its cgroup stays", &error);
    }
    if let Err(error) = state.ports.images.release(&record.id).await {
        warn("its writable layer stays", &error);
    }
    if let Err(error) = state.ports.store.delete_container(&record.id).await {
        warn("its record stays", &error);
    }
}

async fn save(state: &State, record: &ContainerRecord) {
    if let Err(error) = state.save_container(record).await {
        warn("a container's end is not on disk", &error);
    }
}

fn warn(what: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "{what}");
}
