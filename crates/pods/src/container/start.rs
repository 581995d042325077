use std::sync::Arc;
use std::time::Duration;

use berth_ids::Classify as _;
use berth_model::{ContainerState, NamespaceMode, ProfileKind};
use berth_plan::{ContainerInputs, ContainerPlan, RecordedSpec};

use super::{log_file, must_be};
use crate::PodsError;
use crate::ports::{ImageHandle, Manner, Pod, StartRequest, Started, Streams};
use crate::state::{Container, State, now};

/// Gives birth to a created container's process.
pub(crate) async fn start(state: &Arc<State>, id: &str) -> Result<(), PodsError> {
    let container = state.container(id)?;
    let key = (container.id.clone(), "start");
    let work = state.clone();
    state.container_ops.join(key, move || async move { run(&work, &container).await }).await
}

async fn run(state: &Arc<State>, container: &Arc<Container>) -> Result<(), PodsError> {
    let _turn = container.turn.lock().await;
    must_be(container, ContainerState::Created)?;
    let pod = container.sandbox.ready()?;
    let prepared = prepare(state, container).await;
    let (spec, request) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(failed(state, container, error).await),
    };
    match pod.start(request).await {
        Ok(started) => {
            let recorded = born(state, container, spec, started).await;
            if container.read(|r| berth_plan::waits_for_readers(&r.config)) {
                tokio::spawn(let_go(container.clone(), pod));
            }
            recorded
        }
        Err(source) => {
            let error = PodsError::Port { doing: format!("start container {}", container.id), source };
            clear(container, &*pod).await;
            Err(failed(state, container, error).await)
        }
    }
}

/// How long a container's output is held for somebody to attach.
const HELD_MAX: Duration = Duration::from_secs(10);

/// Ends the holding, also when whoever was to attach is gone: an attach that wants nothing does it.
async fn let_go(container: Arc<Container>, pod: Arc<dyn Pod>) {
    tokio::select! {
        () = tokio::time::sleep(HELD_MAX) => {}
        () = container.wait_ended() => return,
    }
    if let Err(error) = pod.attach(&container.id, Streams::default(), Manner::default()).await {
        tracing::debug!(container = %container.id, error = &error as &dyn std::error::Error, "it has ended");
    }
}

/// Everything the start needs, decided before anything is made.
async fn prepare(state: &State, container: &Container) -> Result<(RecordedSpec, StartRequest), PodsError> {
    let record = container.read(Clone::clone);
    let sandbox = container.sandbox.read(|r| r.config.clone());
    let ports = &state.ports;
    let image: ImageHandle = {
        let found = ports.images.leased(&record.image_id).await;
        found.ok_or_else(|| PodsError::NoImage { reference: record.image_id.to_string() })?
    };
    let choice = berth_plan::seccomp_choice(&record.config.security)?;
    let caps = berth_plan::bounding_caps(&record.config.security, ports.launcher.facts())?;
    let seccomp =
        ports.launcher.seccomp(&choice, caps).await.map_err(PodsError::port("prepare the seccomp filter"))?;
    let devices = ports.launcher.devices(&record.config.devices).await;
    let devices = devices.map_err(PodsError::port("look up config.devices"))?;
    let target = super::target(state, &container.sandbox, &record.config.security.namespaces)?;
    let inputs = ContainerInputs {
        sandbox_id: &record.sandbox_id,
        container_id: &record.id,
        sandbox: &sandbox,
        container: &record.config,
        image: &image.config,
        user: &record.user,
        files: &ports.launcher.files(&record.sandbox_id),
        host: ports.launcher.facts(),
        cgroup_path: &record.cgroup_path,
        seccomp,
        devices: &devices,
        target_pid_container: target,
        privileged_host_devices: state.settings.privileged_host_devices,
        sandbox_has_shm: sandbox.security.namespaces.ipc != NamespaceMode::Node,
    };
    let spec = berth_plan::container_spec(&inputs)?;
    let plan: ContainerPlan = berth_plan::container_plan(&spec, &inputs)?;
    let request = StartRequest {
        container: record.id.clone(),
        image: record.image_id.clone(),
        cgroup_path: record.cgroup_path.clone(),
        log: log_file(&sandbox.log_directory, &record.config.log_path),
        image_volumes: record
            .image_volumes
            .iter()
            .cloned()
            .zip(berth_plan::image_mounts(&record.config).map(|(_, mount, _)| mount.image_sub_path.clone()))
            .collect(),
        plan,
    };
    Ok((RecordedSpec::of(&spec)?, request))
}

async fn born(
    state: &State,
    container: &Container,
    spec: RecordedSpec,
    started: Started,
) -> Result<(), PodsError> {
    let record = container.update(|r| {
        // A short-lived process may have ended, and its end been told, before the answer came.
        if r.run.state == ContainerState::Created {
            r.run.running(started.pid, started.started_at);
        } else if r.run.started_at == 0 {
            r.run.started_at = started.started_at;
            r.run.finished_at = r.run.finished_at.max(started.started_at);
        }
        r.spec = Some(spec);
        r.warnings.extend(started.warnings.iter().cloned());
    });
    let id = container.id.short();
    for warning in &started.warnings {
        tracing::warn!(container = %id, warning);
    }
    if record.config.security.seccomp.as_ref().is_some_and(|s| s.kind == ProfileKind::Unconfined) {
        tracing::debug!(container = %id, "runs without a seccomp filter, as asked");
    }
    tracing::info!(container = %id, pid = started.pid, "container started");
    state.tell_started(container);
    state.save_container(&record).await
}

/// A failed start is the container's end: exit code 128, reason StartError.
async fn failed(state: &State, container: &Container, error: PodsError) -> PodsError {
    let text = chain(&error);
    tracing::debug!(container = %container.id, class = ?error.class(), "start failed");
    if let Some(record) = container.end(|run| run.start_failed(now(), text)) {
        state.tell_ended(container, true);
        if let Err(unsaved) = state.save_container(&record).await {
            tracing::warn!(container = %container.id, error = &unsaved as &dyn std::error::Error, "the failed start is not on disk");
        }
    }
    error
}

async fn clear(container: &Container, pod: &dyn Pod) {
    let path = container.read(|r| r.cgroup_path.clone());
    if let Err(error) = pod.forget(&container.id, &path).await {
        tracing::warn!(container = %container.id, error = &error as &dyn std::error::Error, "leftovers stay until it is removed");
    }
}

/// An error and its causes on one line; a cause that only repeats the text before it is told once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}
