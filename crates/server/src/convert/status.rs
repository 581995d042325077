use berth_cri_api::v1;
use berth_model::{
    ContainerFilter, ContainerState, ContainerStatus, Mount, Propagation, SandboxFilter, SandboxState,
    SandboxStatus, Signal,
};

use super::{known, to_image_spec, to_map, to_namespaces, to_resources};
use crate::Failure;

fn sandbox_state(state: SandboxState) -> v1::PodSandboxState {
    match state {
        SandboxState::Ready => v1::PodSandboxState::SandboxReady,
        SandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

fn container_state(state: ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running => v1::ContainerState::ContainerRunning,
        ContainerState::Exited => v1::ContainerState::ContainerExited,
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    }
}

fn metadata(of: berth_model::SandboxMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata { name: of.name, uid: of.uid, namespace: of.namespace, attempt: of.attempt }
}

pub(crate) fn sandbox_status(status: SandboxStatus) -> v1::PodSandboxStatus {
    let mut ips = status.ips.iter().map(ToString::to_string);
    let network = v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    };
    let namespaces = v1::Namespace { options: Some(to_namespaces(status.namespaces)) };
    v1::PodSandboxStatus {
        id: status.id.to_string(),
        metadata: Some(metadata(status.metadata)),
        state: sandbox_state(status.state).into(),
        created_at: status.created_at,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: to_map(status.labels),
        annotations: to_map(status.annotations),
        runtime_handler: status.runtime_handler,
    }
}

pub(crate) fn sandbox_summary(status: SandboxStatus) -> v1::PodSandbox {
    v1::PodSandbox {
        id: status.id.to_string(),
        metadata: Some(metadata(status.metadata)),
        state: sandbox_state(status.state).into(),
        created_at: status.created_at,
        labels: to_map(status.labels),
        annotations: to_map(status.annotations),
        runtime_handler: status.runtime_handler,
    }
}

fn mount(mount: Mount) -> v1::Mount {
    let mappings = |list: Vec<berth_model::IdMapping>| {
        let one = |m: berth_model::IdMapping| v1::IdMapping {
            host_id: m.host_id,
            container_id: m.container_id,
            length: m.length,
        };
        list.into_iter().map(one).collect()
    };
    v1::Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            Propagation::Private => v1::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: mappings(mount.uid_mappings),
        gid_mappings: mappings(mount.gid_mappings),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.map(to_image_spec),
        image_sub_path: mount.image_sub_path,
        mount_options: mount.mount_options,
    }
}

/// The enum spells offsets out: `SIGRTMIN+3` is `SIGRTMINPLUS3`.
fn signal(signal: Signal) -> i32 {
    let name = signal.name().replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&format!("SIGNAL_{name}")).map_or(0, Into::into)
}

pub(crate) fn container_status(status: ContainerStatus) -> v1::ContainerStatus {
    let user = status.user.map(|user| v1::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.into_iter().map(i64::from).collect(),
    });
    v1::ContainerStatus {
        id: status.id.to_string(),
        metadata: Some(v1::ContainerMetadata {
            name: status.metadata.name,
            attempt: status.metadata.attempt,
        }),
        state: container_state(status.state).into(),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: Some(to_image_spec(status.image)),
        image_ref: status.image_ref,
        reason: status.reason,
        message: status.message,
        labels: to_map(status.labels),
        annotations: to_map(status.annotations),
        mounts: status.mounts.into_iter().map(mount).collect(),
        log_path: status.log_path,
        resources: status
            .resources
            .map(|r| v1::ContainerResources { linux: Some(to_resources(r)), windows: None }),
        image_id: status.image_id.to_string(),
        user: user.map(|linux| v1::ContainerUser { linux: Some(linux) }),
        stop_signal: signal(status.stop_signal),
    }
}

pub(crate) fn container_summary(status: ContainerStatus) -> v1::Container {
    v1::Container {
        id: status.id.to_string(),
        pod_sandbox_id: status.sandbox_id.to_string(),
        metadata: Some(v1::ContainerMetadata {
            name: status.metadata.name,
            attempt: status.metadata.attempt,
        }),
        image: Some(to_image_spec(status.image)),
        image_ref: status.image_ref,
        state: container_state(status.state).into(),
        created_at: status.created_at,
        labels: to_map(status.labels),
        annotations: to_map(status.annotations),
        image_id: status.image_id.to_string(),
    }
}

pub(crate) fn sandbox_filter(given: Option<v1::PodSandboxFilter>) -> Result<SandboxFilter, Failure> {
    let given = given.unwrap_or_default();
    let state = given.state.map(|state| {
        Ok::<_, Failure>(match known("filter.state", state.state)? {
            v1::PodSandboxState::SandboxReady => SandboxState::Ready,
            v1::PodSandboxState::SandboxNotready => SandboxState::NotReady,
        })
    });
    let labels = given.label_selector.into_iter().collect();
    Ok(SandboxFilter { id: given.id, state: state.transpose()?, labels })
}

pub(crate) fn container_filter(given: Option<v1::ContainerFilter>) -> Result<ContainerFilter, Failure> {
    let given = given.unwrap_or_default();
    let state = given.state.map(|state| {
        Ok::<_, Failure>(match known("filter.state", state.state)? {
            v1::ContainerState::ContainerCreated => ContainerState::Created,
            v1::ContainerState::ContainerRunning => ContainerState::Running,
            v1::ContainerState::ContainerExited => ContainerState::Exited,
            v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
        })
    });
    let labels = given.label_selector.into_iter().collect();
    Ok(ContainerFilter { id: given.id, state: state.transpose()?, sandbox_id: given.pod_sandbox_id, labels })
}
