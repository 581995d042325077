use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::CgroupError;
use crate::v1::write;

/// Values longer than this are no limits.
const OLD_MAX: usize = 64 * 1024;

/// Writes to the files of one cgroup, with what they held before.
pub(crate) struct Writes {
    before: Option<Vec<(PathBuf, String)>>,
}

impl Writes {
    /// For a cgroup that goes again when a write fails.
    pub(crate) fn new() -> Self {
        Self { before: None }
    }

    /// For one that lives: [`Writes::undo`] gives the old values back.
    pub(crate) fn remembering() -> Self {
        Self { before: Some(Vec::new()) }
    }

    pub(crate) fn write(&mut self, path: &Path, value: &str) -> Result<(), CgroupError> {
        let Some(before) = &mut self.before else { return write(path, value) };
        let old = std::fs::read_to_string(path).map_err(CgroupError::file("read", path))?;
        write(path, value)?;
        if old.len() <= OLD_MAX {
            before.push((path.to_owned(), old.trim_end().to_owned()));
        }
        Ok(())
    }

    /// Backwards, so that values which bound each other fit at every step. Gives the error to report.
    pub(crate) fn undo(self, cause: CgroupError) -> CgroupError {
        let mut report = cause;
        for (path, value) in self.before.unwrap_or_default().into_iter().rev() {
            if write(&path, &value).is_err() {
                let file = path.display().to_string();
                report = CgroupError::Stuck { file, value, source: Box::new(report) };
            }
        }
        report
    }
}

/// Makes a cgroup that others may look into, whatever the daemon's umask: root of a pod's user namespace is nobody out here, and
/// older kernels (6.1 is one) let it mount its cgroup only where it could walk to it.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    std::fs::create_dir(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
}
