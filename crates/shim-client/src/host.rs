//! What the host is and has: probed once, and files and devices looked up on request.

use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use berth_cgroup::{Cgroups, Kind};
use berth_model::Device;
use berth_plan::{CompiledFilter, HostDevice, HostFacts, RequestedDevice, SeccompChoice};
use berth_seccomp::{Cache, Profile};

use crate::ShimError;

/// Files of the host that pods see a copy of are a few lines.
const HOST_FILE_MAX: u64 = 1024 * 1024;
/// A privileged container gets the host's device nodes; a /dev with more is left out beyond this.
const DEVICES_MAX: usize = 4096;

pub(crate) fn facts(cgroups: &Cgroups) -> HostFacts {
    let number = |path: &str| {
        read_host_file(path.as_ref()).and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok())
    };
    HostFacts {
        cap_last: number("/proc/sys/kernel/cap_last_cap").unwrap_or(40),
        cap_bounding: bounding().unwrap_or(u64::MAX),
        host_devices: host_devices(),
        cgroup_v2: cgroups.kind() == Kind::V2,
        // mount_setattr(2) came with AT_RECURSIVE, in Linux 5.12: below Berth's own floor.
        recursive_readonly: true,
        // Probed with a shim.
        user_namespaces: false,
        nofile_hard: nofile_hard(),
        last_cpu: last_of("/sys/devices/system/cpu/present"),
        last_node: last_of("/sys/devices/system/node/possible"),
        apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

/// The last number of a list like `0-3,6` (cpuset(7), list format).
fn last_of(path: &str) -> Option<u32> {
    let text = String::from_utf8(read_host_file(path.as_ref())?).ok()?;
    text.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// The daemon's own bounding set (proc_pid_status(5), `CapBnd`).
fn bounding() -> Option<u64> {
    let status = String::from_utf8(read_host_file("/proc/self/status".as_ref())?).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn nofile_hard() -> u64 {
    let limits = read_host_file("/proc/self/limits".as_ref()).unwrap_or_default();
    let limits = String::from_utf8_lossy(&limits);
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // proc_pid_limits(5): soft, hard, unit.
    match line.and_then(|line| line.split_whitespace().nth(1)) {
        Some("unlimited") => u64::MAX,
        Some(hard) => hard.parse().unwrap_or(4096),
        None => 4096,
    }
}

/// A small regular file, or `None`; never blocks on a fifo, never reads without bound.
pub fn read_host_file(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(HOST_FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Device nodes below /dev, without those that are a container's own: terminals, shm, mqueue.
fn host_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let skipped = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx"];
            if skipped.iter().any(|skip| path.as_os_str() == *skip) {
                continue;
            }
            // Of the entry itself: links are not followed.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(path);
            } else if let Some(device) = device(path, &metadata) {
                found.push(device);
            }
            if found.len() >= DEVICES_MAX {
                return found;
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn device(path: PathBuf, metadata: &std::fs::Metadata) -> Option<HostDevice> {
    let kind = metadata.file_type();
    let number = metadata.rdev();
    (kind.is_char_device() || kind.is_block_device()).then(|| HostDevice {
        path,
        character: kind.is_char_device(),
        major: nix::libc::major(number),
        minor: nix::libc::minor(number),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// The nodes a container asks for; a directory stands for every node below it (as Docker and containerd take it).
pub fn requested_devices(requested: &[Device]) -> Result<Vec<RequestedDevice>, ShimError> {
    let mut found = Vec::new();
    for device in requested {
        let host = PathBuf::from(&device.host_path);
        let inside = match device.container_path.as_str() {
            "" => host.clone(),
            path => PathBuf::from(path),
        };
        lookup(&host, &inside, &device.permissions, &mut found)?;
    }
    Ok(found)
}

fn lookup(
    host: &Path,
    inside: &Path,
    permissions: &str,
    found: &mut Vec<RequestedDevice>,
) -> Result<(), ShimError> {
    let refuse = |problem| ShimError::Source { field: "config.devices", path: host.to_owned(), problem };
    let metadata = std::fs::metadata(host).map_err(|_| refuse("does not exist"))?;
    if metadata.is_dir() {
        let entries = std::fs::read_dir(host).map_err(ShimError::file("read", host))?;
        for entry in entries.filter_map(Result::ok) {
            let nodes =
                entry.file_type().is_ok_and(|t| t.is_dir() || t.is_char_device() || t.is_block_device());
            if nodes && found.len() < DEVICES_MAX {
                lookup(&entry.path(), &inside.join(entry.file_name()), permissions, found)?;
            }
        }
        return Ok(());
    }
    let node = device(inside.to_owned(), &metadata).ok_or_else(|| refuse("is not a device"))?;
    found.push(RequestedDevice { node, permissions: permissions.to_owned() });
    Ok(())
}

/// The filter of a choice, compiled once for each (profile, capabilities).
pub(crate) fn seccomp(
    cache: &Cache,
    choice: &SeccompChoice,
    caps: u64,
) -> Result<Option<CompiledFilter>, ShimError> {
    let (name, profile) = match choice {
        SeccompChoice::Unconfined => return Ok(None),
        SeccompChoice::RuntimeDefault => ("RuntimeDefault".to_owned(), berth_seccomp::default_profile(caps)),
        SeccompChoice::Localhost(path) => {
            let name = path.display().to_string();
            let bytes = read_host_file(path).ok_or_else(|| ShimError::Source {
                field: "config.linux.security_context.seccomp.localhost_ref",
                path: path.clone(),
                problem: "is no readable file",
            })?;
            let parsed = Profile::from_json(&bytes, caps);
            (name.clone(), parsed.map_err(|source| ShimError::Seccomp { name, source })?)
        }
    };
    let compiled = cache.compile(&profile);
    let program = compiled.map_err(|source| ShimError::Seccomp { name, source })?;
    Ok(Some(CompiledFilter { bytes: program.bytes.clone(), flags: program.flags }))
}
