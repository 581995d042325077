use std::sync::Arc;

use berth_ids::{ContainerId, SandboxId};
use berth_model::{ContainerConfig, ContainerState, LifeEventKind};

use super::log_file;
use crate::PodsError;
use crate::ports::ImageHandle;
use crate::record::{ContainerRecord, ContainerRun};
use crate::state::{Container, Sandbox, State, now, random};

/// Checks everything that can be refused, and records the container; nothing of it exists in the kernel until its
/// start. The same call again gives the same id as long as the container has not been started.
pub(crate) async fn create(
    state: &Arc<State>,
    sandbox: &str,
    config: ContainerConfig,
) -> Result<ContainerId, PodsError> {
    let sandbox = state.sandbox(sandbox)?;
    sandbox.ready()?;
    let key = (sandbox.id.clone(), config.metadata.clone());
    let work = state.clone();
    state.creates.join(key, move || async move { make(&work, sandbox, config).await }).await
}

async fn make(
    state: &Arc<State>,
    sandbox: Arc<Sandbox>,
    config: ContainerConfig,
) -> Result<ContainerId, PodsError> {
    if let Some(id) = made_before(state, &sandbox.id, &config)? {
        return Ok(id);
    }
    let sandbox_config = sandbox.read(|r| r.config.clone());
    let image = find_image(state, &config).await?;
    berth_plan::validate_container(&sandbox_config, &config, &image.config, state.ports.launcher.facts())?;
    findable(state, &sandbox, &config).await?;
    let user = resolve_user(state, &config, &image).await?;
    berth_plan::validate_user(&sandbox_config, &user)?;

    let image_volumes = image_volumes(state, &config).await?;

    let id = ContainerId::from_bytes(random());
    let record = ContainerRecord {
        id: id.clone(),
        sandbox_id: sandbox.id.clone(),
        created_at: now(),
        stop_signal: berth_plan::stop_signal(&config, &image.config),
        log_path: log_file(&sandbox_config.log_directory, &config.log_path)
            .map(|log| log.directory.join(log.name).to_string_lossy().into_owned())
            .unwrap_or_default(),
        cgroup_path: format!("{}/{id}", sandbox.read(|r| r.cgroup_parent.clone())),
        image_id: image.id.clone(),
        image_ref: image.reference,
        user,
        run: ContainerRun::created(),
        spec: None,
        image_volumes,
        removing: false,
        warnings: berth_plan::warnings(&config, state.ports.launcher.facts()),
        config,
    };
    // A pod that is on its way out makes nothing any more, and takes along what is there when its turn comes.
    let _turn = sandbox.turn.lock().await;
    sandbox.ready()?;
    // The lease first: a lease without a record is dropped at the next start, a record without a lease could lose its
    // layers.
    if let Err(error) = keep(state, &record).await {
        if let Err(undo) = state.ports.images.release(&id).await {
            tracing::warn!(container = %id, error = &undo as &dyn std::error::Error, "the lease stays until the next start");
        }
        return Err(error);
    }
    state.insert_container(Container::new(record, sandbox.clone()));
    for warning in state.container(id.as_str()).iter().flat_map(|c| c.read(|r| r.warnings.clone())) {
        tracing::warn!(container = %id.short(), warning);
    }
    state.tell(LifeEventKind::Created, &sandbox, id.as_str());
    tracing::info!(container = %id.short(), "container created");
    Ok(id)
}

/// Refuses what names something that is not there. Its start looks it up again: it may be gone, or another, by then.
async fn findable(state: &State, sandbox: &Sandbox, config: &ContainerConfig) -> Result<(), PodsError> {
    let launcher = &state.ports.launcher;
    let devices = launcher.devices(&config.devices).await;
    devices.map_err(PodsError::Refused)?;
    let choice = berth_plan::seccomp_choice(&config.security)?;
    let caps = berth_plan::bounding_caps(&config.security, launcher.facts())?;
    let filter = launcher.seccomp(&choice, caps).await;
    filter.map_err(PodsError::Refused)?;
    super::target(state, sandbox, &config.security.namespaces).map(drop)
}

async fn keep(state: &State, record: &ContainerRecord) -> Result<(), PodsError> {
    for image in std::iter::once(&record.image_id).chain(&record.image_volumes) {
        let leased = state.ports.images.lease(image, &record.id).await;
        leased.map_err(PodsError::port(format!("keep image {image}")))?;
    }
    state.add_container(record).await
}

/// The images of `mounts[].image`, each with something at its sub path.
async fn image_volumes(
    state: &State,
    config: &ContainerConfig,
) -> Result<Vec<berth_ids::ImageId>, PodsError> {
    let mut volumes = Vec::new();
    for (n, mount, image) in berth_plan::image_mounts(config) {
        let found = state.ports.images.resolve(&image.image).await;
        let found = found.ok_or_else(|| PodsError::NoImageVolume { n, reference: image.image.clone() })?;
        let checked = state.ports.images.check_volume(&found.id, &mount.image_sub_path).await;
        checked.map_err(PodsError::port(format!("config.mounts[{n}].image_sub_path")))?;
        volumes.push(found.id);
    }
    Ok(volumes)
}

fn made_before(
    state: &State,
    sandbox: &SandboxId,
    config: &ContainerConfig,
) -> Result<Option<ContainerId>, PodsError> {
    let earlier =
        state.containers_of(sandbox).into_iter().find(|c| c.read(|r| r.config.metadata == config.metadata));
    let Some(earlier) = earlier else { return Ok(None) };
    match earlier.read(|r| r.run.state == ContainerState::Created && !r.removing && r.config == *config) {
        true => Ok(Some(earlier.id.clone())),
        false => Err(PodsError::Exists {
            kind: "container",
            name: config.metadata.name.clone(),
            id: earlier.id.to_string(),
        }),
    }
}

async fn find_image(state: &State, config: &ContainerConfig) -> Result<ImageHandle, PodsError> {
    let reference = &config.image.image;
    if reference.is_empty() {
        return Err(PodsError::Empty { field: "config.image.image" });
    }
    let found = state.ports.images.resolve(reference).await;
    found.ok_or_else(|| PodsError::NoImage { reference: reference.clone() })
}

async fn resolve_user(
    state: &State,
    config: &ContainerConfig,
    image: &ImageHandle,
) -> Result<berth_plan::ResolvedUser, PodsError> {
    let read = |path| {
        let images = &state.ports.images;
        async move {
            images
                .read_file(&image.id, path)
                .await
                .map_err(PodsError::port(format!("read {path} of the image")))
        }
    };
    let (passwd, group) = (read("etc/passwd").await?, read("etc/group").await?);
    let image_user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    Ok(berth_plan::resolve_user(&config.security, &image_user, passwd.as_deref(), group.as_deref())?)
}
