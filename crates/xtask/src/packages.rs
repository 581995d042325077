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
pub(crate) const TEST: [Tool; 4] = [
    tool("protoc", "protobuf-compiler", "builds the k8s-cri client of the skew lane"),
    tool("docker-registry", "docker-registry", "is the registry that images are pulled from"),
    tool("skopeo", "skopeo", "pushes the test images"),
    tool("nft", "nftables", "shows the audit which tables are left"),
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
