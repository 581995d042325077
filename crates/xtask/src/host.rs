//! Whether this machine can run pods at all, with a word about what it lacks.

use anyhow::{Result, bail};

pub(crate) fn check() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let uid = read("/proc/self/status")
        .lines()
        .find_map(|l| l.strip_prefix("Uid:\t")?.split('\t').nth(1).map(str::to_owned));
    if uid.as_deref() != Some("0") {
        bail!("pods need root: run it as root");
    }
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 15) {
        bail!("Linux 5.15 or newer is needed, this is {}", release.trim());
    }
    if !read("/proc/filesystems").contains("overlay") {
        bail!("the kernel has no overlay filesystem: modprobe overlay");
    }
    if !std::path::Path::new("/sys/fs/cgroup").exists() {
        bail!("no control groups are mounted at /sys/fs/cgroup");
    }
    Ok(())
}
