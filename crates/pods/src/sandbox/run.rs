use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_ids::SandboxId;
use berth_model::{LifeEventKind, NamespaceMode, SandboxConfig};

use crate::ports::{Attachment, Connect};
use crate::record::{Phase, SandboxRecord};
use crate::state::{Sandbox, State, now, random};
use crate::{DEFAULT_HANDLER, PodsError, files};

/// Makes a sandbox, or gives the one that the same call made before.
pub(crate) async fn run(state: &Arc<State>, config: SandboxConfig) -> Result<SandboxId, PodsError> {
    berth_plan::validate_sandbox(&config, state.ports.launcher.facts())?;
    if !["", DEFAULT_HANDLER].contains(&config.runtime_handler.as_str()) {
        return Err(PodsError::UnknownHandler { name: config.runtime_handler });
    }
    let (state, key) = (state.clone(), config.metadata.clone());
    let work = state.clone();
    state.runs.join(key, move || async move { make(&work, config).await }).await
}

async fn make(state: &Arc<State>, config: SandboxConfig) -> Result<SandboxId, PodsError> {
    let earlier = state.sandboxes().into_iter().find(|s| s.read(|r| r.config.metadata == config.metadata));
    if let Some(earlier) = earlier {
        let same = earlier.read(|r| r.phase == Phase::Ready && r.config == config);
        return match same {
            true => Ok(earlier.id.clone()),
            false => Err(PodsError::Exists {
                kind: "sandbox",
                name: format!("{}/{}", config.metadata.namespace, config.metadata.name),
                id: earlier.id.to_string(),
            }),
        };
    }

    let id = SandboxId::from_bytes(random());
    let _coming = state.comes(&id);
    let cgroup_parent = match config.cgroup_parent.as_str() {
        "" => format!("{}/{id}", state.settings.cgroup_parent),
        given => given.to_owned(),
    };
    let record = SandboxRecord {
        id: id.clone(),
        phase: Phase::Creating,
        created_at: now(),
        config,
        cgroup_parent,
        attachment: None,
        resources: None,
        overhead: None,
    };
    // Before anything exists: a restart finds the record and takes down whatever there is.
    state.add_sandbox(&record).await?;
    let mut made = Made::default();
    match build(state, record, &mut made).await {
        Ok(sandbox) => {
            tracing::info!(sandbox = %id.short(), "sandbox ready");
            state.insert_sandbox(sandbox.clone());
            state.tell(LifeEventKind::Created, &sandbox, id.as_str());
            state.tell(LifeEventKind::Started, &sandbox, id.as_str());
            Ok(id)
        }
        Err(error) => {
            undo(state, &id, made).await;
            Err(error)
        }
    }
}

/// What was acquired so far, for giving it back.
#[derive(Debug, Default)]
struct Made {
    processes: bool,
    netns: Option<Arc<OwnedFd>>,
    attachment: Option<Attachment>,
}

async fn build(
    state: &Arc<State>,
    mut record: SandboxRecord,
    made: &mut Made,
) -> Result<Arc<Sandbox>, PodsError> {
    let ports = &state.ports;
    let id = record.id.clone();
    let host_name = ports.launcher.host_file("/proc/sys/kernel/hostname").await.unwrap_or_default();
    let plan = berth_plan::sandbox_plan(&id, &record.config, String::from_utf8_lossy(&host_name).trim())?;
    made.processes = true;
    let pod =
        ports.launcher.spawn(&id, plan, state.events()).await.map_err(PodsError::port("start the pod"))?;
    if record.config.security.namespaces.network == NamespaceMode::Pod {
        made.netns = Some(pod.netns());
        let asked = Connect {
            id: &id,
            pid: pod.pid(),
            netns: pod.netns(),
            config: &record.config,
            cgroup_parent: &record.cgroup_parent,
        };
        let attached = ports.network.attach(asked).await;
        let attachment = attached.map_err(PodsError::port("connect the pod"))?;
        made.attachment = Some(attachment.clone());
        record.attachment = Some(attachment);
    }
    let ips = record.attachment.as_ref().map_or(&[][..], |a| &a.ips);
    let files = files::contents(&*ports.launcher, &record.config, ips).await;
    ports.launcher.write_files(&id, files).await.map_err(PodsError::port("write the pod's files"))?;
    record.phase = Phase::Ready;
    state.save_sandbox(&record).await?;
    Ok(Sandbox::new(record, Some(pod)))
}

/// Backwards through what was made. A step that fails is logged and the rest still done: the answer to the caller is
/// the first failure, and the record stays for the next start when anything is left.
async fn undo(state: &State, id: &SandboxId, made: Made) {
    let ports = &state.ports;
    let mut clean = true;
    if let Some(attachment) = &made.attachment {
        clean &= logged(id, "disconnect", ports.network.detach(id, made.netns, Some(attachment)).await);
    }
    if made.processes {
        clean &= logged(id, "end", ports.launcher.destroy(id, Vec::new()).await);
    }
    if clean {
        logged(id, "forget", ports.store.delete_sandbox(id).await);
    }
}

fn logged(id: &SandboxId, doing: &str, result: Result<(), crate::ports::PortError>) -> bool {
    if let Err(error) = &result {
        let error = error as &dyn std::error::Error;
        tracing::warn!(sandbox = %id, error, "cannot {doing} the half-made sandbox; the next start tries again");
    }
    result.is_ok()
}
