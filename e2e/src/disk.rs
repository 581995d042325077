//! Disks of a lane's own, for lanes that run in a mount namespace of their own.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount, umount};

/// Makes a file with an ext4 of so many bytes. It takes room only as it is written.
pub(crate) fn ext4(at: &Path, bytes: u64, words: &[&str]) -> Result<()> {
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(at)?.set_len(bytes)?;
    let made = Command::new("/usr/sbin/mkfs.ext4").arg("-q").args(words).arg(at).output();
    let made = made.context("mkfs.ext4 (package e2fsprogs)")?;
    ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// Bytes in blocks, and inodes, of everything at and below a path.
pub(crate) fn used(at: &Path) -> Result<(u64, u64)> {
    let found = at.symlink_metadata()?;
    let mut sum = (found.blocks() * 512, 1);
    if found.is_dir() {
        for entry in std::fs::read_dir(at)? {
            let below = used(&entry?.path())?;
            sum = (sum.0 + below.0, sum.1 + below.1);
        }
    }
    Ok(sum)
}

/// A mount of this mount namespace; unmounted at the end, also when the lane fails.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let options = format!("size={size},mode=0700");
        mount(Some("lane"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(at.to_owned()))
    }

    /// Read-only, over these directories, the topmost first.
    pub(crate) fn overlay(lowers: &[PathBuf], at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let lowers: Vec<_> = lowers.iter().map(|lower| lower.to_string_lossy()).collect();
        let options = format!("lowerdir={}", lowers.join(":"));
        mount(Some("lane"), at, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))?;
        Ok(Self(at.to_owned()))
    }

    pub(crate) fn image(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let done = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at).output()?;
        if !done.status.success() {
            bail!("mount -o loop: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(Self(at.to_owned()))
    }
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// From now on everything that is asked of this ext4 fails with EIO (EXT4_IOC_SHUTDOWN, as xfstests' `godown` has it; what is not
/// on its disk yet is lost). For what lies on a loop device over a file of it, its disk fails.
pub(crate) fn shut_down(at: &Path) -> Result<()> {
    let program =
        r#"my $how = pack("L", 2); open(F, "<", $ARGV[0]) and ioctl(F, 0x8004587d, $how) or die "$!\n""#;
    let done = Command::new("perl").args(["-e", program]).arg(at).output().context("perl")?;
    ensure!(done.status.success(), "EXT4_IOC_SHUTDOWN: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if umount(&self.0).is_err() {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
