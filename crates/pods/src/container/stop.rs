use std::sync::Arc;
use std::time::Duration;

use berth_model::ContainerState;
use tokio::time::{Instant, sleep_until, timeout};

use crate::PodsError;
use crate::state::{Container, State};

/// Sends the stop signal once in the container's life; SIGKILL when the shortest grace that anybody gave is over.
pub(crate) async fn stop(state: &Arc<State>, id: &str, grace: Duration) -> Result<(), PodsError> {
    let Some(container) = state.find_container(id)? else { return Ok(()) };
    let work = state.clone();
    // Not joined by key: a second call with a shorter grace must be heard by the first.
    let ending = tokio::spawn(async move { end_now(&work, &container, grace).await });
    ending.await.unwrap_or_else(|_| Err(PodsError::Lost { object: format!("container {id}") }))
}

/// Ends the container if it runs.
pub(crate) async fn end_now(state: &State, container: &Container, grace: Duration) -> Result<(), PodsError> {
    if container.state() != ContainerState::Running {
        return Ok(());
    }
    let Some(pod) = container.sandbox.pod() else { return Ok(()) };
    // Far enough for "never" without overflowing the clock.
    let asked = Instant::now() + grace.min(Duration::from_secs(10 * 365 * 86_400));
    let mut first = false;
    container.kill_at.send_if_modified(|due| {
        first = due.is_none();
        let earlier = due.is_none_or(|due| asked < due);
        if earlier {
            *due = Some(asked);
        }
        earlier
    });
    if first && !grace.is_zero() {
        let signal = container.read(|r| r.stop_signal);
        if let Err(error) = pod.signal(&container.id, signal).await {
            // It may have ended in between; if not, SIGKILL follows.
            tracing::debug!(container = %container.id, error = &error as &dyn std::error::Error, "stop signal not delivered");
        }
    }
    let mut due = container.kill_at.subscribe();
    loop {
        let at = due.borrow_and_update().unwrap_or(asked);
        tokio::select! {
            () = container.wait_ended() => return Ok(()),
            _ = due.changed() => {}
            () = sleep_until(at) => break,
        }
    }
    let path = container.read(|r| r.cgroup_path.clone());
    let killed = pod.kill(&container.id, &path).await;
    killed.map_err(PodsError::port(format!("kill container {}", container.id)))?;
    let wait = state.settings.kill_wait;
    let ended = timeout(wait, container.wait_ended()).await;
    ended.map_err(|_| PodsError::WillNotDie { id: container.id.to_string(), wait })
}
