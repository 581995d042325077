//! A container's mounts: the runtime's own, then the request's, parents before children.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use berth_model::{ContainerConfig, ImageSpec, Mount as Asked, NamespaceMode, Propagation};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Mount, MountBuilder};

use crate::ContainerInputs;

/// OCI mount type for the pod's shared memory: not a tmpfs of the container's own.
pub(crate) const POD_SHM: &str = "berth-pod-shm";
/// OCI mount type for the directory of an image's VOLUME.
pub(crate) const VOLUME: &str = "berth-volume";

/// OCI mount type for an image as a volume; the source is its reference.
pub(crate) const IMAGE: &str = "berth-image";

/// What the `mount_options` of a request may say; the kernel's other flags have fields of their own or no use here.
pub(crate) const OPTIONS: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// Those mounts of a request that are images, in their order.
pub fn image_mounts(container: &ContainerConfig) -> impl Iterator<Item = (usize, &Asked, &ImageSpec)> {
    let image = |(n, mount): (usize, _)| {
        let mount: &Asked = mount;
        Some((n, mount, mount.image.as_ref().filter(|image| !image.image.is_empty())?))
    };
    container.mounts.iter().enumerate().filter_map(image)
}

/// Trees the kernel or the runtime fills.
const OURS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The pod's own files.
const POD_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// A container path without doubled or trailing slashes and dots. It has no `..`: that was refused.
pub(crate) fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let joined = parts.collect::<Vec<_>>().join("/");
    format!("/{joined}")
}

/// Everything to mount, in order.
pub(crate) fn all(inputs: &ContainerInputs<'_>) -> Vec<Mount> {
    let asked: Vec<(String, &Asked)> =
        inputs.container.mounts.iter().map(|mount| (clean(&mount.container_path), mount)).collect();
    let taken = |path: &str| asked.iter().any(|(target, _)| target == path);
    let dev = brings_dev(inputs.container);
    let mut mounts: Vec<Mount> = own(inputs);
    mounts.retain(|m| {
        let target = m.destination().to_string_lossy();
        let covered = taken(&target) || (dev && target.starts_with("/dev/"));
        !covered
    });
    mounts.extend(
        volumes(inputs.image, inputs.container)
            .iter()
            .filter_map(|path| mount(path, VOLUME, Path::new(path), &["rbind", "rw"])),
    );
    mounts.extend(asked.iter().filter_map(|(target, asked)| bind(target, asked)));
    // Stable: requests for the same depth keep their order. /proc and /dev are as shallow as it gets.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    mounts
}

/// The request mounts a /dev: then what is in it is the request's too, and nothing of ours is made there.
pub(crate) fn brings_dev(container: &ContainerConfig) -> bool {
    container.mounts.iter().any(|mount| clean(&mount.container_path) == "/dev")
}

/// `path` or something below it.
pub(crate) fn within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The image's VOLUMEs that no requested mount covers.
pub(crate) fn volumes(image: &ImageConfiguration, container: &ContainerConfig) -> Vec<String> {
    let declared = image.config().as_ref().and_then(|c| c.volumes().clone()).unwrap_or_default();
    // Image config is data (CVE-2022-23648): a path that climbs is dropped, the rest is made inside the root.
    let sane = |path: &&String| {
        !path.contains('\0') && path.len() < 4096 && !path.split('/').any(|part| part == "..")
    };
    let mut paths: Vec<String> = declared.iter().filter(sane).map(|path| clean(path)).collect();
    let asked: HashSet<String> = container.mounts.iter().map(|mount| clean(&mount.container_path)).collect();
    // Over what the runtime mounts an image has no say: a /proc of its own would make lies of writes to it
    // (CVE-2019-16884).
    let ours = |path: &str| {
        OURS.iter().any(|dir| within(path, dir)) || POD_FILES.iter().any(|file| within(path, file))
    };
    paths.retain(|path| path != "/" && !asked.contains(path) && !ours(path));
    paths.sort();
    paths.dedup();
    paths
}

fn own(inputs: &ContainerInputs<'_>) -> Vec<Mount> {
    let privileged = inputs.container.security.privileged;
    let kernel = |writable: bool| -> Vec<&str> {
        let mut options = vec!["nosuid", "noexec", "nodev"];
        options.push(if writable { "rw" } else { "ro" });
        options
    };
    let fixed = |target: &str, kind: &str, options: &[&str]| mount(target, kind, Path::new(kind), options);
    let mut mounts = vec![
        fixed("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        fixed("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        fixed(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        fixed("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        fixed("/sys", "sysfs", &kernel(privileged)),
        fixed("/sys/fs/cgroup", "cgroup", &kernel(privileged)),
    ];
    mounts.push(match inputs.sandbox_has_shm {
        true => fixed("/dev/shm", POD_SHM, &["nosuid", "noexec", "nodev"]),
        false => mount("/dev/shm", "bind", Path::new("/dev/shm"), &["rbind", "rw"]),
    });
    // Read-only exactly when the root is: a container that may write its root may write these.
    let files = inputs.files;
    let access = if inputs.container.security.readonly_rootfs { "ro" } else { "rw" };
    let mut file =
        |target: &str, source: &Path| mounts.push(mount(target, "bind", source, &["bind", access]));
    file("/etc/hosts", &files.hosts);
    file("/etc/resolv.conf", &files.resolv_conf);
    // With the host's network the pod has the host's name, and its file is the image's business.
    if inputs.sandbox.security.namespaces.network != NamespaceMode::Node
        || !inputs.sandbox.hostname.is_empty()
    {
        file("/etc/hostname", &files.hostname);
    }
    mounts.into_iter().flatten().collect()
}

fn bind(target: &str, asked: &Asked) -> Option<Mount> {
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (asked.readonly, asked.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    if !asked.uid_mappings.is_empty() {
        options.push("ridmap");
    }
    options.extend(asked.mount_options.iter().map(String::as_str));
    match asked.image.as_ref().filter(|image| !image.image.is_empty()) {
        Some(image) => mount(target, IMAGE, Path::new(&image.image), &options),
        None => mount(target, "bind", Path::new(&asked.host_path), &options),
    }
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Option<Mount> {
    MountBuilder::default()
        .destination(PathBuf::from(target))
        .typ(kind.to_owned())
        .source(source.to_owned())
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [("/a//b/", "/a/b"), ("a/./b", "/a/b"), ("/", "/"), ("", "/")] {
            assert_eq!(clean(path), expected);
        }
    }
}
