//! What `run` asks the daemon for: a pod with one container.

use std::collections::HashMap;
use std::path::Path;

use berth_cri_api::v1::*;

use crate::arguments::Run;

/// Label of pods and containers that `run` made; their name.
pub(crate) const LABEL: &str = "berth.run";
/// Of a container: output is held until somebody attaches, and waits for who is attached.
const ATTACH: (&str, &str) = ("berth.attach", "wait");
/// Of a pod: removed so many seconds after its container's end.
const REMOVE_AFTER: &str = "berth.remove-after";
/// What is left to us, in seconds, to look at an ended container and to remove it ourselves.
const OURS: &str = "60";
/// Period of a processor limit in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// As the kubelet hides them from every container that does not ask for more.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn namespaces(run: &Run) -> NamespaceOption {
    let network = if run.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

pub(crate) fn sandbox(run: &Run, name: &str, uid: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        // The host's network has the host's name.
        hostname: match &run.hostname {
            Some(hostname) => hostname.clone(),
            None if run.host_network => String::new(),
            None => name.to_owned(),
        },
        log_directory: logs.to_string_lossy().into_owned(),
        port_mappings: run.ports.clone(),
        labels: HashMap::from([(LABEL.to_owned(), name.to_owned())]),
        annotations: match (run.remove, run.detach) {
            (false, _) => HashMap::new(),
            // Also when we are killed meanwhile.
            (true, detach) => {
                let after = if detach { "0" } else { OURS };
                HashMap::from([(REMOVE_AFTER.to_owned(), after.to_owned())])
            }
        },
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(run)),
                privileged: run.privileged,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn container(run: &Run, name: &str) -> ContainerConfig {
    let annotations = if run.detach { None } else { Some((ATTACH.0.to_owned(), ATTACH.1.to_owned())) };
    let hidden = |list| if run.privileged { Vec::new() } else { owned(list) };
    let security = LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(run)),
        privileged: run.privileged,
        readonly_rootfs: run.read_only,
        run_as_user: run
            .user
            .as_ref()
            .and_then(|user| user.uid.as_ref().ok())
            .map(|uid| Int64Value { value: *uid }),
        run_as_username: run.user.as_ref().and_then(|user| user.uid.clone().err()).unwrap_or_default(),
        run_as_group: run.user.as_ref().and_then(|user| user.gid).map(|value| Int64Value { value }),
        masked_paths: hidden(MASKED),
        readonly_paths: hidden(READ_ONLY),
        seccomp: (!run.privileged).then(SecurityProfile::default),
        ..Default::default()
    };
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: run.memory,
        cpu_period: if run.cpu_quota > 0 { CPU_PERIOD } else { 0 },
        cpu_quota: run.cpu_quota,
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: run.image.clone(), ..Default::default() }),
        command: run.entrypoint.iter().cloned().collect(),
        args: run.args.clone(),
        working_dir: run.workdir.clone(),
        envs: run.envs.clone(),
        mounts: run.mounts.clone(),
        labels: HashMap::from([(LABEL.to_owned(), name.to_owned())]),
        annotations: annotations.into_iter().collect(),
        log_path: "0.log".to_owned(),
        stdin: run.interactive,
        stdin_once: run.interactive && !run.detach,
        tty: run.tty,
        linux: Some(LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
        ..Default::default()
    }
}

/// `alpine-3f9a2c` for `docker.io/library/alpine:3`.
pub(crate) fn invent_name(image: &str, uid: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    let base = last.split(['@', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let base: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let base = base.trim_matches('-');
    format!("{}-{}", if base.is_empty() { "run" } else { base }, uid.get(..6).unwrap_or(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_are_names() {
        for (image, wanted) in [
            ("docker.io/library/alpine:3", "alpine-012345"),
            ("x.test:5000/Team/My_App@sha256:00", "my-app-012345"),
            ("___", "run-012345"),
        ] {
            assert_eq!(invent_name(image, "0123456789"), wanted);
            assert!(crate::parse::name(wanted).is_ok());
        }
    }
}
