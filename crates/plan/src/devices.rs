//! Device nodes and the rules that let a container use them.

use berth_shim_wire::{DeviceNode, Symlink};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::launch::text;
use crate::{ContainerInputs, HostDevice, PlanError};

/// OCI runtime spec, "Default Devices": path, major, minor. The console and /dev/ptmx are made with the terminal and
/// with devpts.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Whether the runtime itself makes a node at this container path.
pub(crate) fn is_default(path: &str) -> bool {
    DEFAULT.iter().any(|(known, ..)| *known == path)
}

/// OCI runtime spec, "Dev symbolic links", and /dev/ptmx of the container's own devpts.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
    ("/proc/kcore", "/dev/core"),
];

fn oci(node: &HostDevice) -> Option<LinuxDevice> {
    LinuxDeviceBuilder::default()
        .path(node.path.clone())
        .typ(if node.character { LinuxDeviceType::C } else { LinuxDeviceType::B })
        .major(i64::from(node.major))
        .minor(i64::from(node.minor))
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
        .ok()
}

/// A privileged container has every device, unless the node's owner says otherwise.
fn has_all(inputs: &ContainerInputs<'_>) -> bool {
    inputs.container.security.privileged && inputs.privileged_host_devices
}

/// Requested devices, and with `privileged` the host's; the default ones are not listed in a spec.
pub(crate) fn nodes(inputs: &ContainerInputs<'_>) -> Vec<LinuxDevice> {
    let requested = inputs.devices.iter().map(|d| &d.node);
    let of_host = inputs.host.host_devices.iter().filter(|_| has_all(inputs));
    let default = |node: &&HostDevice| !is_default(&node.path.to_string_lossy());
    let mut nodes: Vec<&HostDevice> = Vec::new();
    for node in requested.chain(of_host).filter(default) {
        if !nodes.iter().any(|known| known.path == node.path) {
            nodes.push(node);
        }
    }
    nodes.into_iter().filter_map(oci).collect()
}

/// Nothing, then the default devices, terminals, mknod of anything (as containerd: a node without a rule cannot be
/// opened), then what is asked for.
pub(crate) fn rules(inputs: &ContainerInputs<'_>) -> Vec<LinuxDeviceCgroup> {
    if has_all(inputs) {
        return rule(true, LinuxDeviceType::A, None, None, "rwm").into_iter().collect();
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.push(rule(true, LinuxDeviceType::C, None, None, "m"));
    rules.push(rule(true, LinuxDeviceType::B, None, None, "m"));
    for (_, major, minor) in DEFAULT {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
    }
    // Unix98 terminals, /dev/ptmx and /dev/console.
    rules.push(rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    rules.push(rule(true, LinuxDeviceType::C, Some(5), Some(2), "rwm"));
    rules.push(rule(true, LinuxDeviceType::C, Some(5), Some(1), "rwm"));
    for device in inputs.devices {
        let kind = if device.node.character { LinuxDeviceType::C } else { LinuxDeviceType::B };
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        rules.push(rule(true, kind, Some(device.node.major), Some(device.node.minor), access));
    }
    rules.into_iter().flatten().collect()
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<u32>,
    minor: Option<u32>,
    access: &str,
) -> Option<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access.to_owned());
    if let Some(major) = major {
        rule = rule.major(i64::from(major));
    }
    if let Some(minor) = minor {
        rule = rule.minor(i64::from(minor));
    }
    rule.build().ok()
}

/// The default nodes and those of the spec.
pub(crate) fn to_make(of_spec: &[LinuxDevice]) -> Result<Vec<DeviceNode>, PlanError> {
    let mut nodes = Vec::with_capacity(DEFAULT.len() + of_spec.len());
    for (path, major, minor) in DEFAULT {
        let path = text("devices", path)?;
        nodes.push(DeviceNode { path, character: true, major, minor, mode: 0o666, uid: 0, gid: 0 });
    }
    for (n, device) in of_spec.iter().enumerate() {
        let field = format!("config.devices[{n}]");
        let number =
            |value: i64| u32::try_from(value).map_err(|_| PlanError::invalid(&field, "is no device number"));
        nodes.push(DeviceNode {
            path: text(&field, &device.path().to_string_lossy())?,
            character: device.typ() != LinuxDeviceType::B,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    Ok(nodes)
}

pub(crate) fn links() -> Result<Vec<Symlink>, PlanError> {
    let link = |(target, link): (&str, &str)| {
        Ok(Symlink { target: text("links", target)?, link: text("links", link)? })
    };
    LINKS.into_iter().map(link).collect()
}
