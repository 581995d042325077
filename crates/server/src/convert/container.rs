use berth_cri_api::v1;
use berth_model::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, EnvVar, HugepageLimit, Mount, Propagation,
    Resources, Signal,
};

use super::security::{container_security, id_mappings};
use super::{image_spec, invalid, known, map, to_map};
use crate::Failure;

pub(crate) fn container_config(given: Option<v1::ContainerConfig>) -> Result<ContainerConfig, Failure> {
    let given = given.ok_or_else(|| invalid("config", "must be given"))?;
    let metadata = given.metadata.ok_or_else(|| invalid("config.metadata", "must be given"))?;
    if metadata.name.is_empty() {
        return Err(invalid("config.metadata.name", "must not be empty"));
    }
    let linux = given.linux.unwrap_or_default();
    let stop_signal = signal(given.stop_signal)?;
    let mounts = given.mounts.into_iter().enumerate();
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: metadata.name, attempt: metadata.attempt },
        image: image_spec("config.image", given.image)?,
        command: given.command,
        args: given.args,
        working_dir: given.working_dir,
        envs: given.envs.into_iter().map(|e| EnvVar { key: e.key, value: e.value }).collect(),
        mounts: mounts.map(|(n, m)| mount(n, m)).collect::<Result<_, _>>()?,
        devices: given
            .devices
            .into_iter()
            .map(|d| Device {
                container_path: d.container_path,
                host_path: d.host_path,
                permissions: d.permissions,
            })
            .collect(),
        labels: map("config.labels", given.labels)?,
        annotations: map("config.annotations", given.annotations)?,
        log_path: given.log_path,
        stdin: given.stdin,
        stdin_once: given.stdin_once,
        tty: given.tty,
        resources: linux.resources.map(|r| resources("config.linux.resources", r)).transpose()?,
        security: container_security("config.linux.security_context", linux.security_context)?,
        cdi_devices: given.cdi_devices.into_iter().map(|d| CdiDevice { name: d.name }).collect(),
        stop_signal,
    })
}

fn signal(number: i32) -> Result<Option<Signal>, Failure> {
    let name = known::<v1::Signal>("config.stop_signal", number)?.as_str_name();
    let name = name.strip_prefix("SIGNAL_").unwrap_or(name);
    // The enum's zero is its way to say nothing.
    if number == 0 {
        return Ok(None);
    }
    Signal::parse(name).map(Some).map_err(|error| invalid("config.stop_signal", error))
}

fn mount(n: usize, given: v1::Mount) -> Result<Mount, Failure> {
    let field = |part: &str| format!("config.mounts[{n}].{part}");
    Ok(Mount {
        container_path: given.container_path,
        host_path: given.host_path,
        readonly: given.readonly,
        selinux_relabel: given.selinux_relabel,
        propagation: match known(field("propagation"), given.propagation)? {
            v1::MountPropagation::PropagationPrivate => Propagation::Private,
            v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        uid_mappings: id_mappings(given.uid_mappings),
        gid_mappings: id_mappings(given.gid_mappings),
        recursive_read_only: given.recursive_read_only,
        image: given.image.map(|image| image_spec(&field("image"), Some(image))).transpose()?,
        image_sub_path: given.image_sub_path,
        mount_options: given.mount_options,
    })
}

pub(crate) fn resources(field: &str, given: v1::LinuxContainerResources) -> Result<Resources, Failure> {
    let pages = given.hugepage_limits.into_iter();
    Ok(Resources {
        cpu_period: given.cpu_period,
        cpu_quota: given.cpu_quota,
        cpu_shares: given.cpu_shares,
        memory_limit: given.memory_limit_in_bytes,
        oom_score_adj: given.oom_score_adj,
        cpuset_cpus: given.cpuset_cpus,
        cpuset_mems: given.cpuset_mems,
        hugepage_limits: pages.map(|p| HugepageLimit { page_size: p.page_size, limit: p.limit }).collect(),
        unified: map(&format!("{field}.unified"), given.unified)?,
        memory_swap_limit: given.memory_swap_limit_in_bytes,
    })
}

pub(crate) fn to_resources(resources: Resources) -> v1::LinuxContainerResources {
    let pages = resources.hugepage_limits.into_iter();
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        hugepage_limits: pages
            .map(|p| v1::HugepageLimit { page_size: p.page_size, limit: p.limit })
            .collect(),
        unified: to_map(resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_requests_name_their_field() {
        let good = || v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "i".into(), ..Default::default() }),
            ..Default::default()
        };
        let refused = |field: &str, change: fn(&mut v1::ContainerConfig)| {
            let mut config = good();
            change(&mut config);
            let failure = container_config(Some(config)).expect_err(field);
            assert!(failure.message.starts_with(field), "{failure:?} does not name {field}");
        };
        refused("config.metadata", |c| c.metadata = None);
        refused("config.image", |c| c.image = None);
        refused("config.stop_signal", |c| c.stop_signal = 999);
        refused("config.mounts[0].propagation", |c| {
            c.mounts = vec![v1::Mount { propagation: 9, ..Default::default() }];
        });
        assert_eq!(container_config(Some(good())).unwrap().stop_signal, None);
    }

    #[test]
    fn every_signal_of_the_contract_is_known() {
        let known = (1..200).filter(|n| v1::Signal::try_from(*n).is_ok()).collect::<Vec<_>>();
        assert!(known.len() > 60);
        for number in known {
            assert!(signal(number).unwrap().is_some(), "{number}");
        }
    }
}
