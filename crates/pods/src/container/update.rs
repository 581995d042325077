use std::sync::Arc;

use berth_model::{ContainerState, Resources};

use super::word;
use crate::PodsError;
use crate::ports::{Look, Subject};
use crate::state::{Container, State};

/// Other limits for a container. One update after the other, and none during a start.
pub(crate) async fn update(state: &Arc<State>, id: &str, asked: Resources) -> Result<(), PodsError> {
    let container = state.container(id)?;
    let work = state.clone();
    // Detached: a lost client does not leave it half done. Not joined: two updates are not the same.
    let updating = tokio::spawn(async move { run(&work, &container, &asked).await });
    updating.await.unwrap_or_else(|_| Err(PodsError::Lost { object: format!("container {id}") }))
}

async fn run(state: &State, container: &Container, asked: &Resources) -> Result<(), PodsError> {
    let _turn = container.turn.lock().await;
    let running = updatable(container)?;
    let (had, path) = container.read(|r| (r.config.resources.clone(), r.cgroup_path.clone()));
    let mut new = berth_plan::updated_resources(had.as_ref(), asked, state.ports.launcher.facts())?;
    let launcher = &state.ports.launcher;
    if running {
        // A process keeps the score it was born with.
        new.oom_score_adj = had.as_ref().map_or(0, |had| had.oom_score_adj);
        fits(state, container, asked, &path).await?;
        if let Err(source) = launcher.limit(&path, berth_plan::cgroup_limits(&new)).await {
            // Its cgroup goes with it: that it ended is the better answer.
            updatable(container)?;
            return Err(PodsError::Port { doing: format!("limit container {}", container.id), source });
        }
    } else {
        new.oom_score_adj = match asked.oom_score_adj {
            0 => had.as_ref().map_or(0, |had| had.oom_score_adj),
            given => given,
        };
    }
    let record = container.update(|r| r.config.resources = Some(new));
    let saved = state.save_container(&record).await;
    if saved.is_err() {
        container.update(|r| r.config.resources.clone_from(&had));
        if let (true, Some(had)) = (running, &had)
            && let Err(error) = launcher.limit(&path, berth_plan::cgroup_limits(had)).await
        {
            tracing::warn!(container = %container.id, error = &error as &dyn std::error::Error, "limits stay changed");
        }
    }
    saved
}

/// Whether it runs; an error when it cannot be updated any more.
fn updatable(container: &Container) -> Result<bool, PodsError> {
    match container.state() {
        ContainerState::Created => Ok(false),
        ContainerState::Running => Ok(true),
        state => Err(PodsError::WrongState {
            id: container.id.to_string(),
            state: word(state),
            wanted: "created or running",
        }),
    }
}

/// A limit below what cannot be reclaimed would have the kernel kill the container (v2) or be refused by it (v1).
async fn fits(state: &State, container: &Container, asked: &Resources, path: &str) -> Result<(), PodsError> {
    let Some(limit) = u64::try_from(asked.memory_limit).ok().filter(|limit| *limit > 0) else {
        return Ok(());
    };
    let subject =
        Subject { cgroup_path: path.to_owned(), layer_of: None, network: None, processes: Look::No };
    let measured = state.ports.meter.measure(vec![subject]).await.pop();
    let memory = measured.and_then(|m| m.group).and_then(|group| group.memory);
    match memory {
        Some(memory) if memory.working_set > limit => Err(PodsError::LimitBelowUse {
            id: container.id.to_string(),
            limit: asked.memory_limit,
            used: memory.working_set,
        }),
        _ => Ok(()),
    }
}
