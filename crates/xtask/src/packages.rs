//! What the tests need from the distribution, installed with a word where that is Debian's way.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::status;

/// A program of another project that a lane runs, and Debian's package for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, package, purpose }
}

/// For `cargo xtask test` and the lanes in it.
pub(crate) const TEST: [Tool; 6] = [
    tool("protoc", "protobuf-compiler", "builds the k8s-cri client of the skew lane"),
    tool("docker-registry", "docker-registry", "is the registry that images are pulled from"),
    tool("skopeo", "skopeo", "pushes the test images"),
    tool("umoci", "umoci", "unpacks the same layers"),
    tool("nft", "nftables", "shows the audit which tables are left"),
    tool("iptables-nft", "iptables", "writes the rules of others in the neighbours lane"),
];

/// For the fuzz targets.
pub(crate) const FUZZ: [Tool; 1] = [tool("c++", "g++", "compiles libFuzzer")];

/// For the kubelet lane, the node lane, and a node of one's own.
pub(crate) const KUBELET: [Tool; 4] = [
    tool("ip", "iproute2", "makes the links of the kubelet's host"),
    tool("curl", "curl", "asks the kubelet over TLS"),
    tool("openssl", "openssl", "carries the kubelet's streams over TLS"),
    tool("systemd-analyze", "systemd", "verifies the units in deploy"),
];

/// For a registry of a bench's own, which the lanes have by [`TEST`].
pub(crate) const REGISTRY: [Tool; 2] = [
    tool("docker-registry", "docker-registry", "is the registry that images are pulled from"),
    tool("skopeo", "skopeo", "pushes them there"),
];

/// For disks of a lane's own.
pub(crate) const DISKS: [Tool; 2] = [
    tool("/usr/sbin/mkfs.ext4", "e2fsprogs", "makes it"),
    tool("mount", "mount", "mounts it over a loop device"),
];

/// For the lane in a virtual machine, beside the kernel and the busybox of [`machine`].
pub(crate) const VM: [Tool; 2] = [
    tool("qemu-system-x86_64", "qemu-system-x86", "is the machine with control groups v2"),
    tool("/usr/sbin/mkfs.ext4", "e2fsprogs", "makes its disk"),
];

/// For the lane of CNI plugins.
pub(crate) const CNI: [Tool; 3] = [
    tool("/usr/lib/cni/bridge", "containernetworking-plugins", "connects pods in the lane"),
    tool("iptables", "iptables", "is what those plugins make rules with"),
    tool("ip", "iproute2", "shows what they leave"),
];

/// For `cargo xtask bench`: the peer, in the same run.
pub(crate) const BENCH: [Tool; 3] = [
    tool("containerd", "containerd", "is compared with"),
    tool("runc", "runc", "is what containerd starts containers with"),
    tool("/usr/lib/cni/bridge", "containernetworking-plugins", "is what containerd connects pods with"),
];

fn found(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).exists())
}

/// Installs what is missing.
pub(crate) fn need(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !found(tool.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for tool in &missing {
        println!("{} is missing; it {}", tool.program, tool.purpose);
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    if !found("apt-get") {
        bail!("install what Debian calls: {}", packages.join(" "));
    }
    println!("apt-get install {}", packages.join(" "));
    let install = |lists: bool| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        match lists {
            true => command.args(["update", "-qq"]),
            // The packages' services are not wanted, the programs are: policy-rc.d(8) answers through this variable.
            false => command
                .env("RUNLEVEL", "1")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&packages),
        };
        command.stdout(std::process::Stdio::null());
        status(&mut command)
    };
    if install(false).is_err() {
        install(true)?;
        install(false).with_context(|| format!("install by hand: {}", packages.join(" ")))?;
    }
    Ok(())
}

/// Debian's cloud kernel and static busybox, unpacked below `at` and not installed.
pub(crate) fn machine(at: &Path) -> Result<()> {
    if at.join("complete").exists() {
        return Ok(());
    }
    if !found("apt-get") {
        bail!(
            "the vm lane's kernel is Debian's package linux-image-cloud-amd64, unpacked into {}",
            at.display()
        );
    }
    let said = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let kernel = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = kernel.context("apt-cache knows no linux-image-cloud-amd64: apt-get update")?;
    unpack(at, &[kernel, "busybox-static"])?;
    Ok(std::fs::write(at.join("complete"), kernel)?)
}

/// What the conformance lane's images are made of, unpacked below `at` and not installed.
pub(crate) fn images(at: &Path) -> Result<()> {
    const PACKAGES: [&str; 8] =
        ["busybox-static", "dash", "nginx", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"];
    if at.join("complete").exists() {
        return Ok(());
    }
    if !found("apt-get") {
        bail!("the conformance lane's images are made of Debian's {}", PACKAGES.join(" "));
    }
    unpack(at, &PACKAGES)?;
    Ok(std::fs::write(at.join("complete"), PACKAGES.join(" "))?)
}

fn unpack(at: &Path, packages: &[&str]) -> Result<()> {
    println!("apt-get download {}", packages.join(" "));
    std::fs::create_dir_all(at)?;
    let download =
        || status(Command::new("apt-get").current_dir(at).args(["download", "-qq"]).args(packages));
    if download().is_err() {
        status(Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    for entry in std::fs::read_dir(at)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            status(Command::new("dpkg-deb").arg("-x").arg(&package).arg(at))?;
            std::fs::remove_file(&package)?;
        }
    }
    Ok(())
}
