//! What runs on a node, and what the lanes need besides.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, status};

/// Where things were put.
#[derive(Debug)]
pub(crate) struct Built {
    /// `berth` and `berth-shim`, beside each other.
    pub(crate) directory: PathBuf,
    pub(crate) guest: PathBuf,
    pub(crate) e2e: PathBuf,
}

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The compiler that lints and figures are for: the workspace's `rust-version`, no older and no newer. Building works with a
/// newer one, too; what decides over a change must not depend on who runs it.
pub(crate) fn toolchain() -> Result<()> {
    let pinned = env!("CARGO_PKG_RUST_VERSION");
    let said = Command::new("rustc").arg("-V").output().context("rustc -V")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = text.split(' ').nth(1).unwrap_or_default();
    if version != pinned && !version.starts_with(&format!("{pinned}.")) {
        bail!("Rust {pinned} decides here, this is {version}: rustup run {pinned} cargo xtask ci");
    }
    Ok(())
}

/// The host's target triple: naming it keeps the flags away from build scripts and everything else that is built.
fn triple() -> Result<String> {
    let said = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// The daemon, with its relocations packed where this machine's C library reads them so: as a table they are read once, at
/// the start, and kept in memory ever after.
fn daemon() -> Result<()> {
    let mut words = vec!["rustc", "--quiet", "--release", "-p", "berth", "--bin", "berth"];
    if reads_packed_relocations() {
        words.extend(["--", "-C", "link-arg=-Wl,-z,pack-relative-relocs"]);
    }
    cargo(&words)
}

/// glibc does from 2.36 on (its NEWS, DT_RELR); the linker is at least as new as that.
fn reads_packed_relocations() -> bool {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    let version = text.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    version.is_some_and(|(major, minor)| (number(major), number(minor)) >= (2, 36))
}

/// For lanes that test.
pub(crate) fn all() -> Result<Built> {
    with("dev", "debug")
}

/// For lanes that measure.
pub(crate) fn measuring() -> Result<Built> {
    with("measure", "measure")
}

/// `profile`: of the lanes' program, and the directory that Cargo has for it.
fn with(profile: &str, directory_of_profile: &str) -> Result<Built> {
    let target = root().join("target");
    daemon()?;
    cargo(&["build", "--quiet", "--profile", profile, "-p", "berth-e2e"])?;
    let triple = triple()?;
    for package in ["berth-shim", "berth-guest"] {
        println!("cargo build --profile shim -p {package} (static)");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        status(
            Command::new(cargo)
                .current_dir(root())
                .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
                .args(["build", "--quiet", "--profile", "shim", "--target", &triple, "-p", package]),
        )?;
    }
    let small = target.join(&triple).join("shim");
    let directory = target.join("berth");
    std::fs::create_dir_all(&directory)?;
    for (from, name) in [(target.join("release/berth"), "berth"), (small.join("berth-shim"), "berth-shim")] {
        // Renamed into place: a program that runs may not be written.
        let beside = directory.join(format!(".{name}"));
        std::fs::copy(&from, &beside).with_context(|| from.display().to_string())?;
        std::fs::rename(&beside, directory.join(name))?;
    }
    let e2e = target.join(directory_of_profile).join("berth-e2e");
    Ok(Built { directory, guest: small.join("berth-guest"), e2e })
}
