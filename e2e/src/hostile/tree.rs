//! What is in a directory, one line an entry, so that two of them can be compared.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::content;

/// Everything below `top`, in order: `KIND PATH DETAIL`, then what is not usual: mode, owner, other names of the same file,
/// extended attributes. Of a content or target that is long, the detail is its length and digest.
pub(super) fn list(top: &Path) -> Result<Vec<String>> {
    listed(top, false, |_| true)
}

/// The same of some of the entries at the top alone.
pub(super) fn list_some(top: &Path, is_wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<String>> {
    listed(top, false, is_wanted)
}

/// The same with the time of each.
pub(crate) fn list_with_times(top: &Path) -> Result<Vec<String>> {
    listed(top, true, |_| true)
}

fn listed(top: &Path, with_times: bool, is_wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<String>> {
    let mut lines = BTreeSet::new();
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&directory)?.collect::<Result<_, _>>()?;
        entries.retain(|entry| directory != top || is_wanted(&entry.file_name()));
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let shown = path.strip_prefix(top)?.as_os_str().as_bytes().escape_ascii().to_string();
            let found = std::fs::symlink_metadata(&path)?;
            let kind = found.file_type();
            let (letter, usual, detail) = if kind.is_dir() {
                open.push(path.clone());
                ('d', 0o755, String::new())
            } else if kind.is_symlink() {
                (
                    'l',
                    0o777,
                    format!(" -> {}", content::shown(std::fs::read_link(&path)?.as_os_str().as_bytes())),
                )
            } else if kind.is_file() {
                ('f', 0o644, format!(" {}", content::of_file(&File::open(&path)?, found.len())?))
            } else if kind.is_fifo() {
                ('p', 0o644, String::new())
            } else {
                let device = found.rdev();
                let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
                // A whiteout has no mode to speak of.
                let usual = if device == 0 { 0 } else { 0o644 };
                (if kind.is_char_device() { 'c' } else { 'b' }, usual, format!(" {major}:{minor}"))
            };
            let mut line = format!("{letter} {shown}{detail}");
            if found.mode() & 0o7777 != usual {
                line += &format!(" mode {:o}", found.mode() & 0o7777);
            }
            if (found.uid(), found.gid()) != (0, 0) {
                line += &format!(" owner {}:{}", found.uid(), found.gid());
            }
            if !kind.is_dir() && found.nlink() > 1 {
                let first = names.entry(found.ino()).or_insert_with(|| shown.clone());
                line += &format!(" file {first}");
            }
            for name in attributes(&path)? {
                line += &format!(" {name}");
            }
            if with_times {
                line += &format!(" @{}.{:09}", found.mtime(), found.mtime_nsec());
            }
            lines.insert(line);
        }
    }
    Ok(lines.into_iter().collect())
}

fn attributes(path: &Path) -> Result<Vec<String>> {
    let (parent, name) =
        (path.parent().context("a path has a parent")?, path.file_name().context("and a name")?);
    let directory =
        std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(parent)?;
    let name = std::ffi::CString::new(name.as_bytes())?;
    let found = berth_sys::path::xattrs_at(directory.as_fd(), &name)?;
    let shown = |(name, value): &(std::ffi::CString, Vec<u8>)| {
        format!("{}={}", name.to_string_lossy(), value.escape_ascii())
    };
    let mut all: Vec<_> = found.iter().map(shown).collect();
    // A host's own labels are not the image's.
    all.retain(|attribute| !attribute.starts_with("security.selinux"));
    all.sort();
    Ok(all)
}

/// Files of the host that a layer may want to reach: a directory of the lane's own with one of each kind, and some that every
/// machine has.
pub(super) struct Outside {
    directory: std::path::PathBuf,
    before: Vec<String>,
}

const MACHINE: [&str; 5] = ["/etc/passwd", "/etc/hostname", "/etc", "/dev/null", "/"];

impl Outside {
    pub(super) fn new(directory: std::path::PathBuf) -> Result<Self> {
        std::fs::create_dir_all(directory.join("sub/empty"))?;
        std::fs::write(directory.join("secret"), "outside")?;
        std::fs::write(directory.join("sub/victim"), "outside")?;
        std::os::unix::fs::symlink("secret", directory.join("link"))?;
        let mut outside = Self { directory, before: Vec::new() };
        outside.before = outside.look()?;
        Ok(outside)
    }

    fn look(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut add = |path: &Path| -> Result<()> {
            let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
            lines.push(format!(
                "{} {:o} {}:{} {} links, {} bytes, {}.{}",
                path.display(),
                found.mode(),
                found.uid(),
                found.gid(),
                // A directory's links are its subdirectories, which on the machine's own come and go.
                if found.is_dir() { 0 } else { found.nlink() },
                if found.is_dir() { 0 } else { found.size() },
                if found.is_file() { found.mtime() } else { 0 },
                if found.is_file() { found.mtime_nsec() } else { 0 },
            ));
            Ok(())
        };
        add(&self.directory)?;
        for name in ["secret", "sub", "sub/victim", "sub/empty", "link"] {
            add(&self.directory.join(name))?;
        }
        for path in MACHINE {
            add(path.as_ref())?;
        }
        lines.extend(list(&self.directory)?);
        Ok(lines)
    }

    /// What is not as it was.
    pub(super) fn changed(&self) -> Result<Vec<String>> {
        let now = self.look()?;
        let mut changed: Vec<_> = now.iter().filter(|line| !self.before.contains(line)).cloned().collect();
        changed
            .extend(self.before.iter().filter(|line| !now.contains(line)).map(|line| format!("was: {line}")));
        Ok(changed)
    }
}
