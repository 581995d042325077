//! What crates/ARCHITECTURE.md promises, as checks: who may use whom, and that the text names only what exists.
//!
//! Works from the manifests, `Cargo.lock` and the text alone: no network, nothing built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Whom of ours each package may use in what it ships.
const EDGES: &[(&str, &[&str])] = &[
    ("berth-ids", &[]),
    ("berth-sys", &[]),
    ("berth-shim-wire", &[]),
    ("berth-model", &["berth-ids"]),
    ("berth-cgroup", &["berth-ids", "berth-model", "berth-sys"]),
    ("berth-seccomp", &["berth-ids"]),
    ("berth-plan", &["berth-ids", "berth-model", "berth-seccomp", "berth-shim-wire"]),
    ("berth-launch", &["berth-shim-wire", "berth-sys"]),
    ("berth-shim", &["berth-launch", "berth-shim-wire", "berth-sys"]),
    (
        "berth-shim-client",
        &[
            "berth-cgroup",
            "berth-ids",
            "berth-model",
            "berth-plan",
            "berth-seccomp",
            "berth-shim-wire",
            "berth-sys",
        ],
    ),
    ("berth-registry", &["berth-ids"]),
    ("berth-unpack", &["berth-ids", "berth-sys"]),
    ("berth-store", &["berth-ids"]),
    (
        "berth-images",
        &["berth-ids", "berth-model", "berth-registry", "berth-store", "berth-sys", "berth-unpack"],
    ),
    ("berth-netlink", &["berth-ids", "berth-sys"]),
    ("berth-cni", &["berth-ids", "berth-sys"]),
    ("berth-network", &["berth-cni", "berth-ids", "berth-model", "berth-netlink", "berth-sys"]),
    ("berth-pods", &["berth-ids", "berth-model", "berth-plan", "berth-shim-wire"]),
    ("berth-cri-api", &[]),
    ("berth-streaming", &["berth-ids"]),
    ("berth-client", &["berth-cri-api", "berth-model", "berth-streaming", "berth-sys"]),
    ("berth-server", &["berth-cri-api", "berth-ids", "berth-model"]),
    (
        "berth",
        &[
            "berth-cgroup",
            "berth-client",
            "berth-cni",
            "berth-ids",
            "berth-images",
            "berth-model",
            "berth-network",
            "berth-plan",
            "berth-pods",
            "berth-registry",
            "berth-server",
            "berth-shim-client",
            "berth-shim-wire",
            "berth-store",
            "berth-streaming",
            "berth-sys",
        ],
    ),
    ("berth-fuzz", &["berth-cni", "berth-images", "berth-registry", "berth-streaming", "berth-unpack"]),
    ("xtask", &[]),
    (
        "berth-e2e",
        &[
            "berth-cni",
            "berth-cri-api",
            "berth-ids",
            "berth-model",
            "berth-netlink",
            "berth-network",
            "berth-seccomp",
            "berth-sys",
        ],
    ),
    ("berth-guest", &["berth-sys"]),
    ("berth-skew", &[]),
];

/// Third-party crates that only these packages may use, whatever the kind of dependency.
const ONLY_IN: &[(&[&str], &[&str], &str)] = &[
    (
        &["tonic", "prost"],
        &["berth-cri-api", "berth-client", "berth-server", "berth", "berth-e2e", "berth-skew"],
        "gRPC stays in cri-api, client, server, berth and the lanes' clients",
    ),
    (&["rusqlite"], &["berth-store", "berth-e2e"], "only store opens the database, and the lanes' audit"),
    (&["k8s-cri"], &["berth-skew"], "k8s-cri is the independent client of the lanes"),
];

/// Packages that block, or live in the shim.
const NO_TOKIO: &[&str] = &[
    "berth-ids",
    "berth-sys",
    "berth-shim-wire",
    "berth-model",
    "berth-cgroup",
    "berth-seccomp",
    "berth-plan",
    "berth-launch",
    "berth-shim",
    "berth-unpack",
    "berth-cni",
    "berth-netlink",
    "berth-network",
    "berth-store",
];

/// Everything the shim is made of.
const SHIM_CLOSURE: &[&str] = &[
    "berth-launch",
    "berth-shim-wire",
    "berth-sys",
    "bitflags",
    "cfg-if",
    "cfg_aliases",
    "libc",
    "memoffset",
    "autocfg",
    "nix",
];

/// Programs; nobody may depend on them.
const PROGRAMS: &[&str] =
    &["berth", "berth-shim", "xtask", "berth-e2e", "berth-guest", "berth-skew", "berth-fuzz"];

const UNSAFE_HOMES: &[&str] = &["crates/sys", "crates/launch"];

/// The workspace on disk.
pub(crate) struct Workspace {
    root: PathBuf,
    metadata: Metadata,
}

impl Workspace {
    /// The workspace that `root` is the top directory of.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut command = MetadataCommand::new();
        let metadata = command.manifest_path(root.join("Cargo.toml")).no_deps().exec();
        Ok(Self { root: root.canonicalize()?, metadata: metadata.context("read the workspace's manifests")? })
    }

    /// Broken dependency rules, one line each.
    pub(crate) fn dependencies(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for package in &self.metadata.packages {
            for dependency in &package.dependencies {
                let shipped = dependency.kind != DependencyKind::Development;
                broken.extend(edge(&package.name, &dependency.name, shipped, dependency.path.is_some()));
            }
        }
        broken
    }

    /// What the shim links beyond its allow-list.
    pub(crate) fn shim_closure(&self) -> Result<Vec<String>> {
        let lock = std::fs::read_to_string(self.root.join("Cargo.lock")).context("read Cargo.lock")?;
        let locked = locked(&lock);
        let ours: BTreeMap<&str, Vec<String>> = self
            .metadata
            .packages
            .iter()
            .map(|package| {
                let shipped = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
                (package.name.as_str(), shipped.map(|d| d.name.clone()).collect())
            })
            .collect();
        let (mut seen, mut next) = (BTreeSet::new(), vec!["berth-shim".to_owned()]);
        while let Some(name) = next.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            // The lock mixes the dev-dependencies of ours with the rest, the manifests do not.
            let uses = ours.get(name.as_str()).or_else(|| locked.get(name.as_str()));
            next.extend(uses.into_iter().flatten().cloned());
        }
        seen.remove("berth-shim");
        let foreign = seen.into_iter().filter(|name| !SHIM_CLOSURE.contains(&name.as_str()));
        Ok(foreign
            .map(|name| format!("the shim's closure is an allow-list: it may not contain {name}"))
            .collect())
    }

    /// Sources that lift the ban on unsafe, and packages that do not take the workspace's lints.
    pub(crate) fn lints(&self) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for package in &self.metadata.packages {
            let manifest = package.manifest_path.as_std_path();
            let text = std::fs::read_to_string(manifest)?;
            if !text.contains("[lints]\nworkspace = true") {
                broken.push(format!("{} does not take the workspace's lints", package.name));
            }
            let directory = manifest.parent().unwrap_or(&self.root);
            for source in rust_files(directory)? {
                let relative = source.strip_prefix(&self.root).unwrap_or(&source);
                let home = UNSAFE_HOMES.iter().any(|home| relative.starts_with(home));
                let text = std::fs::read_to_string(&source)?;
                // In two parts, else this file breaks its own rule.
                let lifts = ["allow", "expect"]
                    .iter()
                    .any(|word| text.contains(&format!("{word}(unsafe{}", "_code")));
                if lifts && !home {
                    broken
                        .push(format!("unsafe lives in sys and launch only, not in {}", relative.display()));
                }
            }
        }
        Ok(broken)
    }

    /// What the documents name and is not there, and crates and dependencies that ARCHITECTURE.md leaves out.
    pub(crate) fn documents(&self) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        let architecture = std::fs::read_to_string(self.root.join("crates/ARCHITECTURE.md"))?;
        for document in ["crates/ARCHITECTURE.md", "README.md"] {
            let Ok(text) = std::fs::read_to_string(self.root.join(document)) else { continue };
            let named = quoted(&text).into_iter().filter_map(|word| self.missing(word));
            broken.extend(named.map(|problem| format!("{document}: {problem}")));
        }
        for package in self.metadata.packages.iter() {
            let Some(directory) = package.manifest_path.parent() else { continue };
            let Ok(path) = directory.as_std_path().strip_prefix(&self.root) else { continue };
            let heading = format!("### `{}`\n", path.display());
            if path.starts_with("crates") && !architecture.contains(&heading) {
                broken.push(format!("crates/ARCHITECTURE.md has no paragraph on {}", path.display()));
            }
        }
        let explained = architecture.rsplit("## Dependencies").next().unwrap_or_default();
        let explained: BTreeSet<&str> = quoted(explained).into_iter().collect();
        for name in self.foreign().difference(&explained) {
            broken.push(format!("crates/ARCHITECTURE.md does not say what {name} is for"));
        }
        Ok(broken)
    }

    /// Names of the third-party crates that ours use.
    fn foreign(&self) -> BTreeSet<&str> {
        let all = self.metadata.packages.iter().flat_map(|package| &package.dependencies);
        all.filter(|dependency| dependency.path.is_none())
            .map(|dependency| dependency.name.as_str())
            .collect()
    }

    /// Why a word in backticks, taken as a path or a crate, names nothing.
    fn missing(&self, word: &str) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if !word.chars().all(plain) {
            return None;
        }
        let top = word.split('/').next().unwrap_or_default();
        let ours = ["crates", "proto", "deploy", "e2e", ".ci", ".cargo"].contains(&top);
        if ours && !self.root.join(word).exists() {
            return Some(format!("there is no {word}"));
        }
        let is_crate = word.starts_with("berth-") && !word.contains(['.', '/']);
        let known = |name: &str| self.metadata.packages.iter().any(|package| package.name.as_str() == name);
        (is_crate && !known(word)).then(|| format!("there is no crate {word}"))
    }
}

/// The rules that one dependency breaks. `ours`: it is in this workspace; `shipped`: not for tests only.
pub(crate) fn edge(from: &str, to: &str, shipped: bool, ours: bool) -> Vec<String> {
    let mut broken = Vec::new();
    if ours && PROGRAMS.contains(&to) {
        broken.push(format!("nobody depends on a program: {from} may not use {to}"));
    } else if ours && shipped {
        match EDGES.iter().find(|(name, _)| *name == from) {
            None => broken.push(format!("{from} is not in the table of crates/xtask/src/arch.rs")),
            Some((_, allowed)) if !allowed.contains(&to) => {
                broken.push(format!("leaves, mechanisms, pods, server, berth: {from} may not use {to}"));
            }
            Some(_) => {}
        }
    }
    for (crates, homes, rule) in ONLY_IN {
        let family = crates.iter().any(|name| to == *name || to.starts_with(&format!("{name}-")));
        if !ours && family && !homes.contains(&from) {
            broken.push(format!("{rule}: {from} may not use {to}"));
        }
    }
    if !ours && shipped && to.split('-').next() == Some("tokio") && NO_TOKIO.contains(&from) {
        broken.push(format!("no tokio below the daemon: {from} may not use {to}"));
    }
    broken
}

/// Package names to the names they use, from the text of `Cargo.lock`. Versions of one name are taken together.
fn locked(lock: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(text) = line.strip_prefix("name = ") {
            name = text.trim_matches('"').to_owned();
        } else if let Some(text) = line.strip_prefix(" \"") {
            // A dependency: `"name"`, with the version where several are locked.
            let used = text.split(['"', ' ']).next().unwrap_or_default().to_owned();
            all.entry(name.clone()).or_default().push(used);
        }
    }
    all
}

/// What stands in single backticks on one line, outside of code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut block = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        block ^= fence;
        !block && !fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// All `*.rs` below a package, without packages inside it.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut next) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory_now) = next.pop() {
        for entry in std::fs::read_dir(&directory_now)? {
            let path = entry?.path();
            if path.is_dir() && !path.join("Cargo.toml").exists() && !path.ends_with("target") {
                next.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}
