//! Directories, the boot id, and where the shim is.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::DaemonError;

/// Makes `path` with its parents, or takes it when it is root's and nobody else may write to it. Ends at mode 0700.
pub(super) fn make_directory(path: &Path) -> Result<(), DaemonError> {
    let fail = |source| DaemonError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
    // Without following a link in the last place: whoever made it could point it elsewhere later.
    let found = std::fs::symlink_metadata(path).map_err(fail)?;
    let problem = match () {
        () if !found.is_dir() => Some("is a link or no directory".to_owned()),
        () if found.uid() != nix::unistd::geteuid().as_raw() => {
            Some(format!("belongs to uid {}", found.uid()))
        }
        () if found.mode() & 0o022 != 0 => {
            Some(format!("may be written by others (mode {:o})", found.mode() & 0o7777))
        }
        () => None,
    };
    match problem {
        Some(problem) => Err(DaemonError::UnsafeDirectory { path: path.to_owned(), problem }),
        None => std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(fail),
    }
}

/// Names the machine's boot (random(4)): another one means that every process of before is gone.
pub(crate) fn boot_id() -> Result<String, DaemonError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH);
    text.map(|id| id.trim().to_owned()).map_err(|source| DaemonError::Read { path: PATH.into(), source })
}

/// The configured shim, else the one beside this program, else in `../libexec/berth`.
pub(crate) fn find_shim(configured: Option<&Path>) -> Result<PathBuf, DaemonError> {
    const PROGRAM: &str = "/proc/self/exe";
    let own =
        || std::fs::read_link(PROGRAM).map_err(|source| DaemonError::Read { path: PROGRAM.into(), source });
    let places = match configured {
        Some(path) => vec![path.to_owned()],
        None => places_near(&own()?),
    };
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => {
            let looked =
                places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" and ");
            Err(DaemonError::NoShim { looked })
        }
    }
}

fn places_near(program: &Path) -> Vec<PathBuf> {
    let directory = program.parent().unwrap_or(Path::new("/"));
    let mut places = vec![directory.join("berth-shim")];
    places.extend(directory.parent().map(|above| above.join("libexec/berth/berth-shim")));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_end_private_and_foreign_ones_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let made = base.path().join("a/b");
        make_directory(&made).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o700);
        make_directory(&made).unwrap();
        std::fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        make_directory(&made).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o700, "narrowed");
        std::fs::set_permissions(&made, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(make_directory(&made), Err(DaemonError::UnsafeDirectory { .. })));
        std::os::unix::fs::symlink(&made, base.path().join("link")).unwrap();
        assert!(make_directory(&base.path().join("link")).is_err());
    }

    #[test]
    fn the_shim_is_looked_for_near_the_program() {
        assert_eq!(
            places_near(Path::new("/usr/bin/berth")),
            [Path::new("/usr/bin/berth-shim"), Path::new("/usr/libexec/berth/berth-shim")]
        );
        let missing = find_shim(Some(Path::new("/nowhere/berth-shim"))).unwrap_err();
        assert_eq!(missing.to_string(), "berth-shim is not there; looked at /nowhere/berth-shim");
        assert!(find_shim(Some(Path::new("/proc/self/exe"))).is_ok());
    }

    #[test]
    fn the_boot_id_is_a_uuid() {
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
